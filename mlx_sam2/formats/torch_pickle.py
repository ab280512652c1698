"""The pickle inside a PyTorch checkpoint, interpreted without running anything that it names.

``torch.save`` pickles plain containers in which each tensor is a call of ``_rebuild_tensor_v2`` on a storage
(PyTorch ``torch/_utils.py``). Python's unpickler would import and call whatever a file asks for, so this is a
machine of our own: it reads the opcodes one by one and builds containers, numbers, strings and
``TensorClaim`` records. No function that the file names is ever looked up; a name that is not on the short
list below ends the reading.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..text import shown

MAX_DIMS = 16

_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
_ORDERED_DICT = "collections.OrderedDict"
_STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
# Plain values that training checkpoints keep beside the weights: accepted and forgotten, never built.
_INERT = {f"torch.{name}" for name in ("Size", "device", *_STORAGES.values())}
_INERT |= {"__builtin__.set", "builtins.set", "_codecs.encode"}
_INERT |= {f"numpy{core}.multiarray.{name}" for core in (".core", "._core") for name in ("scalar", "_reconstruct")}
_INERT |= {f"pathlib{local}.{name}Path" for local in ("", "._local") for name in ("Posix", "Windows")}
_INERT |= {"numpy.dtype", "numpy.ndarray", "argparse.Namespace"}
_ALLOWED = {_REBUILD_TENSOR, _REBUILD_PARAMETER, _ORDERED_DICT, *_STORAGES, *_INERT}


class TorchFileError(ValueError):
    """The file is not a checkpoint that can be read safely; the message is one line that says why."""

    named = ""  # the function or class that the pickle asked for and did not get


@dataclass(frozen=True)
class TensorClaim:
    """A tensor as the pickle describes it. The file has not been checked against it yet."""

    dtype: str  # "float32", "bfloat16", ...
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    offset: int  # in elements
    storage_key: str  # entry data/<key> of the archive
    storage_size: int  # in elements


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    size: int


class _Forgotten:
    """Stands for a value that no weight needs."""


_FORGOTTEN = _Forgotten()
_MARK = object()


def loads(data: bytes) -> Any:
    """Interpret a pickle of ``torch.save``: containers, numbers, strings, and ``TensorClaim`` for tensors.

    Values of other plain types (sets, sizes, devices, dtypes) are accepted and forgotten. Memory stays below
    a fixed multiple of ``len(data)``.

    Raises:
        TorchFileError: the pickle names anything else, or is malformed.
        ValueError: pickletools cannot decode it.
    """
    return _Machine().run(data)


class _Machine:
    """A pickle machine without calls: a stack, a memo, the few opcodes that containers and tensors need."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for op, arg, _ in pickletools.genops(io.BytesIO(data)):
            if op.name == "STOP":
                return self.pop()
            if op.name in _VALUES:
                self.stack.append(self._checked_number(arg))
            elif op.name in _OPCODES:
                _OPCODES[op.name](self, arg)
            elif op.name == "INST":
                self.push_global(arg)  # a global and a call in one
                raise TorchFileError("pickle opcode INST is refused")
            else:
                raise TorchFileError(f"pickle opcode {op.name} is refused: it is not needed to store tensors")
        raise TorchFileError("the pickle has no end")

    @staticmethod
    def _checked_number(arg: Any) -> Any:
        if isinstance(arg, int) and arg.bit_length() > 64:
            raise TorchFileError("an integer of more than 64 bits")
        return arg

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise TorchFileError("the pickle takes more from its stack than it put there")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise TorchFileError("the pickle takes more from its stack than it put there")

    def push_global(self, arg: str) -> None:
        """``arg`` is "module name", as pickletools gives it; one that is not allowed ends the reading."""
        name = ".".join(arg.split(" ", 1))
        if name not in _ALLOWED:
            error = TorchFileError(
                f"the pickle names {shown(name)}, which is no tensor and no plain container; nothing "
                "was run; if you trust the file, re-save its weights: torch.save({'model': state}, path)"
            )
            error.named = name
            raise error
        self.stack.append(_Global(name))

    def stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(f"{module if isinstance(module, str) else '?'} {name if isinstance(name, str) else '?'}")

    def top(self, kind: type, what: str) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise TorchFileError(f"the pickle would {what} something that is no {kind.__name__}")
        return self.stack[-1]

    def set_items(self, flat: list[Any]) -> None:
        if self.stack and self.stack[-1] is _FORGOTTEN:
            return
        target = self.top(dict, "set an item of")
        if len(flat) % 2:
            raise TorchFileError("a dict with a key and no value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, (str, bytes, int, float, type(None))):  # hashing nested tuples overflows C
                raise TorchFileError(f"a dict key of type {type(key).__name__}")
            target[key] = value

    def persistent_id(self, _: Any) -> None:
        """("storage", its type, its entry in the archive, its device, its number of elements)"""
        pid = self.pop()
        ok = isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _Global)
        if not ok or not isinstance(pid[2], str) or not _is_count(pid[4]):
            raise TorchFileError("a persistent id that is no storage")
        if pid[1].name not in _STORAGES:
            raise TorchFileError(f"a storage of type {pid[1].name}")
        self.stack.append(_Storage(pid[2], _STORAGES[pid[1].name], pid[4]))

    def reduce(self, _: Any) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not isinstance(args, tuple):
            raise TorchFileError("the pickle calls something that is no function")
        if function.name in _INERT:
            self.stack.append(_FORGOTTEN)
        elif function.name == _ORDERED_DICT and args == ():
            self.stack.append({})
        elif function.name == _REBUILD_TENSOR and len(args) in (6, 7):
            self.stack.append(self.tensor(*args[:4]))
        elif function.name == _REBUILD_PARAMETER and args and isinstance(args[0], TensorClaim):
            self.stack.append(args[0])
        else:
            raise TorchFileError(f"the pickle calls {function.name} with arguments it does not take")

    @staticmethod
    def tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> TensorClaim:
        ok = isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
        ok = ok and len(shape) == len(strides) <= MAX_DIMS and all(map(_is_count, (offset, *shape, *strides)))
        if not ok:
            raise TorchFileError("a tensor whose storage, shape, strides or offset make no sense")
        return TensorClaim(storage.dtype, shape, strides, offset, storage.key, storage.size)

    def new_object(self, _: Any) -> None:
        """An object of a class that is plain data; nothing is made."""
        self.pop()
        kind = self.pop()
        if not isinstance(kind, _Global) or kind.name not in _INERT:
            raise TorchFileError("pickle opcode NEWOBJ is refused: it is not needed to store tensors")
        self.stack.append(_FORGOTTEN)

    def build(self, _: Any) -> None:
        """State dicts carry a ``_metadata`` attribute (module versions), which no weight needs."""
        self.pop()
        if self.stack and self.stack[-1] is _FORGOTTEN:
            return
        self.top(dict, "set attributes of")

    def memoize(self, index: int | None) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise TorchFileError("the pickle remembers something that is not there")
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise TorchFileError("the pickle refers to something it did not remember")
        self.stack.append(self.memo[index])

    def take_tuple(self, n: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(n)])))

    def set_one(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append(self, items: list[Any]) -> None:
        self.top(list, "append to").extend(items)

    def new_dict(self, _: Any) -> None:
        flat = self.pop_to_mark()
        self.stack.append({})
        self.set_items(flat)

    def forget_to_mark(self, _: Any) -> None:
        self.pop_to_mark()
        self.top(_Forgotten, "add to")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.stack.append(_MARK),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.take_tuple(1),
    "TUPLE2": lambda m, _: m.take_tuple(2),
    "TUPLE3": lambda m, _: m.take_tuple(3),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "DICT": _Machine.new_dict,
    "SETITEM": _Machine.set_one,
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "EMPTY_SET": lambda m, _: m.stack.append(_FORGOTTEN),
    "ADDITEMS": _Machine.forget_to_mark,
    "PUT": _Machine.memoize,
    "BINPUT": _Machine.memoize,
    "LONG_BINPUT": _Machine.memoize,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.stack_global,
    "BINPERSID": _Machine.persistent_id,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
}
