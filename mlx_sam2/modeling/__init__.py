"""The official package's place for the model: ``mlx_sam2.modeling.sam2_base`` is the door that scripts import."""
