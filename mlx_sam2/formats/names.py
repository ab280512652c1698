"""Names of the files that a model consists of, as the Hub, transformers and MLX have them."""

from __future__ import annotations

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # lists which of several files holds which tensor
CONFIG = "config.json"
UNFINISHED = ".unfinished"  # what weights are called beyond their name until all of the folder is there
TORCH_SUFFIXES = (".pt", ".pth", ".torch")
FILE_SUFFIXES = (*TORCH_SUFFIXES, ".bin", ".ckpt", ".safetensors", ".json", ".zip")  # of a path rather than a Hub id
