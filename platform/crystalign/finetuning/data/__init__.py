"""What is predicted of which materials: tasks, splits, scales of the targets, features of the inputs."""
