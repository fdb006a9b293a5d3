"""The training loop, schedule, checkpoints and metrics in plain PyTorch, for any launcher."""
