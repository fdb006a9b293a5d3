"""A fine-tuning trial: settings, plan, fit and output files; and ensembles of trials."""
