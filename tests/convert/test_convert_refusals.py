"""What is refused, and what is left alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from checkpoint_files import transformers_config, write_torch, write_transformers
from convert_runs import FORMATS, Sources, done, refused
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.convert import conversion
from mlx_sam2.hub import download
from synthetic import nano_state


@pytest.mark.parametrize("precision", ["fp16", "4bit"])
def test_dry_run(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str) -> None:
    out = tmp_path / "deep" / f"x-{precision}"
    options = [*sources.options("official"), "--mlx-path", out, *FORMATS[precision]]
    said = done(capsys, *options, "--dry-run", "--upload-repo", "me/x", "--private")
    assert list(tmp_path.iterdir()) == []
    assert "would send 5 files" in said
    assert "the private repository me/x" in said
    done(capsys, *options)
    sizes = {Path(m[2]).name: int(m[1].replace(",", "")) for m in re.finditer(r"([\d,]+) bytes  (.+)", said)}
    card = len('from_pretrained("me/x")') - len(f'from_pretrained("x-{precision}")')
    sizes["README.md"] -= 3 * card  # the name stands in it three times
    assert sizes == {p.name: p.stat().st_size for p in out.iterdir()}


REFUSALS = {
    "nothing": ([], "nothing to convert: give --hf-path"),
    "an absent file": (["--hf-path", "no.pt"], "no such file or folder: no.pt"),
    "a name of nothing": (["--hf-path", "huge"], "no model is called 'huge'"),
    "a revision of a file": (["--hf-path", "{nano}", "--revision", "main"], "belongs to a Hub repository"),
    "no configuration": (["--hf-path", "{nano}"], "cannot tell which model this is"),
    "an absent configuration": (["--hf-path", "{nano}", "--config", "no.json"], "config='no.json' is neither"),
    "another configuration": (["--hf-path", "{nano}", "--config", "tiny"], "its tensors are not"),
    "bits without -q": (["--hf-path", "{ours}", "--q-bits", "8"], "--q-bits needs -q"),
    "all of them to nowhere": (["--all"], "--all and --upload-org OWNER go together"),
    "all of them and one": (["--all", "--upload-org", "me", "--hf-path", "{ours}"], "--hf-path does not go with --all"),
    "a recipe without -q": (["--hf-path", "{ours}", "--q-recipe", "mixed"], "--q-recipe needs -q"),
    "bits and a recipe": (
        ["--hf-path", "{ours}", "-q", "--q-recipe", "mixed", "--q-bits", "4"],
        "--q-bits does not go with --q-recipe",
    ),
    "groups without -q": (["--hf-path", "{ours}", "--q-group-size", "32"], "--q-group-size needs -q"),
    "packed for PyTorch": (["--hf-path", "{ours}", "-q", "--to", "official"], "-q does not go with --to official"),
    "a folder for official": (["--hf-path", "{ours}", "--to", "official", "--mlx-path", "x"], "name it .pt"),
    "private and not sent": (["--hf-path", "{ours}", "--private"], "--private needs --upload-repo"),
    "sent for PyTorch": (["--hf-path", "{ours}", "--to", "transformers", "--upload-repo", "a/b"], "convert first"),
    "no repository": (["--hf-path", "{ours}", "--upload-repo", "b"], "use owner/name"),
    "sent from nowhere": (["--mlx-path", "no", "--upload-repo", "a/b"], "no is no folder"),
    "sent as something else": (["--mlx-path", "{ours}", "--upload-repo", "a/b", "-q"], "--quantize needs --hf-path"),
    "verified and written": (["--verify", "{ours}", "--mlx-path", "x"], "--mlx-path does not go with --verify"),
    "three bits": (["--hf-path", "{ours}", "-q", "--q-bits", "3"], "invalid choice: 3"),
    "an unknown option": (["--hf-path", "{ours}", "--quantise"], "unrecognized arguments"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options, said = REFUSALS[case]
    options = [o.format(nano=sources.paths["official"], ours=sources.paths["mlx"]) for o in options]
    assert said in refused(capsys, *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link", "link"])
def test_what_exists_is_left_alone(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    out = tmp_path / "x.pt"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / ("nowhere" if kind == "dangling link" else ""))
    for options in ([], ["--to", "official"], ["--dry-run"]):
        assert "exists already" in refused(capsys, *sources.options("mlx"), "--mlx-path", out, *options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["mlx", "official"])
def test_what_appears_meanwhile_is_left_alone(sources: Sources, tmp_path: Path, layout: str) -> None:
    """Renaming would replace an empty folder, and any file."""
    out = tmp_path / "x.pt"
    with pytest.raises(OSError, match="exists already"):
        conversion.write(
            conversion.prepare(download.Fetched(sources.paths["mlx"]), layout=layout),
            out,
            progress=lambda _: out.mkdir(exist_ok=True) if layout == "mlx" else out.write_text("mine"),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
    assert out.is_dir() or out.read_text() == "mine"


def test_values_beyond_half_precision(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = nano_state()
    key = "image_encoder.trunk.blocks.0.norm1.weight"
    options = ["--config", sources.folder / "nano.json", "--mlx-path", tmp_path / "x"]
    write_torch(tmp_path / "big.pt", {**state, key: state[key] * np.float32(1e5)})
    said = refused(capsys, "--hf-path", tmp_path / "big.pt", *options)
    assert f"{key} has values beyond the range of float16: use --dtype bfloat16 or float32" in said
    write_torch(tmp_path / "nan.pt", {**state, key: state[key] * np.float32("nan")})
    assert f"{key} holds infinities or NaN" in refused(capsys, "--hf-path", tmp_path / "nan.pt", *options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.pt", "nan.pt"]
    done(capsys, "--hf-path", tmp_path / "big.pt", *options, "--dtype", "bfloat16")


def test_the_image_half_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Converts and goes back to transformers' Sam2Model; the official code has no such thing."""
    image = {key: value for key, value in nano_state().items() if not key_map.is_video_only(key)}
    config = transformers_config()
    write_transformers(tmp_path / "hf", image, config)
    done(capsys, "--hf-path", tmp_path / "hf", "--mlx-path", tmp_path / "x", "--dtype", "float32")
    done(capsys, "--hf-path", tmp_path / "x", "--mlx-path", tmp_path / "back", "--to", "transformers")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "sam2"
    assert loading.read(tmp_path / "back").weights.keys() == image.keys()
    said = refused(capsys, "--hf-path", tmp_path / "x", "--mlx-path", tmp_path / "x.pt", "--to", "official")
    assert "image half" in said
    card = (tmp_path / "x" / "README.md").read_text()
    assert "mlx_sam2.segment" in card
    assert "mlx_sam2.track" not in card, "a command that this model refuses"
