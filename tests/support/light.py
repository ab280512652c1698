"""What a light start leaves out, and how a test sees that it does."""

from __future__ import annotations

# Heavy or optional packages, which a bare import of mlx_sam2 and a command's --help do without.
HEAVY = ["mlx", "numpy", "torch", "cv2", "av", "huggingface_hub", "pillow_heif"]
# Code for the start of a process: at its end it prints which of them were imported.
WATCH = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr))
"""
