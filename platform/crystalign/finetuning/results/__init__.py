"""What predictions are worth: errors beside baselines, comparisons of methods, matbench's records."""
