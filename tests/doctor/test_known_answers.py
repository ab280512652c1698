"""Weights are compared with published scores; what cannot be compared is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import synthetic
from checkpoint_files import write_transformers
from doctor_runs import NO_METAL, main, run
from hub_stand_in import HubStandIn
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.doctor import known_answers

DEAD = "http://127.0.0.1:9"
OURS = "facebook/sam2.1-hiera-tiny"
# what a machine with the true weights would print, for weights that we have: their own scores are the expected ones
WITH_ANSWERS = """
import sys
from mlx_sam2.doctor import command, known_answers
known_answers.variant_of = lambda config: "sam2.1_hiera_tiny"
known_answers.SCORES = {"sam2.1_hiera_tiny": tuple(map(float, sys.argv.pop().split(",")))}
known_answers.CLICK = (40, 30)
sys.exit(command.main())
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("hub")
    photo = base / "photo" / known_answers.PHOTO
    photo.parent.mkdir(parents=True)
    Image.fromarray(synthetic.picture(90, 120)).save(photo)
    weights = write_transformers(base / "weights", synthetic.nano_state(), synthetic.config_dict())
    return {known_answers.PHOTO_REPO: base / "photo", OURS: weights}


@pytest.fixture(scope="module")
def scores() -> str:
    from mlx_sam2 import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(synthetic.nano_model())
    predictor.set_image(synthetic.picture(90, 120))
    return ",".join(f"{score:.4f}" for score in predictor.predict([[40, 30]], [1])[1])


def doctor_of_weights(endpoint: str, home: Path, scores: str) -> dict[str, Any]:
    arguments = ("--weights", OURS, "--json", scores)
    done = run(*arguments, code=WITH_ANSWERS, HF_ENDPOINT=endpoint, HF_HOME=str(home), HF_HUB_OFFLINE="0")
    assert done.stderr == ""
    findings = json.loads(done.stdout)
    assert findings["exit_code"] == done.returncode
    return findings


@pytest.mark.slow
def test_weights_that_agree_differ_or_cannot_be_verified(
    repositories: dict[str, Path], scores: str, tmp_path: Path
) -> None:
    with HubStandIn(repositories) as endpoint:
        findings = doctor_of_weights(endpoint, tmp_path, scores)
        assert (findings["verdict"], findings["exit_code"]) == ("fine", 0)
        assert findings["weights"]["agrees"] is True
        expected = [float(s) for s in scores.split(",")]
        np.testing.assert_allclose(findings["weights"]["scores"], expected, rtol=0, atol=1e-4)

        reversed_order = ",".join(reversed(scores.split(",")))
        findings = doctor_of_weights(endpoint, tmp_path, reversed_order)
        assert (findings["verdict"], findings["exit_code"]) == ("wrong", 1)
        assert "the scores of facebook/sam2.1-hiera-tiny are not those of sam2.1_hiera_tiny" in findings["wrong"][0]

    findings = doctor_of_weights(DEAD, tmp_path, scores)  # both are in the cache by now
    assert findings["verdict"] == "fine"

    with HubStandIn({OURS: repositories[OURS]}) as endpoint:
        findings = doctor_of_weights(endpoint, tmp_path / "other", scores)
        assert (findings["verdict"], findings["exit_code"]) == ("not verified", 1)
        assert findings["weights"]["unverified"].startswith(
            "the photo assets/car.png of ybelkada/segment-anything is not"
        )


@pytest.mark.slow
def test_no_network_at_all(tmp_path: Path) -> None:
    """The machine is examined all the same, and the report says that the weights were not."""
    done = run("--weights", "tiny", HF_ENDPOINT=DEAD, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert (done.returncode, done.stderr) == (1, "")
    assert "axial_rope" in done.stdout
    assert f"weights of tiny: NOT verified, {OURS} is not in the local cache, and {DEAD} could not be" in done.stdout
    assert done.stdout.splitlines()[-1] == "verdict: the machine is fine, but the weights were NOT verified"


def test_a_setting_of_the_hub_that_makes_no_sense() -> None:
    done = run("--model", "tiny", HF_HUB_DOWNLOAD_TIMEOUT="soon")
    assert (done.returncode, done.stderr) == (1, "")
    assert "wrong: nothing can be downloaded: " in done.stdout


@NO_METAL
def test_weights_without_published_scores(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, _ = main(capsys, "--weights", folder)
    assert code == 1
    assert "NOT verified, no scores were published for a model of this configuration" in out


def test_every_published_model_is_known() -> None:
    assert known_answers.SCORES.keys() == PUBLISHED.keys()
    for name, model in PUBLISHED.items():
        assert known_answers.variant_of(model.config.with_postprocessing(True, video=True)) == name


@pytest.mark.parametrize(
    ("scores", "agrees"), [((0.1, 0.5, 0.989), True), ((0.1, 0.5, 0.96), False), ((0.1, 0.5, float("nan")), False)]
)
def test_tolerance(scores: tuple[float, ...], agrees: bool) -> None:
    assert known_answers.Verification("m", "v", (0.1, 0.5, 0.98), scores).agrees is agrees
