"""What PyInstaller cannot see of MLX: its libraries, the Metal library beside them, modules its C++ side imports."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs, collect_submodules

binaries = collect_dynamic_libs("mlx")
datas = collect_data_files("mlx", includes=["**/*.metallib"])
hiddenimports = ["mlx._reprlib_fix", *collect_submodules("mlx")]
