from .sam2_image_predictor import SAM2ImagePredictor as SAM2ImagePredictor  # the earlier name of that file
