"""The page: the menu of the name, rows of objects, classes, the model's panel, fingers, and rules in every state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import page_browser
import page_media
import page_states
from page_browser import Page, until
from page_rules import faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
PHOTO = page_states.PHOTO  # 600 x 400
CUP, SPOON = (290, 150), (380, 310)


@pytest.fixture
def page(app_server: str, browser: Any) -> Iterator[Page]:
    page = Page(browser, app_server)
    yield page
    page.close()
    assert page.errors == []


def item(page: Page, name: str) -> Any:
    page.tab.click("#document")
    return page.tab.locator("#menu").get_by_role("menuitem", name=name)


def test_the_name_has_a_menu_of_open_documents(page: Page, tmp_path: Path) -> None:
    page.open(PHOTO)
    page.click(*CUP)
    photo = page.id
    page.open(page_media.write_clip(tmp_path / "ball.mp4", 4))
    page.tab.click("#document")
    here = page.tab.get_by_role("menuitemradio", checked=True)
    assert here.inner_text().startswith("ball.mp4")
    page.tab.get_by_role("menuitemradio", name="coffee.jpg").first.click()
    until(lambda: page.id == photo, "the photo")
    page.settled()
    assert page.text("#name") == "coffee.jpg" and len(page.objects()) == 1

    item(page, "Rename").click()
    page.tab.get_by_label("Name", exact=True).fill("My mug")
    page.tab.keyboard.press("Enter")
    page.wait("My mug.jpg", "#name")
    assert page.session()["name"] == "My mug.jpg"
    with page.tab.expect_download() as waiting:
        item(page, "Save as a project").click()
    assert waiting.value.suggested_filename == "My mug.sam2.zip"
    item(page, "Close").click()
    page.tab.get_by_role("button", name="My mug.jpg Picture").wait_for()


def test_closing_asks_where_something_would_be_lost(browser: Any) -> None:
    with page_browser.serving(arguments=("--no-autosave",)) as url:
        page = Page(browser, url)
        page.open(PHOTO)
        page.click(*CUP)
        item(page, "Close").click()
        page.tab.get_by_role("button", name="Cancel").click()
        assert page.tab.locator("#unsaved").get_attribute("data-shown") == "true" and len(page.objects()) == 1
        item(page, "Close").click()
        page.tab.locator("dialog[open]").get_by_role("button", name="Close", exact=True).click()
        page.tab.get_by_text("Point at anything").wait_for()
        page.close()
        assert page.errors == []


def test_rows_say_class_score_and_area(page: Page) -> None:
    page.open(PHOTO)
    page.tab.locator("#classes").fill("cup, spoon")
    page.press("Enter")
    page.tab.locator("#stage").focus()
    page.press("2")
    page.click(*SPOON)
    row = page.tab.locator("#objects .about")
    mask = page.masks()["1"]
    assert row.locator("kbd").inner_text() == "2"
    assert row.inner_text().endswith(f"{mask['score']:.2f} · {mask['area']:,} px")
    page.press("1")
    assert page.objects()[0]["name"] == "cup" and row.inner_text().startswith("1")
    chosen = page.tab.evaluate("document.querySelector('#candidates input:checked').ariaLabel")
    page.press("Alt+3")  # the digits are classes
    assert page.prompts()["choice"] is not None and page.objects()[0]["name"] == "cup"
    assert page.tab.evaluate("document.querySelector('#candidates input:checked').ariaLabel") != chosen
    page.open(PHOTO)  # another document begins without a class
    page.click(*CUP)
    assert page.objects()[0]["name"] == "Object 1"


def test_what_is_waited_for_lies_beside_the_picture(app_server: str, browser: Any) -> None:
    for width, height in ((1440, 900), (1024, 768), (390, 844)):
        page = Page(browser, app_server, width, height)
        page.open(PHOTO)
        page.tab.evaluate("app.status.busy('Opening another one…')")
        stage, pill = (page.tab.locator(name).bounding_box() for name in ("#stage", "#pill"))
        assert pill["x"] >= stage["x"] + stage["width"] or pill["y"] >= stage["y"] + stage["height"], width
        page.tab.evaluate("app.status.busy(null)")
        page.close()
        assert page.errors == []


def test_a_model_that_is_missing_has_one_panel(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with page_browser.serving("tiny") as url:
        tab = browser.new_page()
        tab.goto(url)
        panel = tab.locator("#model-panel")
        panel.get_by_text("The model tiny is not there").wait_for()
        assert tab.get_by_role("alert").count() == 1 and tab.locator(".toast").count() == 0
        panel.get_by_text("Details").click()
        panel.get_by_text("HF_HUB_OFFLINE").wait_for()
        tab.set_input_files("#pick-file", str(PHOTO))
        until(lambda: tab.evaluate("app.session?.status") == "failed", "the photo without a model")
        assert tab.get_by_role("alert").count() == 1 and tab.locator("#pill").is_hidden()
        panel.get_by_role("button", name="Use the demo").click()
        panel.wait_for(state="hidden")
        until(lambda: tab.evaluate("app.session.ready && app.idle"), "the photo with the demo")
        assert tab.locator("#model").inner_text().startswith("demo")

        tab.click("#model-open")
        assert tab.locator("#model-dialog [aria-pressed=true]").inner_text().startswith("demo")
        tab.get_by_role("button", name="tiny The fastest").click()
        panel.get_by_text("demo goes on").wait_for()
        assert tab.evaluate("app.session.ready")
        panel.get_by_role("button", name="Dismiss").click()
        assert panel.is_hidden()
        tab.close()


def finger(page: Page, wire: Any, kind: str, *place: float) -> None:
    fingers = [{"x": place[0], "y": place[1]}] if place else []
    wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})


def test_one_finger_moves_and_two_taps_fit(app_server: str, browser: Any) -> None:
    page = Page(browser, app_server, 390, 844, touch=True)
    page.open(PHOTO)
    wire = page.context.new_cdp_session(page.tab)
    page.tab.evaluate("app.view.zoomTo(2)")
    left, scale = page.tab.evaluate("[app.view.x, app.view.scale]")
    x, y = page.place(290, 150)
    for kind, place in (
        ("touchStart", (x, y)),
        ("touchMove", (x + 40, y)),
        ("touchMove", (x + 60, y)),
        ("touchEnd", ()),
    ):
        finger(page, wire, kind, *place)
    assert page.tab.evaluate("app.view.x") > left + 15 and page.objects() == []
    for _ in range(2):
        finger(page, wire, "touchStart", x, y)
        finger(page, wire, "touchEnd")
    until(lambda: page.tab.evaluate("app.view.fitted"), "the picture to fit")
    page.settled()
    assert page.tab.evaluate("app.view.scale") < scale and page.objects() == [], "two taps left a click"
    page.tab.click("#help")
    assert page.tab.locator("#help-dialog kbd").filter(has_text="Esc").count() == 0
    page.close()
    assert page.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault_in_any_state(browser: Any, tmp_path: Path, theme: str) -> None:
    with page_browser.serving() as url:
        page = Page(browser, url, theme=theme)
        seen = 0
        for state in page_states.states(page, tmp_path):
            assert faults(page) == [], state
            seen += 1
        assert seen >= 20
        page.close()
