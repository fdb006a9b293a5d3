"""Data of fine-tuning: tasks, splits, scaling of the targets, features of the inputs."""
