"""A temporary file of records of one size, for what a session may need again but not soon."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref

import numpy as np

REMEDY = "set TMPDIR to a folder with room"


class SlotFile:
    """Records by slot number, in a temporary file without a name, in the folder that TMPDIR names.

    The system frees the file when the process ends, however it ends.

    Args:
        remedy: how errors end: what the user can do.

    Raises:
        OSError: no temporary file can be made.
    """

    def __init__(self, remedy: str = REMEDY) -> None:
        self._remedy = remedy
        try:
            self._file = tempfile.TemporaryFile(prefix="mlx_sam2-")  # noqa: SIM115  closed by the finalizer
        except OSError as error:
            raise OSError(error.errno, f"no temporary file can be made: {error.strerror}; {remedy}") from error
        self._end = weakref.finalize(self, self._file.close)  # users of the official API close nothing

    def write(self, slot: int, record: np.ndarray) -> None:
        """Write a record, a structured array of no axes. OSError, if the file cannot grow."""
        data = record.tobytes()
        try:
            if os.pwrite(self._file.fileno(), data, slot * len(data)) < len(data):  # the last bytes of a disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            place = f"the temporary file in {tempfile.gettempdir()}"
            raise OSError(error.errno, f"{place} cannot be written: {error.strerror}; {self._remedy}") from error

    def read(self, slot: int, layout: np.dtype) -> np.void:
        """Map a record. Pages of other records do not count as memory of the process."""
        return np.memmap(self._file, layout, "r", slot * layout.itemsize, shape=(1,))[0]

    def close(self) -> None:
        self._end()
