"""The DAVIS 2017 data set: its files, and the measures J and F.

Layout and protocol are those of the semi-supervised challenge (Pont-Tuset et al. 2017, the `davis2017-evaluation`
tool): the masks of the first frame are given, all frames between the first and the last are scored. J and F are
defined by Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, hypot
from pathlib import Path

import numpy as np

from ..frames.source import VideoError
from .pictures import VOID, is_binary, read_indexed, split_objects

BOUNDARY_TOLERANCE = 0.008  # of the picture's diagonal
RESOLUTIONS = ("480p", "Full-Resolution", "")  # folders between JPEGImages and the sequences; "" is none
LISTS = ("ImageSets/2017/val.txt", "ImageSets/2016/val.txt")


# ---- layout


@dataclass(frozen=True)
class DavisSequence:
    """One video of the data set: a folder of frames and one of masks with the same names."""

    name: str
    frames: Path
    annotations: Path


def find_sequences(root: Path, chosen: Sequence[str] = ()) -> list[DavisSequence]:
    """The sequences of a data set: those chosen, else those of its val.txt, else all that have annotations.

    Raises:
        VideoError: there is no such data set, or it lacks a sequence.
    """
    found = [r for r in RESOLUTIONS if (root / "JPEGImages" / r).is_dir() and (root / "Annotations" / r).is_dir()]
    if not found:
        raise VideoError(
            f"{root} is no DAVIS data set: it needs JPEGImages/480p/SEQUENCE/*.jpg and Annotations/480p/SEQUENCE/*.png"
        )
    frames, annotations = root / "JPEGImages" / found[0], root / "Annotations" / found[0]
    names = list(dict.fromkeys(chosen)) or _listed(root) or sorted(p.name for p in annotations.iterdir() if p.is_dir())
    for name in names:
        for folder in (frames / name, annotations / name):
            if not folder.is_dir():
                raise VideoError(f"sequence {name!r} is not in {root}: there is no folder {folder}")
    if not names:
        raise VideoError(f"{root} holds no sequence with annotations")
    return [DavisSequence(name, frames / name, annotations / name) for name in names]


def _listed(root: Path) -> list[str]:
    for name in LISTS:
        if (root / name).is_file():
            return (root / name).read_text().split()
    return []


# ---- measures


def region_similarity(result: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None) -> float:
    """J: intersection over union of two bool masks (H, W); 1 where both are empty. `void` pixels do not count."""
    if void is not None:
        result, truth = result & ~void, truth & ~void
    union = np.count_nonzero(result | truth)
    return np.count_nonzero(result & truth) / union if union else 1.0


def boundary_accuracy(result: np.ndarray, truth: np.ndarray, void: np.ndarray | None = None) -> float:
    """F: the harmonic mean of precision and recall of the boundary of a bool mask (H, W).

    A boundary pixel is right if the other boundary comes within a disc of 0.008 of the diagonal, rounded up.
    """
    if void is not None:
        result, truth = result & ~void, truth & ~void
    radius = ceil(BOUNDARY_TOLERANCE * hypot(*truth.shape))
    found, wanted = boundary(result), boundary(truth)
    num_found, num_wanted = np.count_nonzero(found), np.count_nonzero(wanted)
    if num_found == 0 or num_wanted == 0:
        return float(num_found == num_wanted)
    precision = np.count_nonzero(found & dilate(wanted, radius)) / num_found
    recall = np.count_nonzero(wanted & dilate(found, radius)) / num_wanted
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W) that differ from the next one to the right, below or diagonally below: the `seg2bmap` of DAVIS."""
    ahead = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ ahead[:-1, 1:]) | (mask ^ ahead[1:, :-1]) | (mask ^ ahead[1:, 1:])


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """The pixels (H, W) within `radius` of one in `mask`; meant for thin masks, as a boundary is."""
    height, width = mask.shape
    out = np.zeros((height + 2 * radius, width + 2 * radius), bool)
    y, x = np.nonzero(mask)
    steps = np.arange(-radius, radius + 1)
    dy, dx = np.nonzero(steps[:, None] ** 2 + steps**2 <= radius**2)  # from the upper left corner of the disc
    for down, right in zip(dy, dx, strict=True):
        out[y + down, x + right] = True
    return out[radius : radius + height, radius : radius + width]


@dataclass(frozen=True)
class SequenceScore:
    """J and F of each object of a sequence, means over its frames."""

    j: dict[int, float]
    f: dict[int, float]


def mean_scores(scores: Iterable[SequenceScore]) -> tuple[float, float, float]:
    """J, F and J&F over all objects of all sequences, each object counting the same."""
    scores = list(scores)
    j = float(np.mean([value for score in scores for value in score.j.values()]))
    f = float(np.mean([value for score in scores for value in score.f.values()]))
    return j, f, (j + f) / 2


def score_sequence(results: Path, annotations: Path, frame_names: Sequence[str]) -> SequenceScore | None:
    """Compare a folder of results with the annotations, both `<frame name>.png`.

    Objects are those of the first annotation; the first and the last frame are not scored.

    Returns:
        None where an annotation is missing (as in test-dev), or there is no object or no frame to score.

    Raises:
        VideoError: a picture is missing from the results, cannot be read, or has another size.
    """
    names = frame_names[1:-1]
    if not names or not all((annotations / f"{name}.png").is_file() for name in [frame_names[0], *names]):
        return None
    first = read_indexed(annotations / f"{frame_names[0]}.png")
    binary = is_binary(first)
    objects = list(split_objects(first))
    if not objects:
        return None
    j = np.zeros((len(names), len(objects)))
    f = np.zeros_like(j)
    for t, name in enumerate(names):
        found, truth = (read_indexed(folder / f"{name}.png") for folder in (results, annotations))
        if found.shape != truth.shape:
            sizes = " and ".join(f"{a.shape[1]}x{a.shape[0]}" for a in (found, truth))
            raise VideoError(f"{results / name}.png and {annotations / name}.png have different sizes, {sizes}")
        void = None if binary else truth == VOID
        for k, obj_id in enumerate(objects):
            pair = found == obj_id, truth == (VOID if binary else obj_id)
            j[t, k], f[t, k] = region_similarity(*pair, void), boundary_accuracy(*pair, void)
    return SequenceScore(
        dict(zip(objects, j.mean(axis=0).tolist(), strict=True)),
        dict(zip(objects, f.mean(axis=0).tolist(), strict=True)),
    )
