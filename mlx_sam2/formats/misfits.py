"""Files that are no weights, named for what they are: what a download or a clone often leaves in their place."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .torch_pickle import TorchFileError

_HEAD = 512  # bytes that tell

_FETCH = "download or copy it again"
_OTHER_FORMAT = "this needs the PyTorch or safetensors file that it was made from"
# (what begins a file, what it is and what to do), in the order of looking
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*<\?xml|\s*<Error>", "is an XML text, as servers send instead of a file that they refuse: download it again"),
    (
        rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body)",
        "is an HTML page, not a checkpoint: its address leads to a page about the file, or asks for a login; "
        "use the link that downloads the file itself",
    ),
    (rb"\s*\{\s*\"error", "is the answer of a server that refused the download (a JSON text): download it again"),
    (rb"GGUF", f"is a GGUF file: {_OTHER_FORMAT}"),
    (rb"....TFL3", f"is a TensorFlow Lite file: {_OTHER_FORMAT}"),
    (rb"\x89HDF", f"is an HDF5 file: {_OTHER_FORMAT}"),
    (rb"\x1f\x8b", "is compressed (gzip): unpack it first"),
    (rb"7z\xbc\xaf|Rar!", "is a packed archive: unpack it first"),
)


def refuse(path: Path) -> None:
    """Refuse a file that is recognisably something else than weights.

    Raises:
        TorchFileError: one line that says what it is.
        OSError: it cannot be read.
    """
    said = _named(path)
    if said:
        raise TorchFileError(f"{path} {said}")


def _named(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
        size = os.fstat(file.fileno()).st_size
    if not head:
        return f"is empty: {_FETCH}"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        length = re.search(rb"^size (\d{1,15})$", head, re.MULTILINE)
        of = f" of {int(length[1]):,} bytes" if length else ""
        return (
            f"is a Git LFS pointer to the weights{of}, not the weights: run git lfs pull in its repository, or "
            "download the file itself"
        )
    for beginning, said in _BEGINNINGS:
        if re.match(beginning, head, re.IGNORECASE | re.DOTALL):
            return said
    if not any(head):
        return f"holds zeros where its contents should begin ({size:,} bytes): {_FETCH}"
    if path.suffix.lower() == ".onnx":
        return f"is an ONNX file: {_OTHER_FORMAT}"
    return None
