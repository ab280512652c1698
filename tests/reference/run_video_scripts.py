"""Random scripts of prompts and propagation through the official video code and through ours.

    python tests/reference/run_video_scripts.py --scripts 100 --seed 1    as many as you like, with other seeds

Most scripts run with memories in float32 on both sides, where everything agrees to 1e-3 and a mistake in the method
shows; the others with the official rounding to bfloat16. A script may come so close to a threshold (an object score
near 0, a stability near 0.98, two masks of the same predicted IoU, a hole of 8 pixels) that rounding decides it: then
the official code, too, answers otherwise when its frames change by a millionth. Such a script ends there.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(tests.parent), str(tests / "support")]

import mlx_sam2  # noqa: F401  before MLX: mlx_sam2/_blas.py
from official_video import (
    EXACT,
    ROUNDED,
    Comparison,
    Mismatch,
    OfficialRun,
    OurRun,
    float32_memories,
    video_pair,
    write_scene,
)
from video_scripts import Script, random_script

JITTER = 3e-6  # of the normalised frames; features of the two sides differ by 7e-6


def check(script: Script, folder: Path, memory: str = "disk") -> tuple[str, Comparison]:
    """Run a script on both sides. Returns why it ended and what was compared.

    Raises:
        Mismatch: where the two sides differ and the official code is not undecided itself.
    """
    if not folder.exists():
        write_scene(folder, *script.video, seed=script.seed)
    comparison = Comparison(ROUNDED if script.rounded else EXACT)
    with contextlib.nullcontext() if script.rounded else float32_memories():
        official, ours = video_pair(*script.model, **script.options)

        def again() -> Any:
            return video_pair(*script.model, **script.options)[0]

        ours_run = OurRun(ours, folder, memory if script.rounded else "ram")
        try:
            return comparison.run(OfficialRun(official, folder), ours_run, script.ops), comparison
        except Mismatch as mismatch:
            for k in range(1, 9):
                try:
                    pair = OfficialRun(official, folder), OfficialRun(again(), folder, k * JITTER)
                    Comparison(comparison.tolerance).run(*pair, script.ops)
                except Mismatch as own:
                    if own.step <= mismatch.step:
                        return f"undecided ({mismatch}; official alone: {own})", comparison
            raise
        finally:
            ours_run.state.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first script; the others count on from it")
    parser.add_argument("--minutes", type=float, default=1e9)
    args = parser.parse_args(argv)
    ends: Counter[str] = Counter()
    worst: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    records, start = 0, time.monotonic()
    for seed in range(args.seed, args.seed + args.scripts):
        if time.monotonic() - start > 60 * args.minutes:
            break
        script = random_script(seed)
        with tempfile.TemporaryDirectory() as folder:
            try:
                end, comparison = check(script, Path(folder) / "video")
            except Mismatch as mismatch:
                print(f"MISMATCH {mismatch}\n{script.show()}", flush=True)
                ends["mismatch"] += 1
                continue
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                print(f"CRASH {error!r}\n{script.show()}", flush=True)
                ends["crash"] += 1
                continue
        if end.startswith("undecided"):
            print(f"seed {seed} {end}", flush=True)
        ends[end.split(" (")[0]] += 1
        records += comparison.records
        for kind, value in comparison.worst.items():
            worst[script.rounded][kind] = max(worst[script.rounded][kind], value)
    print(dict(ends), f"{records} results of frames compared, {time.monotonic() - start:.0f} s")
    print("worst, float32 memories:", dict(worst[False]))
    print("worst, bfloat16 memories:", dict(worst[True]))
    return int(bool(ends["mismatch"] or ends["crash"]))


if __name__ == "__main__":
    raise SystemExit(main())
