"""Fine-tuning SAM 2 (official ``training/``): losses, prompts, presets, and the loop."""
