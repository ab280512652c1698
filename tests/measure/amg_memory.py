"""Masks of everything in a large photo: print peak memory and the largest blocks there were, as one JSON line.

python tests/measure/amg_memory.py --width 6000 --height 4000 --points 64      (nano weights; Linux)

The run happens in a process of its own; with a C compiler at hand, under a malloc that notes the largest blocks.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Weights whose masks are small and many, as those of the goldens, and thresholds that let most of them pass.
MASK_BIASES = [f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.bias" for i in range(4)]
THRESHOLDS = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.4, "stability_score_offset": 0.3}

NOTE_BLOCKS = r"""
#include <stdio.h>
#include <stdlib.h>
#define KEPT 6
static size_t largest[KEPT];  // different sizes, descending
static void note(size_t size) {
  for (int i = 0; i < KEPT; i++) {
    if (size == largest[i]) return;
    if (size > largest[i]) {
      for (int j = KEPT - 1; j > i; j--) largest[j] = largest[j - 1];
      largest[i] = size;
      return;
    }
  }
}
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void *malloc(size_t n) { note(n); return __libc_malloc(n); }
void *calloc(size_t k, size_t n) { note(k * n); return __libc_calloc(k, n); }
void *realloc(void *p, size_t n) { note(n); return __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { note(n); return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) { note(n); *p = __libc_memalign(a, n); return *p ? 0 : 12; }
__attribute__((destructor)) static void tell(void) {
  char *to = getenv("BLOCKS_FILE");
  FILE *f = to ? fopen(to, "w") : 0;
  if (!f) return;
  for (int i = 0; i < KEPT; i++) fprintf(f, "%zu\n", largest[i]);
  fclose(f);
}
"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=6000)
    parser.add_argument("--height", type=int, default=4000)
    parser.add_argument("--points", type=int, default=64, help="points a side")
    parser.add_argument("--crops", type=int, default=0, help="crop layers")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def run(args: argparse.Namespace) -> None:
    import synthetic
    from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    biases = {name: {"mul": 1.0, "add": -2.6} for name in MASK_BIASES}
    model = synthetic.nano_model(5, {**synthetic.NANO_OVERRIDES, **biases})
    photo = synthetic.picture(args.height // 10, args.width // 10).repeat(10, 0).repeat(10, 1)
    generator = SAM2AutomaticMaskGenerator(
        model, args.points, crop_n_layers=args.crops, output_mode="coco_rle", box_nms_thresh=0.99, **THRESHOLDS
    )
    before, start = peak_mb(), time.perf_counter()
    records = generator.generate(photo)
    print(
        json.dumps(
            {
                "photo": f"{photo.shape[1]}x{photo.shape[0]}",
                "points_per_side": args.points,
                "crop_n_layers": args.crops,
                "masks": len(records),
                "seconds": round(time.perf_counter() - start, 1),
                "peak_mb_before": before,
                "peak_mb": peak_mb(),
            }
        )
    )


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.inner:
        run(args)
        return
    compiler = shutil.which("cc") or shutil.which("gcc")
    with tempfile.TemporaryDirectory() as folder:
        blocks, library = Path(folder) / "blocks", Path(folder) / "note.so"
        environment = dict(os.environ)
        if compiler:
            source = Path(folder) / "note.c"
            source.write_text(NOTE_BLOCKS)
            subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
            environment |= {"LD_PRELOAD": str(library), "BLOCKS_FILE": str(blocks)}
        command = [sys.executable, __file__, "--inner", *(sys.argv[1:] if argv is None else argv)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout)
        if blocks.exists():
            result["largest_blocks_mb"] = [round(int(n) / 2**20, 1) for n in blocks.read_text().split()]
    result["photo_mb"] = round(args.width * args.height * 3 / 2**20, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
