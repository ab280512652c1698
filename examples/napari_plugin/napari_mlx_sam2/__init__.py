"""SAM 2 in napari."""
