"""The page for everybody: axe-core's rules, three widths, light and dark, fingers, and masks as they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import page_browser
import page_media
from page_browser import Page, until
from page_rules import faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"
SIZES = {"desktop": (1440, 900), "small": (1024, 768), "phone": (390, 844)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_media.write_clip(tmp_path_factory.mktemp("clip") / "ball.mp4", 8)


def overflow(page: Page) -> list[str]:
    """Controls that stick out of the window, lie under another one, or are too small for a finger (24 CSS pixels)."""
    return page.tab.evaluate(
        """() => [...document.querySelectorAll("button, label:has(input), input:not([type=radio], [type=checkbox])")]
          .filter((item) => item.checkVisibility({ visibilityProperty: true }))
          .filter((item) => {
            const { left, right, top, width, height } = item.getBoundingClientRect();
            const there = document.elementFromPoint(left + width / 2, top + height / 2);
            const fixed = item.closest(".bar, .transport") && !document.querySelector(":popover-open");
            const hidden = fixed && !item.contains(there);
            return left < 0 || right > innerWidth + 0.5 || Math.min(width, height) < 24 || hidden;
          })
          .map((item) => [item.id || item.textContent.trim() || item.ariaLabel, item.getBoundingClientRect()])
          .map(([name, { left, right, width, height }]) => `${name} ${left}..${right}, ${width} x ${height}`)"""
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_no_serious_fault_at_any_width(app_server: str, browser: Any, clip: Path, size: str, theme: str) -> None:
    page = Page(browser, app_server, *SIZES[size], theme, touch=size == "phone")
    whole = (size, theme) in (("desktop", "light"), ("desktop", "dark"), ("phone", "light"))  # all rules in all places

    def check() -> None:
        assert overflow(page) == []
        if whole:
            assert faults(page) == []

    check()
    page.open(PHOTO)
    page.click(290, 150)
    page.press("n")
    page.click(380, 310)
    check()
    page.tab.click("#export")
    check()
    page.tab.keyboard.press("Escape")
    page.tab.click("#help")
    if whole:
        assert faults(page) == []
    page.tab.keyboard.press("Escape")
    page.open(clip)
    page.click(60, 165)
    check()
    wide, high = page.tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert (wide, high) == SIZES[size]
    page.close()
    assert page.errors == []


@pytest.mark.parametrize("width", [320, 800])
def test_the_window_may_have_any_width(app_server: str, browser: Any, clip: Path, width: int) -> None:
    page = Page(browser, app_server, width, 640)
    page.open(clip)
    page.click(60, 165)
    assert overflow(page) == []
    assert page.tab.evaluate("document.documentElement.scrollWidth") == width
    page.tab.set_viewport_size({"width": 1440, "height": 900})
    page.settled()
    assert page.ink(66, 165)[3] > 0, "after resizing the mask is not where the picture is"
    page.close()


def test_the_theme_can_be_chosen_and_is_kept(app_server: str, browser: Any) -> None:
    page = Page(browser, app_server)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.tab.evaluate(ground)
    page.tab.click("#theme")
    dark = page.tab.evaluate(ground)
    assert dark != light
    page.tab.reload()
    assert page.tab.evaluate(ground) == dark
    page.tab.emulate_media(color_scheme="dark")
    page.tab.click("#theme")
    page.tab.click("#theme")
    assert page.tab.evaluate(ground) == light
    page.close()


def test_the_order_of_the_focus(app_server: str, browser: Any) -> None:
    page = Page(browser, app_server)
    page.open(PHOTO)
    page.click(290, 150)
    page.tab.locator("#open").focus()
    seen = []
    for _ in range(15):
        seen.append(
            page.tab.evaluate(
                "document.activeElement.id || document.activeElement.ariaLabel || document.activeElement.className"
            )
        )
        page.tab.keyboard.press("Tab")
    wanted = ["open", "undo", "zoom-out", "zoom-fit", "zoom-in", "theme", "help", "export", "stage", "object-new"]
    assert [name for name in seen if name in wanted] == wanted
    page.close()


def test_fingers_point_and_pinch(app_server: str, browser: Any) -> None:
    page = Page(browser, app_server, *SIZES["phone"], touch=True)
    page.open(PHOTO)
    page.tab.touchscreen.tap(*page.place(290, 150))
    until(lambda: page.objects(), "the tap to arrive")
    page.settled()
    page.tab.get_by_role("radio", name="Exclude").check()
    page.tab.touchscreen.tap(*page.place(380, 310))
    until(lambda: len(page.prompts()["points"]) == 2, "the second tap")
    page.settled()
    assert [label for *_, label in page.prompts()["points"]] == [1, 0]

    before = page.tab.evaluate("app.view.scale")
    wire = page.context.new_cdp_session(page.tab)
    x, y = page.place(300, 200)
    for kind, apart in [("touchStart", 20), ("touchMove", 40), ("touchMove", 60), ("touchEnd", None)]:
        fingers = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    assert page.tab.evaluate("app.view.scale") == pytest.approx(3 * before, rel=0.05)
    assert len(page.prompts()["points"]) == 2, "pinching placed a point"
    page.close()
    assert page.errors == []


def test_masks_are_decoded_as_python_encodes_them(app_server: str, browser: Any) -> None:
    from mlx_sam2.masks.rle import mask_to_rle

    rng = np.random.default_rng(0)
    masks = [rng.random((13, 17)) < density for density in (0.02, 0.3, 0.5, 0.9)]
    masks += [np.zeros((5, 4), bool), np.ones((5, 4), bool), np.kron(rng.random((6, 5)) < 0.5, np.ones((8, 6))) > 0]
    page = Page(browser, app_server)
    decoded = page.tab.evaluate(
        """async (masks) => {
          const { rasterise, outlines, contains } = await import("/static/rle.js");
          const draw = new OffscreenCanvas(1, 1).getContext("2d");
          return masks.map((rle) => {
            const [height, width] = rle.size;
            const raster = rasterise(rle), filled = [], outlined = [], held = [];
            const path = new Path2D();
            for (const loop of raster ? outlines(raster) : []) {
              path.moveTo(loop[0], loop[1]);
              for (let i = 2; i < loop.length; i += 2) path.lineTo(loop[i], loop[i + 1]);
              path.closePath();
            }
            for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
              const column = x - (raster?.x ?? 0), row = y - (raster?.y ?? 0);
              const inside = raster && column >= 0 && row >= 0 && column < raster.columns && row < raster.rows;
              filled.push(inside ? raster.cells[row * raster.columns + column] : 0);
              outlined.push(Number(draw.isPointInPath(path, x + 0.5, y + 0.5, "evenodd")));
              held.push(Number(contains(rle, x, y)));
            }
            return { filled, outlined, held };
          });
        }""",
        [mask_to_rle(mask) for mask in masks],
    )
    for mask, found in zip(masks, decoded, strict=True):
        for way in ("filled", "outlined", "held"):
            np.testing.assert_array_equal(np.reshape(found[way], mask.shape), mask, err_msg=way)
    page.close()


LANES = """() => {
  const canvas = document.getElementById("strip-canvas"), ratio = canvas.width / canvas.clientWidth;
  const context = canvas.getContext("2d"), ground = document.createElement("canvas").getContext("2d");
  ground.fillStyle = getComputedStyle(document.getElementById("strip")).backgroundColor;
  ground.fillRect(0, 0, 1, 1);
  const linear = (v) => (v <= 0.04045 * 255 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const base = light(ground.getImageData(0, 0, 1, 1).data);
  const contrast = (pixel) => {
    const [dark, bright] = [light(pixel), base].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const best = (x, top, bottom) => {
    const { data } = context.getImageData(Math.round(x * ratio), Math.round(top * ratio), 1, (bottom - top) * ratio);
    const pixels = Array.from({ length: data.length / 4 }, (_, i) => data.subarray(4 * i, 4 * i + 4));
    return Math.max(0, ...pixels.filter(([, , , alpha]) => alpha === 255).map(contrast));
  };
  const { left } = app.timeline.lanes;
  const between = (from, to) => Math.max(...Array.from({ length: to - from }, (_, x) => best(from + x, 45, 57)));
  const tracked = best(canvas.clientWidth * 0.3, 45, 57);
  return { tracked, prompt: between(left - 5, left + 5), number: between(4, 18), name: between(40, 80) };
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_timeline_can_be_seen_in_every_colour(app_server: str, browser: Any, clip: Path, theme: str) -> None:
    page = Page(browser, app_server, theme=theme)
    page.open(clip)
    page.click(60, 165)
    page.track()
    for colour in ("Yellow", "Blue", "Sky blue"):
        page.tab.get_by_label("Colour of Object 1").click()
        page.tab.get_by_role("button", name=colour, exact=True).click()
        page.settled()
        page.painted()
        found = page.tab.evaluate(LANES)
        assert min(found.values()) >= 3, (colour, found)
    assert page.tab.locator(".swatch").get_attribute("data-number") == "1"
    page.close()


def test_one_button_at_a_time_stands_out(app_server: str, browser: Any, clip: Path) -> None:
    page = Page(browser, app_server)

    def primary() -> list[str]:
        shown = "[...document.querySelectorAll('button.primary')].filter((button) => button.checkVisibility())"
        return page.tab.evaluate(f"{shown}.map((button) => button.id || button.textContent)")

    assert primary() == ["Open a file"]
    page.open(PHOTO)
    assert primary() == [], "there is nothing to export"
    page.click(290, 150)
    assert primary() == ["export"]
    page.press("a")
    assert primary() == ["everything-find"]
    page.press("i")
    page.open(clip)
    page.click(60, 165)
    assert primary() == ["track-on"]
    page.track()
    assert primary() == ["export"]
    page.press("Control+z")
    assert primary() == ["track-on"]
    page.close()
    assert page.errors == []


def test_single_keys_can_be_turned_off(app_server: str, browser: Any) -> None:
    page = Page(browser, app_server)
    page.open(PHOTO)
    page.click(290, 150)
    page.tab.click("#help")
    page.tab.get_by_label("Single keys act").uncheck()
    page.tab.keyboard.press("Escape")
    page.tab.locator("#stage").focus()
    page.press("b")
    page.press("v")
    assert page.tab.get_by_role("radio", name="Include").is_checked() and page.objects()[0]["visible"]
    page.press("Control+z")
    assert page.objects() == []
    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session")
    page.settled()
    page.press("b")
    assert page.tab.get_by_role("radio", name="Include").is_checked(), "the choice is forgotten"
    page.close()


def test_messages_lie_beside_the_picture(app_server: str, browser: Any) -> None:
    for width, height in SIZES.values():
        page = Page(browser, app_server, width, height)
        page.open(PHOTO)
        page.tab.evaluate("app.say('One.'); app.problem(new Error('Two did not work, and this is a longer line.'))")
        stage = page.tab.locator("#stage").bounding_box()
        for item in page.tab.locator(".toast").all():
            box = item.bounding_box()
            right, below = stage["x"] + stage["width"] <= box["x"], stage["y"] + stage["height"] <= box["y"]
            assert right or below, f"{width}: a message lies over the picture"
        page.close()
        assert len(page.errors) == 1  # that one, as the console has it
