"""Known answers: the IoU scores that were published with the weights, for a click on a published photo.

The scores of the demo model come with the package, for a drawn picture, and need no network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import images
from ..config.published import PUBLISHED, shipped
from ..config.sam2 import SAM2Config
from ..formats import safetensors_file
from ..hub import download
from ..hub.client import (
    HubError,
    calm,
    causes,
    client_errors,
    explain_machine,
    explain_status,
    patiently,
    start_client,
    status_of,
)
from ..model.sam2 import SAM2
from ..sam2_image_predictor import SAM2ImagePredictor

PHOTO_REPO, PHOTO = "ybelkada/segment-anything", "assets/car.png"
CLICK = (1000, 600)  # x, y in pixels, positive
TOLERANCE = 1e-2
DEMO_SCORES = "scores.json"  # in the package, beside the weights of demo
# The three scores of this click, published with transformers' conversion of the weights.
SCORES = {
    "sam2.1_hiera_tiny": (0.0316, 0.9647, 0.1029),
    "sam2.1_hiera_small": (0.9664, 0.1494, 0.0456),
    "sam2.1_hiera_base_plus": (0.0361, 0.9775, 0.1307),
    "sam2.1_hiera_large": (0.9648, 0.0371, 0.1898),
    "sam2_hiera_tiny": (0.0439, 0.9567, 0.1415),
    "sam2_hiera_small": (0.9593, 0.1633, 0.0392),
    "sam2_hiera_base_plus": (0.0423, 0.9815, 0.0897),
    "sam2_hiera_large": (0.9514, 0.0535, 0.1787),
    "edgetam": (0.0356, 0.2141, 0.9707),
}


@dataclass(frozen=True)
class Verification:
    """The result of comparing a model with known answers."""

    model: str  # as the user named it
    variant: str | None = None  # the published model of this configuration
    expected: tuple[float, ...] | None = None
    scores: tuple[float, ...] | None = None
    unverified: str | None = None  # why the model could not be compared

    @property
    def agrees(self) -> bool | None:
        if self.expected is None or self.scores is None:
            return None
        return all(abs(a - b) <= TOLERANCE for a, b in zip(self.scores, self.expected, strict=True))  # NaN: False


def verify(model: SAM2, name: str) -> Verification:
    """Compare a model's scores on the photo with the published ones, or say in ``unverified`` why not."""
    if shipped(name) and not os.path.exists(name):
        expected = safetensors_file.read_json(download.resolve(name) / DEMO_SCORES, safetensors_file.MAX_CONFIG_BYTES)[
            "scores"
        ]
        return Verification(name, "demo", tuple(expected), demo_scores(model))
    variant = variant_of(model.config)
    if variant is None:
        return Verification(name, unverified="no scores were published for a model of this configuration")
    try:
        path = photo()
    except HubError as error:
        return Verification(name, variant, SCORES[variant], unverified=str(error))
    predictor = SAM2ImagePredictor(model)
    try:
        predictor.set_image(images.read(path))
    except images.ImageError as error:
        return Verification(name, variant, SCORES[variant], unverified=f"the photo is of no use: {error}")
    _, scores, _ = predictor.predict(point_coords=[CLICK], point_labels=[1])
    return Verification(name, variant, SCORES[variant], tuple(float(s) for s in scores))


def demo_picture() -> np.ndarray:
    """Three discs on a slope of grey, (192, 256, 3) uint8; the same bits on every machine."""
    y, x = np.mgrid[:192, :256]
    picture = np.repeat((60 + (x + y) // 8)[..., None], 3, 2).astype(np.uint8)
    for centre_x, centre_y, radius, colour in (
        (70, 80, 34, (200, 60, 40)),
        (170, 60, 26, (60, 140, 220)),
        (150, 140, 30, (230, 220, 90)),
    ):
        picture[(x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2] = colour
    return picture


def demo_scores(model: SAM2) -> tuple[float, ...]:
    """The three scores of a click on the first disc; ``tools/demo_model/ship.py`` stores them with the weights."""
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(demo_picture())
    _, scores, _ = predictor.predict(point_coords=[(70, 80)], point_labels=[1])
    return tuple(float(s) for s in scores)


def variant_of(config: SAM2Config) -> str | None:
    """The name of the published model with this trunk, 2.0 or 2.1; None if there is none."""
    for name, model in PUBLISHED.items():
        if (model.config.trunk, model.config.no_obj_embed_spatial) == (config.trunk, config.no_obj_embed_spatial):
            return name
    return None


def photo() -> Path:
    """The path of the published photo in the Hub's cache; downloads it if necessary.

    Raises:
        HubError: one line.
    """
    start_client(None)
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    unreachable: BaseException | None = None
    try:
        with calm():
            try:
                get_hf_file_metadata(hf_hub_url(PHOTO_REPO, PHOTO))  # fails at once, without the client's retries
            except client_errors() as error:
                unreachable = error
            local = unreachable is not None
            return Path(patiently(lambda: hf_hub_download(PHOTO_REPO, PHOTO, local_files_only=local)))
    except LocalEntryNotFoundError as error:
        raise HubError(_explain(unreachable or error)) from None
    except (*client_errors(), RuntimeError) as error:  # the latter: how hf_xet reports what it cannot do
        raise HubError(_explain(error)) from None


def _explain(error: BaseException) -> str:
    from huggingface_hub import constants, errors

    what = f"the photo {PHOTO} of {PHOTO_REPO} is not in the local cache"
    if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in causes(error)):
        return f"{what}, and HF_HUB_OFFLINE keeps the network off"
    status = status_of(error)
    if status is None and not isinstance(error, ConnectionError) and (machine := explain_machine(error)):
        return f"{what}, and it cannot be downloaded: {machine}"
    if said := explain_status(error):
        return f"{what}, and {said}"
    why = f"HTTP {status}" if status else type(error).__name__
    return f"{what}, and {constants.ENDPOINT} does not give it ({why}): connect and run the same again"
