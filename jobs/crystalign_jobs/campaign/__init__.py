"""Fine-tuning campaigns: many trials through Ray Tune, one table."""
