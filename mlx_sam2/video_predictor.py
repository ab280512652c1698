from .sam2_video_predictor import SAM2VideoPredictor as SAM2VideoPredictor  # the earlier name of that file
