"""Files of tensors: PyTorch's and safetensors. Nothing of SAM 2."""
