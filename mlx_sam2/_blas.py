"""Linux: let MLX multiply matrices with the machine's OpenBLAS or MKL.

The CPU build of MLX is linked to the reference BLAS, many times slower than either. A library that is in
the process before `libmlx.so` is loaded can take its place. RTLD_GLOBAL or LD_PRELOAD would do that, but
for everybody: numpy's own OpenBLAS then runs kernels of another version, and PyTorch's complex dot products
come out as zero. So the substitute is put in front of MLX alone: `libmlx.so` is loaded as a dependency of an
empty shared object that depends on the BLAS first, and the dynamic linker searches in that order.

It happens when `mlx.core` is about to be imported, not before: importing mlx_sam2 stays cheap.
`MLX_SAM2_BLAS=0` turns it off, `MLX_SAM2_BLAS=/path/to/lib.so` names the library. macOS has Accelerate and
needs none of this.
"""

from __future__ import annotations

import ctypes
import os
import site
import struct
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

VARIABLE = "MLX_SAM2_BLAS"
OPENBLAS = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblaso.so.0")  # Debian, conda; Fedora
MKL = ("libmkl_rt.so.3", "libmkl_rt.so.2", "libmkl_rt.so")
ADVICE = (
    "mlx_sam2: no OpenBLAS or MKL found, so MLX multiplies matrices many times slower than this machine can. "
    f"Install one (Debian, Ubuntu: apt install libopenblas0-pthread; x86-64: pip install mkl), "
    f"or set {VARIABLE}=0."
)
TOO_LATE = (
    "mlx_sam2: mlx was imported before mlx_sam2, so it keeps its slow reference BLAS. "
    f"Import mlx_sam2 first, or set {VARIABLE}=0."
)


@cache
def prefer_system_blas() -> None:
    """Arrange for a system BLAS to be loaded together with MLX. Linux only, once a process, never raises."""
    if not sys.platform.startswith("linux") or os.environ.get(VARIABLE) == "0":
        return
    if "mlx.core" not in sys.modules:
        sys.meta_path.insert(0, _BeforeMlx())
    elif not has_blas(None):
        _warn(TOO_LATE)


class _BeforeMlx:
    """An import hook that finds nothing: when `mlx.core` is asked for, it loads the BLAS and steps aside."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        if fullname == "mlx.core":
            sys.meta_path.remove(self)
            load_with_blas(Path(folder, "lib", "libmlx.so") for folder in path or ())


def load_with_blas(libmlx_paths: Iterable[Path]) -> str | None:
    """Load the first existing `libmlx.so` behind a system BLAS; returns that BLAS, or None with one log line.

    Does nothing and returns None if the process has a global BLAS already (LD_PRELOAD), or if MLX has no library
    of that name.
    """
    libmlx = next(filter(Path.is_file, libmlx_paths), None)
    if libmlx is None or has_blas(None):
        return None
    _keep_idle_threads_quiet()
    for blas in candidates():
        if not has_blas(blas):
            continue
        try:
            _load_in_order([blas, str(libmlx)])
        except OSError as error:
            _warn("mlx_sam2: MLX keeps its slow BLAS, for it can't be loaded behind %s: %s", blas, error)
            return None
        return blas
    if asked := os.environ.get(VARIABLE):
        _warn("mlx_sam2: MLX keeps its slow BLAS, for %s=%s offers no cblas_sgemm.", VARIABLE, asked)
    else:
        _warn(ADVICE)
    return None


def candidates() -> list[str]:
    """List the names and paths to try: the one asked for, or those of the linker, this environment and the user."""
    if asked := os.environ.get(VARIABLE):
        return [asked]
    folders = dict.fromkeys([f"{sys.prefix}/lib", f"{site.getuserbase()}/lib"])
    paths = [f"{folder}/{name}" for folder in folders for name in OPENBLAS + MKL]
    found = [path for path in paths if os.path.exists(path)]
    return [*OPENBLAS, *found, *MKL]


def has_blas(library: str | None) -> bool:
    """Say whether a library, or the process's global scope (None), can be loaded and has `cblas_sgemm`."""
    try:
        return hasattr(ctypes.CDLL(library), "cblas_sgemm")  # RTLD_LOCAL: nobody else's symbols change
    except OSError:
        return False


def _warn(message: str, *values: object) -> None:
    import logging  # late: every import of the package runs this module, and rarely needs it

    logging.getLogger("mlx_sam2").warning(message, *values)


def _keep_idle_threads_quiet() -> None:
    """Let OpenBLAS's threads wait for less than a millisecond (2**18 cycles) after each product.

    By default they spin for some 25 ms, which takes every core between small products. Measured: half the processor
    time for the same or better wall time.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "18")


def _load_in_order(libraries: Sequence[str]) -> None:
    """Load shared libraries so that the first to define a symbol serves the later ones, and only them."""
    import tempfile

    with open(libraries[-1], "rb") as file:
        header = file.read(64)
    with tempfile.TemporaryDirectory(prefix="mlx-sam2-") as folder:
        stub = Path(folder, "libmlx_sam2_order.so")
        stub.write_bytes(_empty_library(libraries, header))
        ctypes.CDLL(str(stub), mode=ctypes.RTLD_LOCAL)


def _empty_library(needed: Sequence[str], like: bytes) -> bytes:
    """Make a 64-bit ELF shared object with dependencies and nothing else, for the machine of the header `like`.

    One page-aligned segment holds everything: header, program headers, dynamic section, strings.
    """
    if like[:6] != b"\x7fELF\x02\x01":
        raise OSError("not a 64-bit little-endian ELF file")
    strings, names = b"\0", []
    for name in needed:
        names.append(len(strings))
        strings += os.fsencode(name) + b"\0"
    tags = [(1, name) for name in names]  # DT_NEEDED
    dynamic_at = 64 + 3 * 56
    strings_at = dynamic_at + 16 * (len(tags) + 5)
    symbols_at = strings_at + len(strings) + (-len(strings) % 8)
    # DT_STRTAB, DT_STRSZ, DT_SYMTAB, DT_SYMENT, DT_NULL
    tags += [(5, strings_at), (10, len(strings)), (6, symbols_at), (11, 24), (0, 0)]
    size = symbols_at + 24  # the one, empty, symbol that every table starts with

    machine = struct.unpack_from("<H", like, 18)[0]
    flags = struct.unpack_from("<I", like, 48)[0]
    header = like[:16] + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, flags, 64, 56, 3, 64, 0, 0)
    read_write, page = 6, 0x10000
    segments = struct.pack("<IIQQQQQQ", 1, read_write, 0, 0, 0, size, size, page)  # PT_LOAD
    length = 16 * len(tags)
    segments += struct.pack("<IIQQQQQQ", 2, read_write, dynamic_at, dynamic_at, dynamic_at, length, length, 8)
    segments += struct.pack("<IIQQQQQQ", 0x6474E551, read_write, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK, no exec
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in tags)
    return (header + segments + dynamic + strings).ljust(size, b"\0")
