"""Parts of a fine-tuned network: settings, fusion of modalities, heads."""
