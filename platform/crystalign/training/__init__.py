"""The training loop, schedule, checkpoints and metrics: plain torch under any launcher."""
