"""The formats that are written, and writing one: beside its place, then renamed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..files import beside
from .coco_writer import CocoVideoWriter, CocoWriter, LvisWriter
from .cvat_writer import CvatWriter
from .items import Dataset, DatasetError, Item
from .label_studio import LabelStudioWriter
from .names import WRITTEN
from .sequences_writer import DavisWriter, SavWriter
from .voc import VocWriter
from .writing import WriteOptions, Writer, used_classes
from .yolo import YoloWriter

WRITERS: dict[str, type[Writer]] = {
    "coco": CocoWriter,
    "coco-video": CocoVideoWriter,
    "lvis": LvisWriter,
    "yolo": YoloWriter,
    "voc": VocWriter,
    "davis": DavisWriter,
    "sav": SavWriter,
    "label-studio": LabelStudioWriter,
    "cvat": CvatWriter,
}


def check_output(path: str | Path, format_name: str, overwrite: bool = False) -> bool:
    """Refuse now what ``open_writer`` would refuse later. Returns whether the output is one file of annotations.

    Raises:
        DatasetError: there is no such format, the output exists, its folder does not, or its name is of another format.
    """
    path = Path(path)
    if format_name not in WRITERS:
        raise DatasetError(f"there is no format {format_name!r} to write: {', '.join(WRITTEN)}")
    kind = WRITERS[format_name]
    is_file = kind.takes_file and path.suffix.lower() == kind.suffix
    if path.suffix.lower() in (".json", ".xml", ".yaml", ".txt", ".jsonl", ".zip") and not is_file:
        needed = f"a folder, or a file that ends in {kind.suffix}" if kind.takes_file else "a folder"
        raise DatasetError(f"{path}: {format_name} is written as {needed}")
    if not path.absolute().parent.is_dir():
        raise DatasetError(f"{path} cannot be written: there is no folder {path.absolute().parent}")
    if path.exists() or path.is_symlink():
        if not overwrite:
            raise DatasetError(f"{path} exists: give another name, or --overwrite (overwrite=True) to replace it")
        if path.is_dir() == is_file:
            raise DatasetError(f"{path} is a {'folder' if is_file else 'file'}, and {format_name} would replace it")
    return is_file


@contextmanager
def open_writer(
    path: str | Path,
    format_name: str,
    *,
    classes: Sequence[str] = (),
    options: WriteOptions | None = None,
    overwrite: bool = False,
) -> Iterator[Writer]:
    """Write a data set item by item: ``writer.add(item)``. It appears under its name when the block ends without error.

    Args:
        path: a folder; or a file for annotations alone, of formats that are one file.
        format_name: one of ``WRITTEN``.
        classes: names whose numbers are fixed beforehand; others follow in the order in which they come.
        options: see ``WriteOptions``.
        overwrite: replace what is there.

    Yields:
        The writer; ``writer.lost`` counts what the format cannot hold.

    Raises:
        DatasetError: as ``check_output``, or an item is damaged.
        OSError: the disk is full or fails.
    """
    is_file = check_output(path, format_name, overwrite)
    with beside(Path(path), replace=overwrite) as part:
        if not is_file:
            part.mkdir()
        writer = WRITERS[format_name](part, is_file, options or WriteOptions(), classes)
        yield writer
        writer.finish()


def write_dataset(
    items: Dataset | Iterable[Item],
    path: str | Path,
    format_name: str,
    *,
    options: WriteOptions | None = None,
    overwrite: bool = False,
    progress: Callable[[], object] | None = None,
) -> Counter[str]:
    """Write all items; ``progress`` is called after each. Errors as ``open_writer``.

    Returns:
        What the format cannot hold -> how many times.
    """
    classes = used_classes(items) if isinstance(items, Dataset) else ()
    with open_writer(path, format_name, classes=classes, options=options, overwrite=overwrite) as writer:
        for item in items:
            writer.add(item)
            if progress is not None:
                progress()
    return writer.lost
