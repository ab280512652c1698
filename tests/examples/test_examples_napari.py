"""examples/napari_plugin with the real napari, on the demo model: layers without a window, and one test with one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from example_programs import COFFEE, EXAMPLES, WAIT
from mlx_sam2 import SAM2VideoPredictor, images

PLUGIN = EXAMPLES / "napari_plugin"
MANIFEST = PLUGIN / "napari_mlx_sam2" / "napari.yaml"
MISSING = "napari or PySide6 is not installed, or lacks libraries: pip install -e '.[examples]'"

pytest.importorskip("PySide6.QtWidgets", reason=MISSING, exc_type=ImportError)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # npe2 uses what pydantic will give up
    pytest.importorskip("napari.components", reason=MISSING, exc_type=ImportError)
sys.path.insert(0, str(PLUGIN))


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """Five frames that pan over the photo of coffee, (T, H, W, 3)."""
    photo = images.read(COFFEE)
    return np.stack([photo[40:360, 8 * t : 8 * t + 480] for t in range(5)])


@pytest.fixture(scope="module")
def demo() -> SAM2VideoPredictor:
    return SAM2VideoPredictor.from_pretrained("demo")


@pytest.fixture
def panel() -> Iterator[Any]:
    from napari.components import ViewerModel
    from napari_mlx_sam2.panel import Panel
    from PySide6.QtWidgets import QApplication

    keep = QApplication.instance() or QApplication([])
    panel = Panel(ViewerModel())
    yield panel
    panel.worker.shutdown()
    keep.processEvents()


def until(panel: Any, condition: Callable[[], bool], what: str) -> None:
    from PySide6.QtWidgets import QApplication

    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, f"never came: {what}; the panel says {panel.status.text()!r}"
        QApplication.processEvents()
        time.sleep(0.002)


def settled(panel: Any) -> None:
    """All that was asked for is drawn."""
    reached = []
    panel._then(panel.worker.submit(int), reached.append)
    until(panel, lambda: bool(reached), "the end of the queue")


def started(panel: Any, data: np.ndarray, rgb: bool = True, **options: Any) -> None:
    panel.viewer.add_image(data, rgb=rgb, name="picture", **options)
    panel.start()
    until(panel, lambda: panel.points is not None, "the layers")


def labels_of(output: tuple[int, list[int], np.ndarray]) -> np.ndarray:
    """By the plugin's rule, one object after the other."""
    _, obj_ids, logits = output
    labels, surest = np.zeros(logits.shape[2:], int), np.zeros(logits.shape[2:], np.float32)
    for obj_id, mask in zip(obj_ids, logits[:, 0], strict=True):
        labels[mask > surest] = obj_id
        surest = np.maximum(surest, mask)
    return labels


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # npe2's own
def test_the_manifest_is_one_that_napari_takes() -> None:
    from napari_mlx_sam2.panel import Panel
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert manifest.contributions.commands[0].python_name == "napari_mlx_sam2.panel:Panel"
    assert (
        f'{manifest.name} = "{Panel.__module__.partition(".")[0]}:{MANIFEST.name}"'
        in (PLUGIN / "pyproject.toml").read_text()
    )


@pytest.mark.slow
def test_clicks_become_labels(panel: Any, film: np.ndarray, demo: SAM2VideoPredictor) -> None:
    started(panel, film[0], scale=(0.5, 0.5))
    assert panel.masks.data.shape == (320, 480) and panel.masks.scale.tolist() == [0.5, 0.5]
    assert not panel.track.isEnabled()  # one picture
    with demo.init_state(film[:1]) as state:

        def same(output: Any) -> None:
            settled(panel)
            np.testing.assert_array_equal(panel.masks.data, labels_of(output))

        panel.points.add([[110, 270]])  # napari's row and column
        same(demo.add_new_points_or_box(state, 0, 1, points=[[270, 110]], labels=[1]))
        panel.sign.setCurrentIndex(1)
        panel.points.add([[60, 400]])
        demo.clear_all_prompts_in_frame(state, 0, 1)
        same(demo.add_new_points_or_box(state, 0, 1, points=[[270, 110], [400, 60]], labels=[1, 0]))
        panel.sign.setCurrentIndex(0)
        panel.object.setValue(2)
        panel.points.add([[270, 350]])
        same(demo.add_new_points_or_box(state, 0, 2, points=[[350, 270]], labels=[1]))
        assert panel.points.features["object"].tolist() == [1, 1, 2]
        colours = panel.points.face_color[:, :2].tolist()
        assert colours[0] == colours[2] != colours[1]
    assert panel.status.text() == f"{len(np.unique(panel.masks.data)) - 1} object(s) here"
    assert set(np.unique(panel.masks.data)) >= {0, 2}

    panel.points.selected_data = {2}
    panel.points.remove_selected()
    settled(panel)
    assert 2 not in panel.masks.data and panel.session.state.obj_ids == [1]
    panel.points.selected_data = {0, 1}
    panel.points.remove_selected()
    settled(panel)
    assert not panel.masks.data.any() and panel.session.state.obj_ids == []


@pytest.mark.slow
def test_objects_are_tracked_through_a_film(panel: Any, film: np.ndarray, demo: SAM2VideoPredictor) -> None:
    started(panel, film)
    panel.points.add([[0, 110, 270]])
    panel.object.setValue(5)
    panel.points.add([[2, 270, 350]])
    settled(panel)
    panel.start_tracking()
    assert panel.cancel.isEnabled()
    until(panel, lambda: panel.status.text() == "Tracked", "the end of the film")
    with demo.init_state(film) as state:
        demo.add_new_points_or_box(state, 0, 1, points=[[270, 110]], labels=[1])
        demo.add_new_points_or_box(state, 2, 5, points=[[350, 270]], labels=[1])
        expected = [labels_of(output) for output in demo.propagate_in_video(state)]
    np.testing.assert_array_equal(panel.masks.data, np.stack(expected))
    assert panel.track.isEnabled() and not panel.cancel.isEnabled()


def test_tracking_can_be_cancelled_and_napari_goes_on(panel: Any, film: np.ndarray) -> None:
    started(panel, film)
    panel.points.add([[0, 110, 270]])
    settled(panel)
    entered, let_go = threading.Event(), threading.Event()
    panel.worker.submit(lambda: (entered.set(), let_go.wait(WAIT)))
    assert entered.wait(WAIT)
    panel.start_tracking()  # waits behind the call that is held
    panel.points.add([[3, 200, 200]])
    assert len(panel.points.data) == 2 and panel.cancel.isEnabled()
    panel.cancel.click()
    assert panel.status.text() == "Cancelled" and panel.track.isEnabled()
    let_go.set()
    settled(panel)
    assert panel.masks.data[0].any() and not panel.masks.data[1:3].any()


def test_grey_stacks_are_seen_as_napari_shows_them() -> None:
    from napari_mlx_sam2.session import Frames

    stack = (np.arange(3 * 4 * 5).reshape(3, 4, 5) * 100).astype(np.uint16)
    frames = Frames(stack, False, (1000.0, 3000.0))
    expected = ((stack[1].astype(float) - 1000) / 2000).clip(0, 1) * 255
    assert len(frames) == 3 and frames[1].shape == (4, 5, 3) and frames[1].dtype == np.uint8
    assert np.abs(frames[1] - expected[..., None]).max() <= 0.5
    colour = np.random.default_rng(0).random((4, 5, 4), np.float32)
    np.testing.assert_array_equal(Frames(colour, True, (0.0, 1.0))[0], (colour[..., :3] * 255).round())


def test_what_cannot_be_done_is_said_in_the_panel(panel: Any, film: np.ndarray) -> None:
    panel.start()
    assert panel.status.text() == "There is no image: open one first"
    panel.viewer.add_image(np.zeros((2, 2, 4, 5)), name="volume")
    panel.start()
    assert panel.status.text() == "the layer has 4 axes; SAM 2 takes a picture (2) or a stack or film of pictures (3)"
    panel.viewer.layers.clear()
    panel.viewer.add_image(film, rgb=True)
    panel.model.setText("./no/such/model")
    panel.start()
    until(panel, lambda: "no such file or folder: ./no/such/model" in panel.status.text(), "a complaint")
    assert panel.segment.isEnabled()
    panel.model.setText("demo")
    panel.start()
    until(panel, lambda: panel.points is not None, "the layers")
    state = panel.session.state
    panel.start_tracking()
    until(panel, lambda: "please add inputs first" in panel.status.text(), "a complaint")
    assert panel.track.isEnabled()
    panel.viewer.layers.remove(panel.points)
    settled(panel)
    assert panel.session is None and not panel.track.isEnabled() and state.store.closed


VIEWER = """
import sys, napari, npe2, numpy as np
from qtpy.QtWidgets import QApplication
manifest, photo, picture = sys.argv[1:]
npe2.PluginManager.instance().register(npe2.PluginManifest.from_file(manifest))
from mlx_sam2 import images
viewer = napari.Viewer(show=True)
viewer.add_image(images.read(photo), rgb=True)
_, panel = viewer.window.add_plugin_dock_widget("napari-mlx-sam2")
panel.start()
while panel.points is None:
    QApplication.processEvents()
panel.points.add([[150, 290]])
while not panel.masks.data.any():
    QApplication.processEvents()
print(panel.status.text())
viewer.screenshot(picture, canvas_only=False, flash=False)
viewer.close()
"""


@pytest.mark.slow
def test_the_plugin_in_a_real_window(tmp_path: Path) -> None:
    """Under a virtual screen: napari draws with OpenGL, which Qt's offscreen platform does not have."""
    xvfb = shutil.which("xvfb-run")
    if xvfb is None:
        pytest.skip("xvfb-run is not installed (Debian: apt install xvfb xauth libgl1-mesa-dri)")
    paths = (MANIFEST, COFFEE, tmp_path / "napari.png")
    done = subprocess.run(
        [xvfb, "-a", "-s", "-screen 0 1400x900x24", sys.executable, "-c", VIEWER, *map(str, paths)],
        env={k: v for k, v in os.environ.items() if k != "QT_QPA_PLATFORM"}
        | {"PYTHONPATH": f"{EXAMPLES.parent}{os.pathsep}{PLUGIN}", "LIBGL_ALWAYS_SOFTWARE": "1"},
        capture_output=True,
        text=True,
        timeout=5 * WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 object(s) here"
    assert len(np.unique(images.read(tmp_path / "napari.png").reshape(-1, 3), axis=0)) > 1000
