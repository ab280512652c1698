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


def test_calls_that_numpy_would_refuse_mean_what_they_mean_in_torch(logits: ResultArray) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    calls = (
        lambda x: x.sum(dim=-1, keepdim=True),
        lambda x: x.mean(dim=(1, 2)),
        lambda x: (x > 0).any(dim=1),
        lambda x: (x > 0).all(dim=0),
        lambda x: x.argmax(dim=-1),
        lambda x: x.max(dim=-1).values,
        lambda x: x.min(dim=2, keepdim=True)[1],
        lambda x: x.transpose(-2, -1),
        lambda x: x.view(2, -1),
        lambda x: x.view((4, 6)),
        lambda x: x.flatten(1),
        lambda x: x.flatten(0, 1),
        lambda x: x.flatten(start_dim=-2),
        lambda x: x.flatten(),
        lambda x: x.repeat(1, 3, 1, 1),
        lambda x: x.clamp(min=0),
        lambda x: x.data.cpu().numpy(force=True),
    )
    for number, call in enumerate(calls):
        ours, theirs = np.asarray(call(logits)), np.asarray(call(torch.from_numpy(logits.numpy())))
        assert ours.shape == theirs.shape and np.allclose(ours, theirs), number
    assert logits.is_cuda is logits.requires_grad is False and logits.nelement() == 24


def test_calls_that_numpy_knows_mean_what_they_mean_in_numpy(logits: ResultArray) -> None:
    plain = logits.numpy()
    calls = (
        lambda x: x.max(axis=-1, keepdims=True),
        lambda x: x.max(-1),
        lambda x: x.any(1),
        lambda x: x[0, 0].transpose(0, 1),
        lambda x: x.transpose(),
        lambda x: x.transpose((3, 2, 1, 0)),
        lambda x: x.view(np.uint8),
        lambda x: x.flatten("F"),
        lambda x: x.flatten(order="F"),
        lambda x: x.repeat(2),
        lambda x: x.repeat(2, 1),
        lambda x: x.repeat(2, axis=0),
        lambda x: np.sum(x, axis=0),
        lambda x: np.repeat(x, 2, axis=-1),
        lambda x: np.transpose(x, (1, 0, 2, 3)),
        lambda x: np.argmax(x),
        lambda x: np.flatnonzero(x > 0),
    )
    for number, call in enumerate(calls):
        assert np.array_equal(call(logits), call(plain)), number


@pytest.mark.filterwarnings("error")
def test_far_below_zero_a_probability_is_zero() -> None:
    assert ResultArray.of(np.float32([-1024, 0])).sigmoid().tolist() == [0, 0.5]


def test_what_only_tensors_have(logits: ResultArray) -> None:
    assert not hasattr(logits, "backward")
    with pytest.raises(AttributeError, match=r"numpy arrays and have no 'topk'.*return_tensors='torch'"):
        _ = logits.topk


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
