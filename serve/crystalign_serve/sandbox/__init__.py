"""Files of strangers, read in processes that are thrown away: memory and time are limited, a crash harms nobody."""
