"""Prompts of the track command: flags and JSON files, and their mistakes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.cli import UsageError
from mlx_sam2.datasets.pictures import VOID
from mlx_sam2.track import options
from mlx_sam2.track import prompts as track_prompts
from track_command import (
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    two_objects,
    write_indexed,
)


def gather(*items: options.Item, default: int = 0) -> list[track_prompts.ObjectPrompt]:
    return track_prompts.gather(items, default, NUM_FRAMES, (HEIGHT, WIDTH))


def test_flags_and_json_say_the_same(tmp_path: Path) -> None:
    mask = write_indexed(tmp_path / "a:1@b.png", two_objects())
    flags = [
        options.point_flag("1.5,2e1"),
        options.point_flag("3:7,8@4"),
        options.negative_flag("3:9,10@4"),
        options.box_flag("3:0,0,96,72@4"),
        options.mask_flag(f"2:{mask}@5"),
    ]
    entries = [
        {"points": [[1.5, 20]]},
        {"object": 3, "frame": 4, "points": [[7, 8], [9, 10]], "labels": [1, 0], "box": [0, 0, 96, 72]},
        {"object": 2, "frame": 5, "mask": mask.name},
    ]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    first, second, third = gather(*flags, default=1)
    assert (first.object, first.frame, first.points, first.labels) == (1, 1, [(1.5, 20)], [1])
    assert (second.object, second.frame, second.points, second.labels) == (3, 4, [(7, 8), (9, 10)], [1, 0])
    assert second.box == (0, 0, 96, 72)
    assert (third.object, third.frame, third.mask_file) == (2, 5, mask)
    np.testing.assert_array_equal(third.mask, two_objects() == 2)
    from_json = gather(*track_prompts.read_prompts_file(tmp_path / "p.json"), default=1)
    assert [p.as_flags() for p in from_json] == [p.as_flags() for p in (first, second, third)]
    assert second.as_flags() == shlex.split("--box 3:0,0,96,72@4 --point 3:7,8@4 --negative 3:9,10@4")
    assert third.as_flags() == ["--mask", f"2:{mask}@5"]


def test_masks_are_objects_by_their_values(tmp_path: Path) -> None:
    indexed = str(write_indexed(tmp_path / "two.png", two_objects()))
    white = tmp_path / "white.png"
    Image.fromarray((two_objects() == 2).astype(np.uint8) * 255).save(white)
    one, two = gather(options.mask_flag(indexed))
    assert (one.object, two.object) == (1, 2)
    np.testing.assert_array_equal(one.mask, two_objects() == 1)
    np.testing.assert_array_equal(two.mask, two_objects() == 2)
    (two,) = gather(options.mask_flag(f"2:{indexed}"))
    np.testing.assert_array_equal(two.mask, two_objects() == 2)
    for flag, obj in ((f"{white}", 1), (f"9:{white}", 9)):
        (only,) = gather(options.mask_flag(flag))
        assert only.object == obj
        np.testing.assert_array_equal(only.mask, two_objects() == 2)
    with pytest.raises(UsageError, match=r"there is no object 7 in it, only 1, 2"):
        gather(options.mask_flag(f"7:{indexed}"))
    with pytest.raises(UsageError, match="object 2 has another mask on frame 0"):
        gather(options.mask_flag(indexed), options.mask_flag(f"2:{white}"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "a list of prompts is needed"),
        ("[1]", "a list of prompts is needed"),
        ("[", "is not JSON"),
        ("[" * 100_000, "is not JSON that can be read: its brackets are nested too deeply"),
        ('{"a":' * 100_000, "is not JSON that can be read: its brackets are nested too deeply"),
        ('[{"points": ' + "[" * 100_000, "is not JSON that can be read: its brackets are nested too deeply"),
        ("[{}]", "prompt 1 prompts nothing"),
        ('[{"points": [[1, 2]]}, {"point": [1, 2]}]', "prompt 2: 'point' is not known"),
        ('[{"object": 0, "points": [[1, 2]]}]', "objects are numbered from 1 to 254"),
        ('[{"object": true, "points": [[1, 2]]}]', "objects are numbered from 1 to 254"),
        ('[{"frame": -1, "points": [[1, 2]]}]', "frames are numbered from 0"),
        ('[{"points": [1, 2]}]', "points must be"),
        ('[{"points": [[1, NaN]]}]', "points must be"),
        (f'[{{"points": [[1, {10**400}]]}}]', "points must be"),
        ('[{"points": [[1, 1e999]]}]', "points must be"),
        (f'[{{"object": {10**4000}, "points": [[1, 2]]}}]', "object an integer of 13288 bits: objects are numbered"),
        ('[{"points": [[1, 2]], "labels": [2]}]', "labels must be"),
        ('[{"points": [[1, 2]], "labels": []}]', "labels must be"),
        ('[{"box": [1, 2, 3]}]', "box must be"),
        ('[{"mask": 3}]', "mask must be"),
    ],
)
def test_prompts_file_with_mistakes(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UsageError, match=says):
        track_prompts.read_prompts_file(tmp_path / "p.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_prompts_files_of_every_editor(tmp_path: Path, encoding: str) -> None:
    """Windows puts a mark before UTF-8, or writes UTF-16."""
    (tmp_path / "p.json").write_bytes('[{"object": 1,\r\n "points": [[90, 80]]}]\r\n'.encode(encoding))
    (item,) = track_prompts.read_prompts_file(tmp_path / "p.json")
    assert (item.object, item.value) == (1, (90, 80))


def test_a_prompts_file_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track_prompts, "MAX_BYTES", 1000)
    for path in (Path("/dev/zero"), tmp_path / "long.json"):
        (tmp_path / "long.json").write_text("[" + " " * 1000 + "]")
        with pytest.raises(UsageError, match="is no list of prompts: it has more than 1,000 bytes"):
            track_prompts.read_prompts_file(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_in_the_alpha_channel(tmp_path: Path, mode: str) -> None:
    alpha = Image.fromarray((two_objects() == 2).astype(np.uint8) * 255)
    white = Image.new("RGB" if mode == "RGBA" else "L", alpha.size, "white")
    white.putalpha(alpha)
    white.save(tmp_path / "mask.png")
    (prompt,) = gather(options.mask_flag(f"3:{tmp_path / 'mask.png'}"))
    assert prompt.object == 3
    np.testing.assert_array_equal(prompt.mask, two_objects() == 2)


def test_every_number_of_an_object_fits_an_8_bit_mask() -> None:
    assert options.MAX_OBJECT == VOID - 1
