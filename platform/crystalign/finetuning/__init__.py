"""From few labels to a property: tasks, splits, fusion of modalities, fits, trials, intervals."""
