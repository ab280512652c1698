"""Nothing half-written: interrupted, killed, on a full disk, under odd names; and how much memory it takes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoint_files import parameter_shapes, transformers_config, write_torch, write_transformers
from convert_runs import Sources, command, done, refused, run
from mlx_sam2.checkpoint import loading
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.convert import card as convert_card
from processes import ROOT
from synthetic import nano_config


def converting(sources: Sources, out: Path, hold: str) -> subprocess.Popen[str]:
    """The command in a process that stops before the ``hold``-th tensor until it is killed."""
    script = f"""
import signal, sys, time
from pathlib import Path
from mlx_sam2.convert import command
from mlx_sam2.formats import safetensors_writer
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
plain, count = safetensors_writer.Tensor.data, 0
def data(self):
    global count
    count += 1
    if count == {hold}:
        print("holding", flush=True)
        time.sleep(60)
    return plain(self)
safetensors_writer.Tensor.data = data
sys.exit(command.main(sys.argv[1:]))
"""
    options = command(*sources.options("official"), "--mlx-path", out)
    options["args"] = [sys.executable, "-c", script, *options["args"][3:]]
    process = subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n", process.stderr.read()
    return process


@pytest.mark.slow
def test_killed(sources: Sources, tmp_path: Path) -> None:
    """No folder under the name; in what is left nothing loads, not even by its published shapes."""
    process = converting(sources, tmp_path / "x", "370")
    process.kill()
    process.wait()
    assert not (tmp_path / "x").exists()
    left = [p for p in tmp_path.rglob("*") if p.is_dir()]
    assert left
    for folder in left:
        with pytest.raises(loading.CheckpointError, match="holds no weights"):
            loading.load(folder, config=nano_config())
    assert run(*sources.options("official"), "--mlx-path", tmp_path / "x").returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x"], "what the killed run left is still there"
    loading.load(tmp_path / "x")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped(sources: Sources, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C leaves nothing at all, and SIGTERM neither."""
    process = converting(sources, tmp_path / "x", "100")
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (code, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk(sources: Sources, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the system refuses to write on."""
    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    for options in ([], ["--to", "official"], ["-q"]):
        out = tmp_path / ("x.pt" if "--to" in options else "x")
        ran = subprocess.run(
            **command(*sources.options("mlx"), "--mlx-path", out, *options),
            preexec_fn=limit,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1
        assert ran.stderr == f"mlx_sam2.convert: error: cannot write {out}: File too large\n"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    for out in (tmp_path / "x", tmp_path / "deep" / "er" / "x"):
        said = refused(capsys, *sources.options("mlx"), "--mlx-path", out, code=1)
        assert f"cannot write {out}: Permission denied" in said


@pytest.mark.parametrize("name", ["\N{SMILING FACE WITH HALO}" * 60, "with spaces and 'quotes\"", "-x", "two\nlines"])
def test_odd_names(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """60 times four bytes, signs of the shell, an option, a line break."""
    shutil.copytree(sources.paths["mlx"], tmp_path / name)
    done(capsys, "--hf-path", tmp_path / name, f"--mlx-path={tmp_path / 'out' / name}")
    assert os.listdir(tmp_path / "out") == [name]
    loading.load(tmp_path / "out" / name)


def test_the_door_at_the_top() -> None:
    ran = subprocess.run([sys.executable, ROOT / "convert.py", "--help"], capture_output=True, text=True, cwd="/")
    assert ran.returncode == 0
    assert ran.stdout.startswith("usage: python -m mlx_sam2.convert")


def test_a_card_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is read-only is sent only if its card bears the right name already."""
    (tmp_path / "README.md").write_text('predictor = SAM2ImagePredictor.from_pretrained("me/x")\n')

    def read_only(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(args[0]))

    monkeypatch.setattr(Path, "write_text", read_only)
    convert_card.readdress_file(tmp_path / "README.md", "me/x")
    with pytest.raises(OSError, match=r"cannot write .*README.md, which has to name me/y: Permission denied"):
        convert_card.readdress_file(tmp_path / "README.md", "me/y")


def test_below_a_file(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    said = refused(capsys, *sources.options("mlx"), "--mlx-path", tmp_path / "file" / "x", code=1)
    assert f"cannot write {tmp_path / 'file' / 'x'}: Not a directory" in said


# ---- memory and time of loading


PEAK = """
import sys
from mlx_sam2.checkpoint import loading
from mlx_sam2.convert import command, conversion, verify
def peak():  # of this process alone: ru_maxrss would begin with that of the parent
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
before = peak()
print(eval(sys.argv[1]), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory(tmp_path: Path) -> None:
    """A checkpoint of 50 MB: converting takes a few of its tensors, loading the model and little more.

    Measured above the imports, in MB: converting 11 to 17, loading 56 from float32 and 31 from float16.
    """
    wide = 40_000  # the MLPs of the mask decoder
    decoder = {**nano_config().decoder.to_dict(), "mlp_dim": wide}
    config = SAM2Config.from_dict({**nano_config().to_dict(), "decoder": decoder})
    state = {key: np.full(shape, 0.1, np.float32) for key, shape in parameter_shapes(config).items()}
    whole, largest = sum(v.nbytes for v in state.values()), max(v.nbytes for v in state.values())
    assert whole > 45e6
    values = transformers_config()
    values["mask_decoder_config"]["mlp_dim"] = wide
    write_torch(tmp_path / "x.pt", state)
    write_transformers(tmp_path / "hf", state, values)
    (tmp_path / "x.json").write_text(json.dumps(config.to_dict()))
    peaks = {}
    for name, expression in {
        "from .pt": "command.main('--hf-path x.pt --config x.json --mlx-path half'.split())",
        "packed": "command.main('--hf-path hf -q --mlx-path q'.split())",
        "to .pt": "command.main('--hf-path half --to official --mlx-path b.pt'.split())",
        "load float32": "int(loading.load('hf', dtype='float32') is None)",
        "load half": "int(loading.load('half', dtype='float16') is None)",
        "load float32 as half": "int(loading.load('hf', dtype='float16') is None)",
    }.items():
        options = {**command(cwd=tmp_path), "args": [sys.executable, "-c", PEAK, expression]}
        ran = subprocess.run(**options, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        code, peak = map(int, ran.stdout.split()[-2:])
        assert code == 0, ran.stdout
        peaks[name] = peak
    print({name: f"{peak / 1e6:.1f} MB" for name, peak in peaks.items()}, f"{whole / 1e6:.1f}, {largest / 1e6:.1f}")
    for name in ("from .pt", "packed", "to .pt"):
        assert peaks[name] < whole, name  # the bound is the checkpoint and its largest tensor
    for name, model in (("load float32", whole), ("load half", whole / 2), ("load float32 as half", whole / 2)):
        assert peaks[name] < model + 3 * largest, name
