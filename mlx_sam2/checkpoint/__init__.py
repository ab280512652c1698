"""From the files of a checkpoint to a model, and back."""
