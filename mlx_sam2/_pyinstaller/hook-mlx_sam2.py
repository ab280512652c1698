"""What PyInstaller cannot see of mlx_sam2: modules that are imported by name, the demo model, the app's page."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

datas = [*collect_data_files("mlx_sam2"), *copy_metadata("mlx-sam2")]
hiddenimports = collect_submodules("mlx_sam2", filter=lambda name: "._pyinstaller" not in name)
# Packages that ours, or those it needs, would use if they were there: gigabytes that no program of ours runs.
excludedimports = ["torch", "torchvision", "transformers", "tensorflow", "jax", "matplotlib", "IPython", "gradio"]
