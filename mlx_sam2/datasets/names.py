"""The names of the formats, for the options of commands, which load nothing else."""

from __future__ import annotations

WRITTEN = ("coco", "coco-video", "lvis", "yolo", "voc", "davis", "sav", "label-studio", "cvat")
READ = (*WRITTEN, "ytvos", "mose", "lvos", "folder")
