"""Every published model in every precision: converted, compared with its source, uploaded, gathered in a collection."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten

from .. import cli
from ..checkpoint import key_map
from ..config.published import PUBLISHED, PublishedModel
from ..config.sam2 import SAM2Config
from ..files import beside
from ..hub import download, publish
from ..model.quantization import RECIPES, Scheme, plan, quantize
from ..model.sam2 import SAM2
from . import card, conversion, verify

TITLE = "SAM 2 for MLX"
SCHEME = Scheme(64, 8)


class Precision(NamedTuple):
    """How the weights of a copy are stored; its name is the end of the model's."""

    name: str
    scheme: Scheme | None = None
    recipe: str | None = None


PRECISIONS = (Precision("fp16"), Precision("8bit", SCHEME), Precision("mixed", SCHEME, "mixed"))


class Copy(NamedTuple):
    """One repository to be made."""

    model: PublishedModel
    precision: Precision
    repo_id: str
    nbytes: int  # of its tensors

    @property
    def folder(self) -> Path:
        """In the working directory."""
        return Path(self.repo_id.split("/")[1])


def planned(org: str, models: Sequence[PublishedModel] | None = None) -> list[Copy]:
    """All copies, from the configurations alone; nothing is downloaded."""
    copies = []
    for model in PUBLISHED.values() if models is None else models:
        name = model.repo_id.split("/")[-1]
        for precision in PRECISIONS:
            size = tensor_bytes(model.config, precision)
            copies.append(Copy(model, precision, f"{org}/{name}-{precision.name}", size))
    return copies


def tensor_bytes(config: SAM2Config, precision: Precision) -> int:
    """The bytes of a model's tensors. Its arrays are promises, which are not computed."""
    model = SAM2(config)
    if precision.scheme is not None:
        quantize(model, plan(model, precision.scheme, RECIPES[precision.recipe] if precision.recipe else ())[0])
    total = 0
    for key, value in tree_flatten(model.parameters()):
        wide = value.dtype == mx.uint32 or key_map.stored_float32(key)
        total += value.size * (4 if wide else 2) + 8 * key.endswith(key_map.BESIDE_COUNTER)
    return total


def run(args: argparse.Namespace) -> int:
    """``convert --all``: what is there already and passes ``--verify`` is not converted again.

    Raises:
        HubError, ConversionError, VerificationError, OSError: as converting and uploading; what was sent stays.
    """
    copies = planned(args.upload_org)
    if args.dry_run:
        _print(copies, args.upload_org, args.private)
        return 0
    sources: dict[str, download.Fetched] = {}
    for number, copy in enumerate(copies, 1):
        if copy.model.repo_id not in sources:
            sources = {copy.model.repo_id: download.fetch(copy.model.repo_id)}  # one after the other: gigabytes
        cli.say(f"{number} of {len(copies)}: {copy.repo_id}")
        make(copy, sources[copy.model.repo_id])
        publish.upload(copy.folder, copy.repo_id, private=args.private)
    address = publish.collect(TITLE, args.upload_org, [copy.repo_id for copy in copies], private=args.private)
    cli.say(f"{len(copies)} models sent; they are gathered in {address}")
    return 0


def _print(copies: Sequence[Copy], org: str, private: bool) -> None:
    for copy in copies:
        cli.say(f"  {copy.nbytes:>13,} bytes  {copy.repo_id}, from {copy.model.repo_id}")
    kind = "private repositories" if private else "repositories"
    total = sum(copy.nbytes for copy in copies)
    cli.say(f"would send {len(copies)} models, {total:,} bytes of tensors, to {kind} of {org} and a collection of them")
    cli.say("nothing was downloaded, written or sent")


def make(copy: Copy, source: download.Fetched) -> None:
    """Write the folder of a copy, unless it is there, and put the figures of its agreement into the card."""
    if not os.path.lexists(copy.folder):
        job = conversion.prepare(source, scheme=copy.precision.scheme, recipe=copy.precision.recipe)
        for note in job.notes:
            cli.say(f"note: {note}")
        conversion.write(job, copy.folder, address=copy.repo_id)
    found = verify.check_complete(copy.folder)
    path = copy.folder / card.CARD
    text = path.read_text(encoding="utf-8")
    if card.AGREEMENT not in text:
        agreement = verify.compare(found, source.path)
        with beside(path, replace=True) as part:
            part.write_text(card.with_agreement(text, agreement.mask_iou, agreement.largest_difference), "utf-8")
    cli.say(f"{copy.folder}: {found.tensors} tensors, {found.nbytes / 1e6:.1f} MB, {found.precision}")
