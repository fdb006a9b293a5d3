"""Fine-tuning for property prediction: tasks, splits, fusion of modalities, fits, trials, intervals."""
