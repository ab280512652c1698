"""Sinks: what is written is what was given, refuses to overwrite, and survives a killed process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.frames.films import OverlaySink
from mlx_sam2.frames.opening import open_sink, open_source
from mlx_sam2.frames.sinks import PngSink, RleSink, davis_palette
from mlx_sam2.frames.source import Display, VideoError
from mlx_sam2.images.drawing import draw_masks, object_colour
from mlx_sam2.masks.scores import ObjectScores

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mlx-sam2[video]'")

H, W = 48, 64
GREY = np.full((H, W, 3), 100, np.uint8)


def box(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


# PNG


def test_palette_is_that_of_davis() -> None:
    palette = np.array(davis_palette()).reshape(256, 3)
    # The beginning and the end of the palette in the official tools/vos_inference.py.
    assert palette[:9].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128],
        [128, 128, 128], [64, 0, 0],
    ]  # fmt: skip
    assert palette[254:].tolist() == [[96, 224, 192], [224, 224, 192]]
    assert len(np.unique(palette, axis=0)) == 256


def test_png_holds_ids_and_the_lowest_is_on_top(tmp_path: Path) -> None:
    with PngSink(tmp_path / "out") as sink:
        sink.write(7, GREY, {2: box(0, 10, 0, 10), 1: box(5, 15, 5, 15), 255: box(0, 48, 0, 64)})
        sink.write(8, GREY, {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00007.png", "00008.png"]
    image = Image.open(tmp_path / "out" / "00007.png")
    assert image.mode == "P"
    assert image.getpalette()[3:6] == [128, 0, 0]
    expected = np.full((H, W), 255)
    expected[0:10, 0:10] = 2
    expected[5:15, 5:15] = 1
    assert np.array_equal(np.array(image), expected)
    assert not np.array(Image.open(tmp_path / "out" / "00008.png")).any()


def test_png_takes_the_names_of_the_frames(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(GREY).save(tmp_path / "in" / "frame_12.jpg")
    source = open_source(tmp_path / "in")
    open_sink(tmp_path / "out", frame_name=source.frame_name).write(0, source[0], {})
    assert (tmp_path / "out" / "frame_12.png").exists()


def test_png_per_object_keeps_overlaps_and_any_id(tmp_path: Path) -> None:
    masks = {0: box(0, 10, 0, 10), 1000: box(5, 15, 5, 15)}
    PngSink(tmp_path / "out", per_object=True).write(3, GREY, masks)
    for name, mask in (("000", masks[0]), ("1000", masks[1000])):
        assert np.array_equal(np.array(Image.open(tmp_path / "out" / name / "00003.png")), mask)


@pytest.mark.parametrize("obj_id", [0, 256, -1, "cat"])
def test_png_refuses_ids_that_do_not_fit(tmp_path: Path, obj_id: Any) -> None:
    sink = PngSink(tmp_path / "out")
    with pytest.raises(VideoError, match="ids go from 1 to 255; or use a folder per object"):
        sink.write(0, GREY, {obj_id: box(0, 1, 0, 1)})
    assert not (tmp_path / "out").exists()


def test_png_overwrite_replaces_the_same_frames_only(tmp_path: Path) -> None:
    PngSink(tmp_path / "out").write(0, GREY, {1: box(0, 5, 0, 5)})
    PngSink(tmp_path / "out", overwrite=True).write(1, GREY, {})
    assert np.array(Image.open(tmp_path / "out" / "00000.png")).any()
    PngSink(tmp_path / "out", overwrite=True).write(0, GREY, {})
    assert not np.array(Image.open(tmp_path / "out" / "00000.png")).any()


# RLE


def test_rle_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = RleSink(path)
    # By hand, column by column: 2 * 48 + 3 of the background, 2 pixels, 46 of it, 2 pixels, the rest.
    sink.write(3, GREY, {1: box(3, 5, 2, 4)}, scores={1: np.float32(2.5)}, time=0.1)
    line = path.read_text()  # there before the sink is closed
    assert line.endswith("}\n")
    record = json.loads(line)
    counts = record["objects"][0]["rle"].pop("counts")
    assert record == {
        "frame": 3,
        "time": 0.1,
        "size": [H, W],
        "objects": [{"id": 1, "rle": {"size": [H, W]}, "area": 4, "bbox": [2, 3, 2, 2], "score": 2.5}],
    }
    # Each count in groups of 5 bits from the lowest, +48, +32 where more follow; from the third on as
    # the difference to the count before the last.
    #   99 -> 3, 3 | 2 | 46 -> 14, 1 | 2 - 2 = 0 | 2923 - 46 = 2877 -> 29, 25, 2
    assert counts == "".join(chr(48 + n) for n in (3 + 32, 3, 2, 14 + 32, 1, 0, 29 + 32, 25 + 32, 2))
    sink.write(4, GREY, {"cat": box(0, 0, 0, 0)})
    sink.write(5, GREY, {1: box(3, 5, 2, 4)}, scores={1: ObjectScores(2.5, 0.75)})
    sink.close()
    first, second, third = path.read_text().splitlines()
    assert {"score": 2.5, "predicted_iou": 0.75}.items() <= json.loads(third)["objects"][0].items()
    assert first + "\n" == line
    empty = json.loads(second)
    assert "time" not in empty
    assert empty["objects"][0]["id"] == "cat"
    assert (empty["objects"][0]["area"], empty["objects"][0]["bbox"]) == (0, [0, 0, 0, 0])
    assert "score" not in empty["objects"][0]


# Overlay


def test_drawing_tints_outlines_and_leaves_the_rest() -> None:
    mask = box(20, 40, 10, 50)
    red, green, blue = object_colour(3)
    drawn = draw_masks(GREY, {3: mask, 4: box(0, 0, 0, 0)})
    assert drawn[30, 30].tolist() == [round(100 + 115 / 255 * (c - 100)) for c in (red, green, blue)]
    assert drawn[20, 10].tolist() == drawn[39, 49].tolist() == [red, green, blue]
    changed = (drawn != GREY).any(axis=2)
    assert changed[mask].all()
    assert changed[:20].any()  # the number, above the object
    assert not changed[40:].any()
    assert (GREY == 100).all()


def test_colours_of_the_first_objects_lie_apart() -> None:
    colours = np.array([object_colour(i) for i in range(1, 9)])
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(8, dtype=int)
    assert distances.min() > 100


def test_overlay_plays_with_the_times_and_colours_given(tmp_path: Path) -> None:
    frame = np.zeros((47, 63, 3), np.uint8)  # odd: one more row and column in the file
    frame[:] = (200, 60, 40)
    times = [0.0, 0.1, 0.15, 1.0]
    with OverlaySink(tmp_path / "out.mp4", fps=24) as sink:
        for i, time in enumerate(times):
            sink.write(i, frame, {1: box(20, 40, 20, 40)[:47, :63]}, time=time)
    source = open_source(tmp_path / "out.mp4")
    assert (len(source), source.height, source.width) == (4, 48, 64)
    assert [source.time(i) for i in range(4)] == pytest.approx(times)
    expected = np.pad(draw_masks(frame, {1: box(20, 40, 20, 40)[:47, :63]}), ((0, 1), (0, 1), (0, 0)), "edge")
    # Colour is stored at half the resolution and rounded: 6 is what it takes away from the borders.
    for y, x in ((5, 5), (47, 63), (30, 30)):
        assert np.abs(source[3][y, x].astype(int) - expected[y, x]).max() <= 6
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].frames == 4  # an ordinary file with its index, no longer fragments
        assert container.streams.video[0].codec_context.name == "h264"


def shown_by(path: Path) -> tuple[Any, int, int]:
    """Pixel aspect ratio, primaries and transfer of a film as players see them."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        return stream.sample_aspect_ratio, int(frame.color_primaries), int(frame.color_trc)


def rewritten(path: Path) -> Path:
    """An overlay film of a video."""
    with open_source(path) as source, open_sink(path.with_suffix(".mov"), display=source.display) as sink:
        for i, frame in enumerate(source):
            sink.write(i, frame, {})
    return path.with_suffix(".mov")


def test_the_pixel_aspect_ratio_is_handed_on(tmp_path: Path) -> None:
    """tests/data/reports/anamorphic.mp4 has pixels of 16:11; turned by 90 degrees they are 11:16."""
    path = tmp_path / "v.mp4"
    path.write_bytes((Path(__file__).parents[1] / "data" / "reports" / "anamorphic.mp4").read_bytes())
    assert shown_by(rewritten(path))[0] == Fraction(16, 11)
    turn = [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30]
    with av.open(str(path)) as source, av.open(str(tmp_path / "turned.mp4"), "w") as turned:
        stream = turned.add_stream_from_template(source.streams.video[0])
        stream.set_display_matrix(turn)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                turned.mux(packet)
    assert shown_by(rewritten(tmp_path / "turned.mp4"))[0] == Fraction(11, 16)
    assert open_source([GREY]).display == Display()


@pytest.mark.parametrize(
    ("primaries", "transfer", "expected"),
    [(9, 18, (9, 18)), (9, 16, (9, 16)), (6, 6, (6, 6)), (1, 1, (1, 1)), (2, 2, (1, 1))],
    ids=["HLG", "PQ", "BT.601", "BT.709", "unspecified"],
)
def test_colours_are_handed_on(tmp_path: Path, primaries: int, transfer: int, expected: tuple[int, int]) -> None:
    """HDR films are not tone-mapped: their overlay has the same values and says so."""
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = H, W, "yuv420p"
        stream.codec_context.color_primaries, stream.codec_context.color_trc = primaries, transfer
        for picture in [GREY, None]:
            frame = None if picture is None else av.VideoFrame.from_ndarray(picture, "rgb24")
            container.mux(stream.encode(frame))
    film = rewritten(tmp_path / "v.mp4")
    assert shown_by(film)[1:] == expected
    difference = open_source(film)[0].astype(int) - open_source(tmp_path / "v.mp4")[0]
    assert np.abs(difference).max() <= 4  # coding: 2


def test_overlay_without_times_has_the_rate(tmp_path: Path) -> None:
    with OverlaySink(tmp_path / "out.mov", fps=12.5) as sink:
        for i in (5, 4, 3):  # backwards: shown in the order of writing
            sink.write(i, GREY, {})
    source = open_source(tmp_path / "out.mov")
    assert [source.time(i) for i in range(3)] == pytest.approx([0, 0.08, 0.16])


def test_overlay_refuses_a_frame_of_another_size_and_keeps_the_rest(tmp_path: Path) -> None:
    with OverlaySink(tmp_path / "out.mp4") as sink:
        sink.write(0, GREY, {})
        with pytest.raises(VideoError, match="frame 1 is 32x48, not the size"):
            sink.write(1, GREY[:, :32], {})
        sink.write(1, GREY, {})
    assert len(open_source(tmp_path / "out.mp4")) == 2


# All


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl", "out"])
def test_existing_outputs_are_refused_and_only_touched_by_the_first_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_sink(path) as sink:
        sink.write(0, GREY, {1: box(0, 9, 0, 9)})
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert kept
    with pytest.raises(VideoError, match=r"exists already: give another name, or overwrite it"):
        open_sink(path)
    with pytest.raises(VideoError, match=r"exists already: give another name, or overwrite it"):
        open_sink(path, overwrite=False)
    open_sink(path, overwrite=True).close()
    with pytest.raises(VideoError, match=r"the mask of object 1 on frame 0 is uint8 \(2, 2\): bool \(48, 64\)"):
        open_sink(path, overwrite=True).write(0, GREY, {1: np.zeros((2, 2), np.uint8)})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == kept
    with open_sink(path, overwrite=True) as sink:
        sink.write(0, GREY, {})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} != kept


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.avi", r"outputs end in \.mp4 or \.mov"),
        ("nowhere/out.mp4", "there is no folder .*nowhere"),
        ("file.txt", "outputs end in"),
    ],
)
def test_outputs_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        open_sink(tmp_path / name)


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl", "out", "empty"])
@pytest.mark.parametrize("ended", [False, True])
def test_two_runs_into_one_new_output(tmp_path: Path, name: str, ended: bool) -> None:
    """Both find nothing there; the one that comes second is refused, whether the first still writes or has ended."""
    (tmp_path / "empty").mkdir()
    first, second = open_sink(tmp_path / name), open_sink(tmp_path / name)
    first.write(0, GREY, {1: box(0, 9, 0, 9)})
    if ended:
        first.close()
    with pytest.raises(VideoError, match=r"(exists already|is being written by another run): give another name"):
        second.write(1, GREY, {})
    second.close()
    first.close()
    if name.endswith(".mp4"):
        assert len(open_source(tmp_path / name)) == 1
    elif name.endswith(".jsonl"):
        assert (tmp_path / name).read_text().count("\n") == 1
    else:
        assert [path.name for path in (tmp_path / name).iterdir()] == ["00000.png"]


def test_two_runs_that_overwrite_one_folder(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out", overwrite=True) as first:
        first.write(0, GREY, {})
        with pytest.raises(VideoError, match="is being written by another run"):
            open_sink(tmp_path / "out", overwrite=True).write(0, GREY, {})
    with open_sink(tmp_path / "out", overwrite=True) as third:
        third.write(1, GREY, {})
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("name", ["out.mp4", "out.jsonl"])
def test_a_pipe_is_no_output(tmp_path: Path, name: str) -> None:
    """Opening it would wait for a reader."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(VideoError, match="exists already"):
        open_sink(tmp_path / name)
    with pytest.raises(VideoError, match="is a pipe or a device: an output is a file or a folder"):
        open_sink(tmp_path / name, overwrite=True)


def test_frames_that_the_encoder_refuses(tmp_path: Path) -> None:
    wide = np.zeros((16, 17_000, 3), np.uint8)
    with pytest.raises(VideoError, match=r"out\.mp4 cannot be encoded: .* frames are 17000x16"):
        OverlaySink(tmp_path / "out.mp4").write(0, wide, {})


WRITER = """
import os, signal, sys
import numpy as np
from mlx_sam2.frames.opening import open_sink
rows = np.arange(48)[:, None]
sinks = [open_sink(os.path.join(sys.argv[1], name), fps=10) for name in ("out.mp4", "out.jsonl", "out")]
for i in range(20):
    frame = np.full((48, 64, 3), 10 * i, np.uint8)
    for sink in sinks:
        sink.write(i, frame, {1: np.broadcast_to(rows < i, (48, 64))})
    if i == 14:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_its_finished_frames(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{i:05d}.png" for i in range(15)]
    for i in range(15):
        assert np.array(Image.open(tmp_path / "out" / f"{i:05d}.png")).sum() == i * 64
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["objects"][0]["area"]) for line in lines] == [(i, i * 64) for i in range(15)]
    overlay = open_source(tmp_path / "out.mp4")
    assert len(overlay) == 14  # the muxer holds one frame, to know how long it lasts
    for i, frame in enumerate(overlay):
        assert abs(int(frame[46, 60, 0]) - 10 * i) <= 4  # below the object: grey, coded in 8 bits with loss
