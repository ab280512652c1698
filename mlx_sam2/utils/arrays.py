"""Results as numpy arrays that answer the calls which scripts make on a ``torch.Tensor``."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

RETURN_TENSORS = ("np", "torch")
# By the names of torch's and numpy's data types; numpy has no bfloat16, so it becomes the wider float32.
_TYPES = {
    name: np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8")
}
_TYPES |= {"bool": np.dtype(bool), "bool_": np.dtype(bool), "bfloat16": np.dtype("float32")}
_TYPES |= {"float": np.dtype("float32"), "half": np.dtype("float16"), "double": np.dtype("float64")}
_TYPES |= {"long": np.dtype("int64"), "int": np.dtype("int32"), "byte": np.dtype("uint8")}


class Device(str):
    """The name of a device that torch accepts, "mps" or "cpu", with the attributes of a ``torch.device``."""

    @classmethod
    def current(cls) -> Device:
        """MLX's default device."""
        return cls("cpu" if mx.default_device() == mx.cpu else "mps")

    @property
    def type(self) -> str:
        return str(self)

    @property
    def index(self) -> None:  # type: ignore[override]
        return None


class _Size(int):
    """The number of elements, as in numpy; called, the shape or one side of it, as in torch."""

    shape: tuple[int, ...]

    def __call__(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]


class _Extreme(NamedTuple):
    """What ``max(dim=...)`` gives in torch."""

    values: Any
    indices: Any


class ResultArray(np.ndarray):
    """A numpy array with the methods of a ``torch.Tensor`` that move, convert and reshape it.

    Every operation of numpy works as on any array and gives one of this class again. ``numpy()`` is the plain array.
    Where both have a method of one name, a call that numpy would refuse means what it means in torch.
    """

    requires_grad = False
    is_cuda = False

    @classmethod
    def of(cls, array: np.ndarray) -> ResultArray:
        return np.asarray(array).view(cls)

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if array.ndim == 0 else super().__array_wrap__(array, context)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"results are numpy arrays and have no {name!r}: write it with numpy, or take tensors of torch: "
            "SAM2VideoPredictor(..., return_tensors='torch'), torch.from_numpy(result)"
        )

    # ---- where it lies: in the memory that both share

    @property
    def device(self) -> Device:
        return Device("cpu")

    def cpu(self) -> ResultArray:
        return self

    def cuda(self, *args: Any, **kwargs: Any) -> ResultArray:
        return self

    def detach(self) -> ResultArray:
        return self

    def contiguous(self) -> ResultArray:
        return self.of(np.ascontiguousarray(self))

    def clone(self) -> ResultArray:
        return self.copy()

    @property
    def data(self) -> ResultArray:  # type: ignore[override]
        return self

    def numpy(self, *, force: Any = False) -> np.ndarray:
        return self.view(np.ndarray)

    # ---- what it holds

    def to(self, *args: Any, **kwargs: Any) -> ResultArray:
        """In another data type, where one is named, of torch or numpy; devices change nothing."""
        for value in (*args, *kwargs.values()):
            found = _type_of(value)
            if found is not None:
                return self.astype(found, copy=False)
        return self

    type = to

    def float(self) -> ResultArray:
        return self.to("float32")

    def half(self) -> ResultArray:
        return self.to("float16")

    def double(self) -> ResultArray:
        return self.to("float64")

    def bool(self) -> ResultArray:
        return self.to("bool")

    def int(self) -> ResultArray:
        return self.to("int32")

    def long(self) -> ResultArray:
        return self.to("int64")

    def byte(self) -> ResultArray:
        return self.to("uint8")

    def sigmoid(self) -> ResultArray:
        with np.errstate(over="ignore"):  # far below 0 it is 0
            return 1 / (1 + np.exp(-self))

    def clamp(self, min: Any = None, max: Any = None) -> ResultArray:  # noqa: A002  torch's names
        return self.clip(min, max)

    # ---- its shape

    @property
    def size(self) -> _Size:  # type: ignore[override]
        size = _Size(super().size)
        size.shape = self.shape
        return size

    def dim(self) -> Any:
        return self.ndim

    def numel(self) -> Any:
        return int(self.size)

    nelement = numel

    def permute(self, *dims: Any) -> ResultArray:
        return self.transpose(*dims)

    def transpose(self, *axes: Any) -> ResultArray:
        """As numpy's; two of more axes change places, as in torch."""
        return self.swapaxes(*axes) if len(axes) == 2 < self.ndim else super().transpose(*axes)

    def view(self, *args: Any, **kwargs: Any) -> Any:
        """As numpy's; with a shape, ``reshape``."""
        sizes = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
        if sizes and all(isinstance(n, (int, np.integer)) for n in sizes):
            return self.reshape(*sizes)
        return super().view(*args, **kwargs)

    def flatten(self, *args: Any, start_dim: Any = 0, end_dim: Any = -1, **kwargs: Any) -> ResultArray:
        """As numpy's; given axes, only those from the first to the last are joined."""
        dims = (*args, *(start_dim, end_dim)[len(args) :])
        if kwargs or dims == (0, -1) or isinstance(dims[0], str):
            return super().flatten(*(args if dims != (0, -1) else ()), **kwargs)
        first, last = dims[0] % self.ndim, dims[1] % self.ndim
        return self.reshape(*self.shape[:first], -1, *self.shape[last + 1 :])

    def repeat(self, *args: Any, **kwargs: Any) -> ResultArray:
        """As numpy's; given a number for every axis (three or more), the whole array that many times."""
        return np.tile(self, args) if len(args) > 2 else super().repeat(*args, **kwargs)

    def squeeze(self, dim: Any = None, axis: Any = None) -> Any:  # type: ignore[override]
        """Without axes of length 1; one that is longer stays, as in torch, if it was named by ``dim``."""
        if axis is not None:
            return super().squeeze(axis)
        if dim is None:
            return super().squeeze()
        return super().squeeze(dim) if self.shape[dim] == 1 else self

    def unsqueeze(self, dim: Any) -> ResultArray:
        return np.expand_dims(self, dim)


def _by_dim(name: str) -> Any:
    """numpy's method, which also knows an axis by torch's ``dim`` and ``keepdim``."""
    plain = getattr(np.ndarray, name)

    def method(self: ResultArray, *args: Any, **kwargs: Any) -> Any:
        if "keepdim" in kwargs:
            kwargs["keepdims"] = kwargs.pop("keepdim")
        if "dim" not in kwargs:
            return plain(self, *args, **kwargs)
        kwargs["axis"] = kwargs.pop("dim")
        if name in ("max", "min"):
            indices = getattr(self, f"arg{name}")(axis=kwargs["axis"], keepdims=kwargs.get("keepdims", False))
            return _Extreme(plain(self, *args, **kwargs), indices)
        return plain(self, *args, **kwargs)

    method.__name__, method.__doc__ = name, plain.__doc__
    return method


for _name in ("sum", "mean", "any", "all", "argmax", "argmin", "max", "min"):
    setattr(ResultArray, _name, _by_dim(_name))


def _type_of(value: Any) -> np.dtype | None:
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value)
    return _TYPES.get(str(value).removeprefix("torch."))


def as_result(array: np.ndarray, return_tensors: str) -> Any:
    """An array as results are handed out: "np" a ``ResultArray``, "torch" a ``torch.Tensor`` on the same memory."""
    if return_tensors == "np":
        return ResultArray.of(array)
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def check_return_tensors(value: str) -> str:
    """Raise a ValueError for another form of results, or for torch where it is not installed."""
    if value not in RETURN_TENSORS:
        raise ValueError(f"return_tensors={value!r} is not known; use 'np' or 'torch'")
    if value == "torch":
        try:
            import torch  # noqa: F401
        except ImportError:
            raise ValueError("return_tensors='torch' needs PyTorch: pip install torch") from None
    return value


def to_numpy(value: Any) -> np.ndarray:
    """A numpy array from one of numpy, MLX or torch, on any device and of any type; bfloat16 becomes float32."""
    if isinstance(value, mx.array):
        return np.array(value.astype(mx.float32) if value.dtype == mx.bfloat16 else value)
    if hasattr(value, "detach"):  # a torch.Tensor
        value = value.detach().cpu()
        return (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    return np.asarray(value)
