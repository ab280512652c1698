"""Results that are numpy arrays and answer what scripts ask of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlx_sam2.utils.arrays import Device, ResultArray, as_result, check_return_tensors, to_numpy


@pytest.fixture
def logits() -> ResultArray:
    return ResultArray.of(np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 1, 3, 4))


def test_the_chain_of_the_official_notebook(logits: ResultArray) -> None:
    masks = {i: (logits[i] > 0.0).cpu().numpy() for i in range(len(logits))}
    assert type(masks[0]) is np.ndarray and masks[0].dtype == bool and masks[1].shape == (1, 3, 4)
    assert (masks[1] == (np.asarray(logits)[1] > 0)).all()


def test_moves_and_conversions(logits: ResultArray) -> None:
    assert logits.detach().cpu().cuda().to("cuda:0").to("mps") is logits
    assert logits.to("cpu", dtype=np.float16).dtype == logits.half().dtype == np.float16
    assert logits.bool().dtype == bool and logits.int().dtype == np.int32 and logits.long().dtype == np.int64
    assert logits.half().float().dtype == np.float32 and logits.type("torch.DoubleTensor") is logits
    assert np.allclose(logits.sigmoid(), 1 / (1 + np.exp(-logits.numpy())))
    copied = logits.clone()
    copied[0] = 7
    assert logits.max() == 2


def test_shapes(logits: ResultArray) -> None:
    assert logits.squeeze(1).shape == logits.squeeze().shape == (2, 3, 4)
    assert logits.squeeze(0).shape == (2, 1, 3, 4)  # numpy raises where torch leaves it
    assert np.squeeze(logits, axis=1).shape == (2, 3, 4)
    assert logits.unsqueeze(0).shape == (1, 2, 1, 3, 4) and logits.unsqueeze(-1).shape == (2, 1, 3, 4, 1)
    assert logits.permute(2, 3, 0, 1).shape == (3, 4, 2, 1)
    assert logits.size() == (2, 1, 3, 4) and logits.size(2) == 3 and logits.size == 24
    assert logits.dim() == 4 and logits.numel() == 24


def test_it_stays_an_array_of_numpy(logits: ResultArray) -> None:
    assert (
        isinstance(logits, np.ndarray) and isinstance(logits * 2, ResultArray) and isinstance(logits[0, 0], ResultArray)
    )
    assert type(logits.sum()) is np.float32 and type((logits > 0).any()) is np.bool_
    assert not isinstance(logits.mean(), ResultArray)


def test_devices() -> None:
    device = Device.current()
    assert device == "cpu" and device.type == "cpu" and device.index is None and f"{device}" == "cpu"


def test_tensors_of_torch(logits: ResultArray) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    tensor = as_result(logits, "torch")
    assert isinstance(tensor, torch.Tensor) and torch.equal(tensor > 0, torch.from_numpy(logits.numpy() > 0))
    assert torch.device(Device.current()).type == "cpu"
    assert logits.to(torch.float16).dtype == np.float16 and logits.to(torch.device("cpu"), torch.bool).dtype == bool
    assert to_numpy(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float32


def test_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ValueError, match="return_tensors='torch' needs PyTorch: pip install torch"):
        check_return_tensors("torch")


@pytest.mark.parametrize("value", ["tf", None])
def test_another_form_of_results(value: Any) -> None:
    with pytest.raises(ValueError, match="is not known; use 'np' or 'torch'"):
        check_return_tensors(value)
