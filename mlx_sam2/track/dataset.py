"""``track --format``: the masks of a video as a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli import UsageError
from ..datasets.items import CLASS, DatasetError
from ..datasets.options import report_lost
from ..datasets.sink import DatasetSink
from ..frames.source import FolderSource
from .options import PROG

if TYPE_CHECKING:
    from ..frames.source import FrameSource


class _ReportingSink(DatasetSink):
    """Says at its end what the format cannot hold."""

    def close(self) -> None:
        try:
            super().close()
        except DatasetError as error:
            raise UsageError(str(error)) from None
        report_lost(PROG, self.format_name, self.lost)


def open_dataset_sink(args: argparse.Namespace, source: FrameSource) -> DatasetSink:
    """The sink of ``--format``. Frames that are files are copied as they are.

    Raises:
        UsageError: the output exists or cannot be there.
    """
    path = Path(args.video)
    is_folder = isinstance(source, FolderSource)
    try:
        return _ReportingSink(
            args.output[0],
            args.format,
            args.overwrite,
            name=(path.name if is_folder else path.stem) or "video",
            classes={obj: name for obj, name in args.classes if obj is not None},
            others=next((name for obj, name in reversed(args.classes) if obj is None), CLASS),
            frame_name=source.frame_name,
            frame_path=source.paths.__getitem__ if is_folder else None,
        )
    except DatasetError as error:
        raise UsageError(str(error)) from None
