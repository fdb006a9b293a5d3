"""The parts of a fine-tuned network: its settings, the fusion of modalities, the heads."""
