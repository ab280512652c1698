"""A tuned model goes back to the official code, which gives its masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import synthetic
import training_runs
from checkpoint_files import write_torch
from mlx_sam2.checkpoint.loading import load
from mlx_sam2.convert import main as convert
from mlx_sam2.finetune import Arguments, Trainer
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor

REASON = "needs the official package (CONTRIBUTING.md, Oracle tests)"
torch = pytest.importorskip("torch", reason=REASON)
pytest.importorskip("sam2", reason=REASON)

LOGIT_TOL, SCORE_TOL = 4e-4, 1e-5  # ten times the official code's own noise (golden/README.md)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["decoder", "lora", "full"])
def test_the_official_code_gives_the_masks_of_a_tuned_model(preset: str, tmp_path: Path) -> None:
    from official import official_image_predictor, official_model

    config = synthetic.nano_config()
    base = write_torch(tmp_path / "nano.pt", synthetic.nano_state())
    items = training_runs.small_items(tmp_path / "cells", 3)
    arguments = Arguments(preset=preset, steps=2, corrections=1, rate=1e-3, augment=False)
    trainer = Trainer(load(base, config=config, dtype="float32"), items, (), arguments, tmp_path)
    trainer.run()

    tuned = tmp_path / "tuned.pt"
    (tmp_path / "nano.yaml").write_text(json.dumps(synthetic.config_dict()))
    words = ["--hf-path", str(base), "--config", str(tmp_path / "nano.yaml"), "--merge-adapter", str(tmp_path)]
    assert convert([*words, "--to", "official", "--mlx-path", str(tuned)]) == 0
    state = {name: value.numpy() for name, value in torch.load(tuned, weights_only=True)["model"].items()}

    ours = SAM2ImagePredictor(load(base, config=config, dtype="float32", adapter=tmp_path))
    theirs = official_image_predictor(official_model(synthetic.config_dict(), state))
    plain = SAM2ImagePredictor(load(base, config=config, dtype="float32"))
    found = []
    for predictor in (ours, theirs, plain):
        predictor.set_image(synthetic.picture())
        found.append(predictor.predict(np.array([[100, 120]]), np.array([1]), return_logits=True))
    np.testing.assert_allclose(np.asarray(found[0][2]), np.asarray(found[1][2]), rtol=0, atol=LOGIT_TOL)
    np.testing.assert_allclose(np.asarray(found[0][1]), np.asarray(found[1][1]), rtol=0, atol=SCORE_TOL)
    assert np.abs(np.asarray(found[0][2]) - np.asarray(found[2][2])).max() > 0.01  # something was learned
