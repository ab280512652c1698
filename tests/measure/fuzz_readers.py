"""Throw damaged and lying files at the readers of checkpoints and data sets: each must be refused with one line.

    python tests/measure/fuzz_readers.py --minutes 60 --seed 1        # writes what it finds to fuzz_findings/
    python tests/measure/fuzz_readers.py --seed 1 --case 12345        # one case again

A case is a good file, mutated by a random stream that its number seeds. A child process reads it, so that a crash
ends the child only. A finding is whatever is neither a result nor the readers' own error with one short line: another
exception, a crash, over ``SECONDS`` of CPU, or over ``MEGABYTES`` of memory.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import ctypes
import math
import multiprocessing
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzz_datasets import dataset_seeds, mask_seeds, read_dataset, read_mask_picture, xml_seeds
from fuzz_files import (
    damage,
    damage_header,
    damage_json,
    damage_pickle,
    fresh_safetensors,
    fresh_torch,
    index_seeds,
    json_seeds,
    safetensors_seeds,
    torch_seeds,
)

SECONDS, MEGABYTES, LINE = 5, 256, 1500
KEPT = 5  # findings of one kind


# ---------------------------------------------------------------------------------------------- readers


def read_torch(path: Path) -> None:
    from mlx_sam2.formats import torch_file

    for ref in torch_file.read(path).values():
        assert ref.read().nbytes <= path.stat().st_size


def read_safetensors(path: Path) -> None:
    import mlx.core as mx

    from mlx_sam2.formats import safetensors_file

    tensors, _ = safetensors_file.read(path)
    for value in tensors.values():
        mx.eval(value)


def read_checkpoint(path: Path) -> None:
    import mlx.core as mx

    from mlx_sam2.checkpoint import reader as checkpoint_reader

    for weight in checkpoint_reader.read(path).weights.values():
        if weight.axes is None or len(weight.axes) == len(weight.shape):  # checkpoint.build compares all shapes first
            mx.eval(weight.read())


def read_config(path: Path) -> None:
    from mlx_sam2.checkpoint import reader as checkpoint_reader
    from mlx_sam2.config.sam2 import SAM2Config

    config = checkpoint_reader.read_config(path)
    assert SAM2Config.from_dict(config.to_dict()) == config


def load_folder(path: Path) -> None:
    """The configuration beside weights that it may or may not describe."""
    from safetensors.numpy import save_file

    from mlx_sam2.checkpoint import loading

    save_file({"image_encoder.x": np.ones((2, 3), np.float32)}, path.parent / "model.safetensors", {"format": "mlx"})
    try:
        loading.load(path.parent)
    finally:
        (path.parent / "model.safetensors").unlink()


def read_index(path: Path) -> None:
    from mlx_sam2.formats import safetensors_file

    for name in safetensors_file.read_index(path).values():
        assert "/" not in name and "\\" not in name and not name.startswith(".")


Target = tuple[str, Callable[[Path], list[bytes]], list[Callable[[bytes, random.Random], bytes]], list[Callable]]
TARGETS: list[Target] = [
    ("x.pt", torch_seeds, [damage, damage_pickle, damage_pickle, fresh_torch], [read_torch, read_checkpoint]),
    (
        "x.safetensors",
        safetensors_seeds,
        [damage, damage_header, fresh_safetensors],
        [read_safetensors, read_checkpoint],
    ),
    ("config.json", json_seeds, [damage, damage_json, damage_json, damage_json], [read_config] * 15 + [load_folder]),
    ("model.safetensors.index.json", index_seeds, [damage, damage_json], [read_index]),
    ("data.json", dataset_seeds, [damage, damage_json, damage_json, damage_json], [read_dataset]),
    ("data.xml", xml_seeds, [damage], [read_dataset]),
    ("mask.png", mask_seeds, [damage], [read_mask_picture]),
]
WEIGHTS_OF_TARGETS = [5, 4, 3, 1, 4, 2, 2]


def case(seed: int, number: int, seeds: list[list[bytes]]) -> tuple[int, bytes, Callable[[Path], None]]:
    """The target, the file and the reader of one case."""
    draw = random.Random(f"{seed}/{number}")
    target = draw.choices(range(len(TARGETS)), WEIGHTS_OF_TARGETS)[0]
    data = draw.choice(seeds[target])
    change = draw.choice(TARGETS[target][2])
    data = change(data, draw)
    if draw.random() < 0.15:
        data = damage(data, draw)
    return target, data, draw.choice(TARGETS[target][3])


def verdict(path: Path, reader: Callable[[Path], None]) -> str | None:
    """What is wrong with how a file was read; None: nothing."""
    from mlx_sam2.checkpoint.tensors import CheckpointError
    from mlx_sam2.config.parts import ConfigError
    from mlx_sam2.datasets import DatasetError
    from mlx_sam2.formats.safetensors_file import SafetensorsFileError
    from mlx_sam2.formats.torch_pickle import TorchFileError

    before = resource.getrusage(resource.RUSAGE_SELF)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        reader(path)
    except (CheckpointError, ConfigError, DatasetError, SafetensorsFileError, TorchFileError) as error:
        text = str(error)
        if "\n" in text or not text.isprintable() or len(text) > LINE:
            return f"a message of {len(text)} characters: {ascii(text)[:500]}"
    except BaseException:  # noqa: BLE001  whatever else comes is what we look for
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss) / 1024
    return f"{grown:.0f} MB more" if grown > MEGABYTES else None


# ---------------------------------------------------------------------------------------------- the run


def make_seeds(folder: Path) -> list[list[bytes]]:
    return [maker(folder) for _, maker, _, _ in TARGETS]


def work(seed: int, first: int, last: float, until: float, out: Path, at: Any) -> None:
    """Cases one after another; ``at`` tells the parent which one is in work."""

    def late(*_: object) -> None:
        raise TimeoutError(f"over {SECONDS} s of CPU")

    signal.signal(signal.SIGVTALRM, late)
    with tempfile.TemporaryDirectory() as name:
        folder, number, kinds = Path(name), first, Counter()
        seeds = make_seeds(folder)
        for path in [folder / target[0] for target in TARGETS]:  # imports and their memory come first
            path.write_bytes(b"{")
            for reader in (read_torch, read_checkpoint, read_safetensors, read_config, read_dataset, read_mask_picture):
                verdict(path, reader)
            path.unlink()
        while time.monotonic() < until and number < last:
            at.value = number
            target, data, reader = case(seed, number, seeds)
            path = folder / TARGETS[target][0]
            path.write_bytes(data)
            found = verdict(path, reader)
            if found and kinds[kind_of(found)] < KEPT:
                kinds[kind_of(found)] += 1
                keep(out, seed, number, path.name, data, f"{reader.__name__}\n{found}")
            path.unlink()
            number += 1
    at.value = -number


def kind_of(found: str) -> str:
    """Where an exception came from, and its class: the rest differs from case to case."""
    if found.startswith("a message"):
        return "a message"
    lines = [line for line in found.splitlines() if line.startswith("  File ")]
    return f"{lines[-1:]} {found.strip().splitlines()[-1].split(':')[0]}"


def keep(out: Path, seed: int, number: int, name: str, data: bytes, found: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{seed}-{number}-{name}").write_bytes(data)
    (out / f"{seed}-{number}.txt").write_text(f"{found}\n")
    print(f"case {number} of seed {seed}: {found.strip().splitlines()[-1][:200]}", flush=True)


def run(seed: int, minutes: float, out: Path, first: int = 0, cases: float = math.inf) -> int:
    """Fuzz for so many minutes, or so many cases; the number of the next case."""
    last = first + cases
    context = multiprocessing.get_context("fork")
    until, at = time.monotonic() + 60 * minutes, context.Value(ctypes.c_longlong, first)
    while True:
        child = context.Process(target=work, args=(seed, first, last, until, out, at))
        child.start()
        child.join()
        if at.value < 0 or time.monotonic() > until or at.value + 1 >= last:
            return abs(at.value)
        with tempfile.TemporaryDirectory() as name:
            target, data, _ = case(seed, at.value, make_seeds(Path(name)))
        keep(out, seed, at.value, TARGETS[target][0], data, f"the reader's process ended with {child.exitcode}")
        first = at.value + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=math.inf, help="stop after so many")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", metavar="FILE", help="one target: " + ", ".join(target[0] for target in TARGETS))
    parser.add_argument("--case", type=int, help="read this one case, and let its exception through")
    parser.add_argument("--out", type=Path, default=Path("fuzz_findings"))
    args = parser.parse_args()
    if args.only is not None:
        WEIGHTS_OF_TARGETS[:] = [target[0] == args.only for target in TARGETS]
    if args.case is not None:
        with tempfile.TemporaryDirectory() as name:
            target, data, reader = case(args.seed, args.case, make_seeds(Path(name)))
            path = Path(name) / TARGETS[target][0]
            path.write_bytes(data)
            print(f"{reader.__name__}: {len(data)} bytes: {data[:2000]!r}")
            reader(path)
        return 0
    started = time.process_time()
    done = run(args.seed, args.minutes, args.out, args.first, args.cases)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime + time.process_time() - started
    found = len(list(args.out.glob(f"{args.seed}-*.txt"))) if args.out.is_dir() else 0
    print(f"{done - args.first} cases in {cpu / 60:.1f} minutes of CPU, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
