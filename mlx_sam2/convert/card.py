"""Names of converted models, and the texts beside the weights: model card, licence and notice."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath

from .. import __version__
from ..checkpoint.folder import Source
from ..config.published import PUBLISHED
from ..files import beside
from ..formats.names import FILE_SUFFIXES, INDEX, WEIGHTS
from ..model.quantization import Scheme
from .layouts import ConversionError

CARD, LICENSE, NOTICE = "README.md", "LICENSE", "NOTICE"
SUFFIXES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

# The precision at the end of a name, in the spellings that are in use.
_PROMISE = re.compile(
    r"[-_. ](?:(?:(?:mx|nv)?fp|float|n?f)(?P<f>32|16|8|4)|(?P<b>bf16|bfloat16)|(?P<h>half)|(?:int|q)(?P<q>\d)"
    r"|(?P<n>\d\d?)[-_]?bits?)"
    r"(?P<mlx>[-_. ]mlx)?$",
    re.IGNORECASE,
)
_TRUE_OF_BITS = {"32bit": ("fp32",), "16bit": ("fp16", "bf16")}


def suffix_of(dtype: str, scheme: Scheme | None, recipe: str | None = None) -> str:
    """The end of a name that tells the precision: "fp16", "8bit", "mixed" and so on."""
    return recipe or (f"{scheme.bits}bit" if scheme else SUFFIXES[dtype])


def check_name(name: str, truth: str) -> None:
    """Refuse a name that promises another precision than the true one.

    Raises:
        ConversionError: one line.
    """
    match = _PROMISE.search(name)
    if match is None:
        return
    said = {"f": f"fp{match['f']}", "b": "bf16", "h": "fp16", "q": f"{match['q']}bit", "n": f"{match['n']}bit"}
    promise = next(said[group] for group in said if match[group])
    if truth not in _TRUE_OF_BITS.get(promise, (promise,)):
        better = f"{name[: match.start()]}-{truth}{match['mlx'] or ''}"
        raise ConversionError(f"the name {name} says {promise}, but the weights will be {truth}: name it {better}")


def base_name(repo_id: str | None, path: Path) -> str:
    """The name of a model without its precision, taken from its repository, or from its file or folder."""
    if repo_id is not None:
        name = repo_id.split("/")[-1]
    else:
        path = path.absolute()
        path = path.parent if path.name in (WEIGHTS, INDEX) else path
        name = path.name
        for ending in FILE_SUFFIXES:
            name = name.removesuffix(ending)
        if name in PUBLISHED:
            name = PUBLISHED[name].repo_id.split("/")[-1]
    match = _PROMISE.search(name)
    name = name[: match.start()] if match else name
    return re.sub(r"[^\w.-]+", "-", printable(name)).strip(".-") or "sam2"


def printable(text: str) -> str:
    """A name on one line of UTF-8; characters that cannot be printed become question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)


def card(
    name: str,
    *,
    address: str,
    source: Source,
    dtype: str,
    scheme: Scheme | None,
    schemes: Mapping[str, Scheme],
    unquantized: list[str],
    nbytes: int,
    video: bool = True,
) -> str:
    """The model card: front matter that the Hub reads, then how to use the model and where it comes from.

    Args:
        name: of the model, as its heading.
        address: what ``from_pretrained`` takes.
        source: where the weights come from.
        dtype, scheme, schemes, unquantized: the precision, as ``folder.config_json`` takes it.
        nbytes: of all weights.
        video: whether the half for video is there.
    """
    front = ["library_name: mlx", "pipeline_tag: mask-generation", "license: apache-2.0"]
    if source.base_model:
        front.append(f"base_model: {source.base_model}")
        front += ["base_model_relation: quantized"] if scheme else []
    front += ["tags:", *(f"- {tag}" for tag in ("mlx", "sam2", "segment-anything", "mlx-sam2"))]
    origin = f"[{source.name}](https://huggingface.co/{source.name})" if source.revision else f"`{source.name}`"
    at = f" at revision `{source.revision}`" if source.revision else ""
    address = printable(address)
    return _CARD.format(
        front="\n".join(front),
        name=name,
        quoted=json.dumps(address, ensure_ascii=False),
        commands=_commands(shlex.quote(address), video),
        origin=origin,
        at=at,
        version=__version__,
        precision=precision(dtype, scheme, schemes, unquantized),
        megabytes=f"{nbytes / 1e6:.1f}",
        sha256=source.sha256,
    )


def _commands(word: str, video: bool) -> str:
    segment = f"    python -m mlx_sam2.segment photo.jpg --point 320,240 --model {word}"
    if not video:
        return f"On the command line (for photos; the half for video is not in these weights):\n\n{segment}"
    track = f"    python -m mlx_sam2.track video.mp4 --point 320,240 --model {word}"
    return f"On the command line, for photos and for video:\n\n{segment}\n{track}"


def precision(dtype: str, scheme: Scheme | None, schemes: Mapping[str, Scheme], unquantized: list[str]) -> str:
    """One or two sentences on how the weights are stored."""
    if scheme is None:
        return f"Weights in {dtype}."
    counts = {
        bits: sum(s.bits == bits for s in schemes.values()) for bits in sorted({s.bits for s in schemes.values()})
    }
    packed = " and ".join(f"{count} in {bits} bits" for bits, count in reversed(counts.items()))
    if len(counts) == 1:
        packed = f"{len(schemes)} layers (attention and MLP projections) in {next(iter(counts))} bits"
    else:
        packed = f"Of {len(schemes)} layers (attention and MLP projections) {packed}"
    text = f"{packed}, in groups of {scheme.group_size}"
    smaller = sorted({s.group_size for s in schemes.values() if s.group_size != scheme.group_size}, reverse=True)
    for size in smaller:
        count = sum(s.group_size == size for s in schemes.values())
        text += f" ({count} of them in groups of {size}, which their widths need)"
    text += f"; everything else in {dtype}."
    if unquantized:
        text += f" {len(unquantized)} more stay in {dtype}, because no group size divides their widths."
    return text


AGREEMENT = "Against its source, both computed in float32:"


def with_agreement(text: str, mask_iou: float, largest_difference: float) -> str:
    """The card with figures of agreement: of the masks of a click, and of their logits."""
    figures = f"smallest IoU of a click's masks {mask_iou:.4f}, largest difference of logits {largest_difference:.3g}."
    return text.replace("\n## Source and licence\n", f"\n{AGREEMENT} {figures}\n\n## Source and licence\n", 1)


def readdress(text: str, address: str) -> str:
    """The card with another address in its snippets, for a folder that is uploaded later."""
    text = re.sub(r'(from_pretrained)\("[^\n]*"\)$', lambda m: f'{m[1]}("{address}")', text, flags=re.MULTILINE)
    command = r"^(    python -m mlx_sam2\.\w+ [^\n]* --model) [^\n]+$"
    return re.sub(command, lambda m: f"{m[1]} {address}", text, flags=re.MULTILINE)


def readdress_file(path: Path, address: str) -> None:
    """``readdress`` the card in a folder.

    Raises:
        OSError: it needs another name and cannot be written.
    """
    text = path.read_text(encoding="utf-8")
    changed = readdress(text, address)
    if changed != text:
        try:
            with beside(path, replace=True) as part:
                part.write_text(changed, encoding="utf-8")
        except OSError as error:
            raise OSError(error.errno, f"cannot write {path}, which has to name {address}: {error.strerror}") from None


def notice(source: Source, what: str) -> str:
    """The attribution and the statement of changes that the licence asks for."""
    return (
        "Segment Anything Model 2 (SAM 2)\n"
        "Copyright (c) Meta Platforms, Inc. and affiliates.\n"
        "Licensed under the Apache License, Version 2.0; see LICENSE.\n"
        "\n"
        f"This is a changed copy of the weights {source.name} (sha256 {source.sha256}).\n"
        f"Changes: laid out for MLX by mlx_sam2 {__version__}. {what}\n"
    )


def license_text() -> str:
    """The text of the Apache licence, from this package.

    Raises:
        ConversionError: the installation has lost it.
    """
    try:
        for file in importlib.metadata.files("mlx-sam2") or ():
            if PurePath(file).name == LICENSE:
                return file.read_text(encoding="utf-8")
    except importlib.metadata.PackageNotFoundError:  # not installed: a clone on PYTHONPATH
        pass
    beside = Path(__file__).parents[2] / LICENSE
    if beside.is_file() and (beside.parent / "pyproject.toml").is_file():
        return beside.read_text(encoding="utf-8")
    raise ConversionError("the licence text that belongs to mlx_sam2 is missing: install the package again")


_CARD = """\
---
{front}
---

# {name}

[SAM 2](https://github.com/facebookresearch/sam2) for Apple silicon, in the layout of MLX: {origin}{at},
converted with mlx_sam2 {version}. {precision} {megabytes} MB.

## Use

    pip install mlx-sam2

```python
import numpy as np
from PIL import Image, ImageDraw
from mlx_sam2 import SAM2ImagePredictor

image = Image.new("RGB", (640, 480), "white")  # or Image.open("photo.jpg").convert("RGB")
ImageDraw.Draw(image).ellipse((220, 140, 420, 340), fill="red")

predictor = SAM2ImagePredictor.from_pretrained({quoted})
predictor.set_image(np.array(image))
masks, scores, _ = predictor.predict(point_coords=np.array([[320, 240]]), point_labels=np.array([1]))
Image.fromarray(masks[scores.argmax()] > 0).save("mask.png")
```

{commands}

## Source and licence

The weights are those of {origin}, sha256 `{sha256}`. SAM 2 is by Meta, under the Apache licence 2.0
(`LICENSE`, `NOTICE`): *SAM 2: Segment Anything in Images and Videos*, Ravi et al., 2024, [arXiv:2408.00714](https://arxiv.org/abs/2408.00714).
"""
