"""Films and pictures with alpha: read back, they hold the mattes that were written, and say what their source says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alpha_films import HLG, NTSC, SOFT, H, W, ball, decoded, pictures, plane, probed, source_of, write
from mlx_sam2.frames.cut import premultiplied, straight
from mlx_sam2.frames.cutouts import CutoutOptions, CutoutSink
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import Display, VideoError
from mlx_sam2.images.backgrounds import Background, blurred, checkerboard, composed, desaturated, pixelated
from mlx_sam2.images.matte import alpha

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mlx-sam2[video]'")

# ---- films

# ProRes: 10 bits, which are read as 12; FFV1: all 16; VP9 loses some: 9 of 255 was measured.
ROUNDING = {"c.mov": 0.63 / 1023, "c.mkv": 0.6 / 65535, "c.webm": 14 / 255}


@pytest.mark.parametrize("name", ROUNDING)
@pytest.mark.parametrize("kind", ["straight", "premultiplied"])
def test_alpha_and_colours_come_back(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    mattes = write(path, CutoutOptions(edges=SOFT, alpha=kind))
    found = decoded(path)
    assert len(found) == len(mattes)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    for frame, matte, photo in zip(found, mattes, pictures(4), strict=True):
        assert np.abs(plane(frame, 3) - matte).max() <= ROUNDING[name]
        sure = matte == 1
        wanted = photo if kind == "straight" else np.rint(photo * matte[..., None])
        difference = np.abs(frame.to_ndarray(format="rgb24").astype(int) - wanted)
        # lossless: the scaler's rounding; ProRes, VP9 and its colour at half the resolution: what they lose
        assert difference[sure].max() <= {"c.mkv": 1, "c.mov": 6, "c.webm": 16}[name]
    if kind == "premultiplied" and name == "c.mkv":
        assert not found[0].to_ndarray(format="rgb24")[mattes[0] == 0].any()


@pytest.mark.parametrize("name", ["c.mov", "c.mkv", "c.webm"])
def test_a_film_says_what_its_source_says(tmp_path: Path, name: str) -> None:
    path, display = tmp_path / name, HLG if name == "c.mov" else HLG._replace(pixel_aspect=Fraction(1))
    write(path, CutoutOptions(edges=SOFT), display=display, timecode="01:02:03:04")
    with open_source(path) as film:
        assert film.rate == NTSC
        assert film.timecode == "01:02:03:04"
        # a ProRes film has the limited range, as players expect
        assert film.display == display._replace(full_range=name != "c.mov")
        assert [film.time(i) for i in range(4)] == pytest.approx([i / NTSC for i in range(4)], abs=6e-4)


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed")
@pytest.mark.parametrize("name", ["c.mov", "c.mkv", "c.webm"])
def test_ffprobe_agrees(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, CutoutOptions(edges=SOFT), display=HLG._replace(pixel_aspect=Fraction(1)), timecode="01:02:03:04")
    said = probed(path, "pix_fmt,r_frame_rate,nb_read_frames,color_range,color_space,color_transfer,color_primaries")
    tags = {key.lower(): value for key, value in said.pop("tags").items()}
    assert tags["timecode"] == "01:02:03:04"
    assert name != "c.webm" or tags["alpha_mode"] == "1"
    pixels = {"c.mov": "yuva444p12le", "c.mkv": "yuva444p16le", "c.webm": "yuv420p"}[name]  # webm: without its alpha
    assert said.pop("pix_fmt") in (pixels, "yuva444p10le" if name == "c.mov" else pixels)
    assert said == {
        "r_frame_rate": "24000/1001",
        "nb_read_frames": "4",
        "color_range": "tv" if name == "c.mov" else "pc",
        "color_space": "bt2020nc",
        "color_transfer": "arib-std-b67",
        "color_primaries": "bt2020",
    }


@pytest.mark.parametrize("name", ["m.mov", "m.mkv", "m.webm", "m.mp4"])
def test_grey_mattes(tmp_path: Path, name: str) -> None:
    mattes = write(tmp_path / name, CutoutOptions("matte", SOFT))
    found = decoded(tmp_path / name)
    assert len(found) == 4
    for frame, matte in zip(found, mattes, strict=True):
        if name in ("m.mov", "m.mkv"):
            bits = {"m.mov": 10, "m.mkv": 16}[name]
            luma = (plane(frame, 0) * (256 - 2 ** (8 - bits)) - 16) / 219 if bits == 16 else None
            if luma is not None:
                assert np.abs(luma - matte).max() < 1e-4
        grey = frame.to_ndarray(format="rgb24")[:H, :W] / 255
        assert np.ptp(grey, axis=2).max() <= 1 / 255
        assert np.abs(grey[..., 0] - matte).mean() < 0.02  # H.264 and VP9 lose some: 0.006
        assert np.abs(grey[..., 0] - matte)[matte % 1 == 0].mean() < 0.01


def test_variable_frame_rates_keep_their_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.05, 0.4]
    frames = pictures(4)
    with CutoutSink(tmp_path / "c.mov", source=source_of(frames, rate=Fraction(25))) as sink:
        for i, time in enumerate(times):
            sink.write(i, frames[i], {1: ball(i) > 0}, time=time)
    with open_source(tmp_path / "c.mov") as film:
        assert [film.time(i) for i in range(4)] == pytest.approx(times, abs=1e-4)


def test_sound_is_copied_from_where_the_film_begins(tmp_path: Path) -> None:
    frames = pictures(8, 48, 64)
    with av.open(str(tmp_path / "in.mov"), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        samples = np.arange(6400, dtype=np.int16)[None]
        for at in range(0, 6400, 400):
            piece = av.AudioFrame.from_ndarray(samples[:, at : at + 400], format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 8000, at, Fraction(1, 8000)
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    with open_source(tmp_path / "in.mov") as source:
        with CutoutSink(tmp_path / "c.mov", source=source, options=CutoutOptions(audio=True), first=3) as sink:
            for i in range(3, 6):
                sink.write(i, source[i], {1: ball(i, 48, 64) > 0}, time=source.time(i))
        sink = CutoutSink(tmp_path / "c.webm", source=source, options=CutoutOptions(audio=True))
        with pytest.raises(VideoError, match=r"c\.webm cannot hold the sound of .*in\.mov \(pcm_s16le\): name a \.mov"):
            sink.write(0, source[0], {}, time=0.0)
    with av.open(str(tmp_path / "c.mov")) as film:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)])
    assert heard[0] == 2400, "the sound of frame 3"
    assert np.array_equal(heard, np.arange(2400, 2400 + len(heard)))
    assert 2000 <= len(heard) <= 2800


def test_hevc_needs_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"hevc_videotoolbox"})
    with pytest.raises(VideoError, match="HEVC with alpha needs a Mac"):
        CutoutSink(tmp_path / "c.mov", source=source_of(pictures(1)), options=CutoutOptions(codec="hevc"))


def test_what_hevc_asks_of_videotoolbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options of FFmpeg's encoder, and premultiplied colours, which VideoToolbox expects."""
    frames: list[Any] = []
    context, asked = SimpleNamespace(), {}
    stream = SimpleNamespace(codec_context=context, metadata={}, encode=lambda frame: frames.append(frame) or [])

    def add_stream(name: str, **given: Any) -> Any:
        asked.update(given, name=name)
        return stream

    container = SimpleNamespace(add_stream=add_stream, mux=lambda packets: None, close=lambda: None)
    fake = SimpleNamespace(
        codecs_available={"hevc_videotoolbox"},
        open=lambda *_, **__: container,
        VideoFrame=av.VideoFrame,
        error=av.error,
    )
    monkeypatch.setattr("mlx_sam2.frames.alpha_films.import_av", lambda: fake)
    (matte, *_) = write(tmp_path / "c.mov", CutoutOptions(edges=SOFT, codec="hevc"))
    assert (asked["name"], asked["options"]) == ("hevc_videotoolbox", {"alpha_quality": "1"})
    assert (stream.pix_fmt, context.codec_tag, stream.width, stream.height) == ("bgra", "hvc1", W, H)
    found = frames[0].to_ndarray(format="bgra")
    np.testing.assert_array_equal(found[..., 3], np.rint(255 * matte))
    wanted = pictures(1)[0][..., ::-1] * matte[..., None]
    assert np.abs(found[..., :3] - wanted).max() <= 0.5 + 1e-3  # rounding
    with pytest.raises(VideoError, match="HEVC holds premultiplied alpha alone"):
        write(tmp_path / "d.mov", CutoutOptions(codec="hevc", alpha="straight"))


@pytest.mark.skipif("hevc_videotoolbox" not in av.codecs_available, reason="no VideoToolbox: this is no Mac")
def test_hevc_with_alpha(tmp_path: Path) -> None:
    write(tmp_path / "c.mov", CutoutOptions(edges=SOFT, codec="hevc"))
    assert len(decoded(tmp_path / "c.mov")) == 4


# ---- objects, backgrounds


@pytest.mark.parametrize("place", ["c.mkv", "c"])
def test_an_output_for_each_object(tmp_path: Path, place: str) -> None:
    """Each has every frame; the second object is absent from the frames before it came."""
    write(tmp_path / place, CutoutOptions(edges=SOFT, per_object=True), late=2)
    if place == "c":
        assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["001", "002"]
        found = [[np.asarray(Image.open(p))[..., 3] / 255 for p in sorted((tmp_path / "c/002").iterdir())]]
    else:
        assert sorted(p.name for p in tmp_path.iterdir()) == ["c_001.mkv", "c_002.mkv"]
        assert len(decoded(tmp_path / "c_001.mkv")) == 4
        found = [[plane(frame, 3) for frame in decoded(tmp_path / "c_002.mkv")]]
    for i, matte in enumerate(*found):
        wanted = alpha(ball(i)[::-1, ::-1], pictures(4)[i], SOFT) if i >= 2 else np.zeros((H, W))
        assert np.abs(matte - wanted).max() < 0.003
    with pytest.raises(VideoError, match="exists already"):
        CutoutSink(tmp_path / place, source=source_of(pictures(1)), options=CutoutOptions(per_object=True))


@pytest.mark.parametrize("kind", ["colour", "blur", "checker", "video"])
def test_backgrounds(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "ground.mkv", CutoutOptions("composite", SOFT, background=Background("checker")), count=3)
    background = Background(kind, (10, 200, 30), tmp_path / "ground.mkv")
    mattes = write(tmp_path / "c.mkv", CutoutOptions("composite", SOFT, background=background))
    film = [frame.to_ndarray(format="rgb24") for frame in decoded(tmp_path / "ground.mkv")]
    for i, (frame, photo) in enumerate(zip(decoded(tmp_path / "c.mkv"), pictures(4), strict=True)):
        grounds = {
            "colour": lambda: np.full_like(photo, (10, 200, 30)),  # noqa: B023  called at once
            "blur": lambda: blurred(photo),  # noqa: B023
            "checker": lambda: checkerboard(H, W),
            "video": lambda: film[i % 3],  # noqa: B023  it begins again
        }
        wanted = composed(photo, mattes[i], grounds[kind]())
        assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - wanted).max() <= 2


def test_effects_in_place_of_the_objects(tmp_path: Path) -> None:
    layers = {"background": Background("grey"), "foreground": Background("pixelate")}
    mattes = write(tmp_path / "both.mkv", CutoutOptions("composite", SOFT, **layers))
    write(tmp_path / "one.mkv", CutoutOptions("composite", SOFT, foreground=Background("colour", (10, 200, 30))))
    for name, instead, behind in (
        ("both", pixelated, desaturated),
        ("one", lambda photo: np.full_like(photo, (10, 200, 30)), lambda photo: photo),
    ):
        for i, (frame, photo) in enumerate(zip(decoded(tmp_path / f"{name}.mkv"), pictures(4), strict=True)):
            wanted = composed(instead(photo), mattes[i], behind(photo))
            assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - wanted).max() <= 2  # as with a background


def test_colours_of_a_cut() -> None:
    from mlx_sam2.frames.cut import Cut

    matte = np.zeros((40, 50), np.float32)
    matte[20, 25] = 0.5
    cut = Cut(0, 0.0, np.full((40, 50, 3), 200, np.uint8), matte, {})
    assert (straight(cut)[20, 25] == 200).all() and straight(cut).sum() == 600
    assert straight(cut, 3)[20, 22, 0] == 200 and straight(cut, 3)[20, 21, 0] == 0
    assert (premultiplied(cut)[20, 25] == 100).all() and premultiplied(cut).sum() == 300


# ---- what cannot be


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("c.mp4", {}, r"c\.mp4: H\.264 holds no transparency: name \.mov"),
        ("c.avi", {}, r"c\.avi: films end in \.mov, \.webm, \.mkv, \.mp4; a folder of pictures has no suffix"),
        ("c.mov", {"codec": "vp9"}, r"c\.mov does not go with --codec vp9"),
        ("c.mov", {"codec": "exr"}, r"c\.mov does not go with --codec exr"),
        ("c", {"codec": "prores"}, "is a folder of pictures: --codec png, tiff, exr"),
        ("c", {"alpha": "premultiplied"}, "PNG holds straight alpha alone"),
        ("c", {"codec": "exr", "alpha": "straight"}, "OpenEXR holds premultiplied alpha alone"),
        ("c", {"audio": True}, "a folder of pictures, which hold no sound"),
        ("c.mov", {"audio": True}, "has no sound to copy"),
        ("m.mov", {"kind": "matte", "alpha": "straight"}, "--alpha straight is for cut-outs"),
        ("m.mov", {"kind": "matte", "codec": "hevc"}, "HEVC is for films with alpha"),
        ("nowhere/c.mov", {}, "there is no folder .*nowhere"),
        ("taken", {}, "taken exists already"),
        (
            "c.mov",
            {"kind": "composite", "per_object": True, "background": Background("blur")},
            "leave out --background",
        ),
        (
            "c.mov",
            {"kind": "composite", "per_object": True, "foreground": Background("blur")},
            "leave out --foreground",
        ),
        ("c.mkv", {}, r"c\.mkv cannot say that pixels are 16:11: name a \.mov"),
    ],
)
def test_outputs_that_cannot_be(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    (tmp_path / "taken").write_text("mine")
    source = source_of(pictures(1), display=HLG if name == "c.mkv" else Display())
    with pytest.raises(VideoError, match=message):
        CutoutSink(tmp_path / name, source=source, options=CutoutOptions(**options))
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("name", ["c.mov", "c.mkv", "c"])
def test_two_runs_into_one_output(tmp_path: Path, name: str) -> None:
    frames = pictures(2)
    first, second = (CutoutSink(tmp_path / name, source=source_of(frames)) for _ in range(2))
    first.write(0, frames[0], {1: ball(0) > 0})
    with pytest.raises(VideoError, match="is being written by another run"):
        second.write(0, frames[0], {1: ball(0) > 0})
    second.close()
    first.write(1, frames[1], {1: ball(1) > 0})
    first.close()
    assert len(list((tmp_path / name).iterdir()) if name == "c" else decoded(tmp_path / name)) == 2


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with CutoutSink(tmp_path / "c.mov", source=source_of(pictures(1))) as sink:
        sink.write(0, pictures(1)[0], {})
        with pytest.raises(VideoError, match="frame 1 is 62x47, not the size"):
            sink.write(1, pictures(1)[0][:, 1:], {})
    assert len(decoded(tmp_path / "c.mov")) == 1


WRITER = """
import os, signal, sys
import numpy as np
from alpha_films import SOFT, CutoutOptions, CutoutSink, ball, pictures, source_of
frames = pictures(14)
source = source_of(frames)
places = [("c.mov", None), ("c.webm", None), ("c.mkv", None), ("p", "png"), ("t", "tiff"), ("e", "exr")]
sinks = [CutoutSink(os.path.join(sys.argv[1], name), source=source, options=CutoutOptions(edges=SOFT, codec=codec))
         for name, codec in places]
for i, frame in enumerate(frames):
    for sink in sinks:
        sink.write(i, frame, {1: ball(i) > 0}, time=i / source.fps, logits={1: ball(i)})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_no_half_film_under_the_final_name(tmp_path: Path) -> None:
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    films = ["c.part.mkv", "c.part.mov", "c.part.webm"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*films, "e", "p", "t"]
    for name in films:
        # the muxer and the encoder's threads hold a few frames: 8 to 13 of 14 were there
        assert len(decoded(tmp_path / name)) >= 5, name
    for folder in "pte":
        assert len([p for p in (tmp_path / folder).iterdir() if p.suffix != ".part"]) == 14
    again = tmp_path / "c.mov"
    write(again, CutoutOptions(edges=SOFT))
    assert len(decoded(again)) == 4 and not (tmp_path / "c.part.mov").exists()
