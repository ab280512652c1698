"""Released checkpoints: Meta's nine and fine-tunes of them; and their names: short, official, Ultralytics', Hub id."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from .edgetam import PerceiverConfig, RepViTConfig
from .parts import FpnConfig, HieraConfig, MemoryConfig
from .sam2 import SAM2Config

DEMO = "demo"  # the name of the model in the package


@dataclass(frozen=True)
class PublishedModel:
    """One released checkpoint: its names, its Hub repository and file, its configuration, its origin."""

    name: str  # sam2.1_hiera_tiny
    short_name: str  # tiny
    repo_id: str  # facebook/sam2.1-hiera-tiny
    config: SAM2Config
    file: str | None = None  # of several in the repository; None: the name with .pt, or transformers' weights
    licence: str | None = "apache-2.0"  # None: nobody of this project has read it
    source: str = "https://github.com/facebookresearch/sam2"
    verified: bool = True  # whether the repository and its file have been seen

    @property
    def filename(self) -> str:
        return self.file or f"{self.name}.pt"

    @property
    def address(self) -> str:
        """Where its weights are, in words that tell it from all others."""
        return f"{self.repo_id}/{self.file}" if self.file else self.repo_id


_TRUNKS = {
    "tiny": HieraConfig(),
    "small": HieraConfig(stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13)),
    "base_plus": HieraConfig(
        embed_dim=112,
        num_heads=2,
        stages=(2, 3, 16, 3),
        global_att_blocks=(12, 16, 20),
        window_pos_embed_bkg_spatial_size=(14, 14),
    ),
    "large": HieraConfig(
        embed_dim=144, num_heads=2, stages=(2, 6, 36, 4), global_att_blocks=(23, 33, 43), window_spec=(8, 4, 16, 8)
    ),
}


def _published() -> dict[str, PublishedModel]:
    table = {}
    for version, prefix in (("2.1", ""), ("2", "sam2-")):
        for size, trunk in _TRUNKS.items():
            widths = tuple(trunk.embed_dim_at_stage(s) for s in reversed(range(4)))
            new = version == "2.1"
            config = SAM2Config(
                trunk=trunk,
                neck=FpnConfig(backbone_channel_list=widths),
                no_obj_embed_spatial=new,
                proj_tpos_enc_in_obj_ptrs=new,
                use_signed_tpos_enc_to_obj_ptrs=new,
                add_tpos_enc_to_obj_ptrs=new,
            )
            name = f"sam{version}_hiera_{size}"
            repo_id = f"facebook/sam{version}-hiera-{size.replace('_', '-')}"
            table[name] = PublishedModel(name, prefix + size, repo_id, config)
    source = "https://github.com/facebookresearch/EdgeTAM"
    table["edgetam"] = PublishedModel(
        "edgetam", "edgetam", "facebook/EdgeTAM", _edgetam(), source=source, verified=False
    )
    return table


def _edgetam() -> SAM2Config:
    trunk = RepViTConfig()
    return SAM2Config(
        trunk=trunk,
        neck=FpnConfig(backbone_channel_list=trunk.widths[::-1]),
        memory_attention=MemoryConfig(num_layers=2),
        spatial_perceiver=PerceiverConfig(),
        no_obj_embed_spatial=False,
        proj_tpos_enc_in_obj_ptrs=False,
        use_signed_tpos_enc_to_obj_ptrs=False,
        add_tpos_enc_to_obj_ptrs=False,
    )


def _medsam2(short_name: str, file: str) -> PublishedModel:
    """One of the MedSAM2 family: SAM 2.1 tiny at 512 pixels, tuned on medical images and volumes."""
    config = dataclasses.replace(PUBLISHED["sam2.1_hiera_tiny"].config, image_size=512)
    source = "https://github.com/bowang-lab/MedSAM2"
    return PublishedModel(short_name, short_name, "wanglab/MedSAM2", config, file, None, source, verified=False)


PUBLISHED: dict[str, PublishedModel] = _published()
# Weights that others tuned, which differ in size or input only. One row each.
FINE_TUNED: dict[str, PublishedModel] = {
    name: _medsam2(name, file)
    for name, file in (
        ("medsam2", "MedSAM2_latest.pt"),
        ("medsam2-2411", "MedSAM2_2411.pt"),
        ("medsam2-ct-lesion", "MedSAM2_CTLesion.pt"),
        ("medsam2-mri-liver-lesion", "MedSAM2_MRI_LiverLesion.pt"),
        ("medsam2-us-heart", "MedSAM2_US_Heart.pt"),
    )
}


def published(name: str) -> PublishedModel | None:
    """The published model called ``name``: short ("tiny", "sam2-base-plus"), official, Ultralytics', or its Hub id."""
    wanted = name.replace("base-plus", "base_plus")
    if theirs := re.fullmatch(r"(sam2(?:\.1)?)_([tsbl])(?:\.pt)?", name):  # sam2.1_t.pt, which Ultralytics downloads
        wanted = f"{theirs[1]}_hiera_{next(size for size in _TRUNKS if size.startswith(theirs[2]))}"
    for model in (*PUBLISHED.values(), *FINE_TUNED.values()):
        if name in (model.repo_id, model.address) or wanted in (model.short_name, model.name):
            return model
    return None


def shipped(name: str) -> Path | None:
    """The folder in the package that holds the model of this name; None: none does, it has to be fetched."""
    return Path(__file__).parents[1] / DEMO if name == DEMO else None


def short_names() -> str:
    """The short names of all models, for a message."""
    return ", ".join([DEMO, *(model.short_name for model in PUBLISHED.values()), *FINE_TUNED])
