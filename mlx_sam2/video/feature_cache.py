"""Features of frames that were encoded, so that a later pass over a video, or a correction, encodes none of them again.

``FeatureCache`` is shared by the sessions of a predictor; each has its ``SessionFeatures``.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from .. import machine
from ..config.sam2 import SAM2Config
from ..model.derived import Derived
from ..model.results import ImageFeatures
from ..model.sam2 import SAM2
from .slot_file import SlotFile

IN_WORK = 2  # frames that are always there: the one that is tracked, and the next
DISK_SHARE = 2  # a cache on disk takes one part in so many of what is free there
DTYPES = {None: None, "float16": mx.float16, "bfloat16": mx.bfloat16}

Key = tuple[int, int]  # number of the session, frame


def frame_bytes(config: SAM2Config, itemsize: int) -> int:
    """The bytes of a frame's features, in numbers of `itemsize` bytes."""
    numbers = config.embedding_size**2 * config.neck.d_model
    return itemsize * (4 * numbers if config.use_high_res_features_in_sam else numbers)


class _Kept(NamedTuple):
    place: ImageFeatures | int  # in memory, or a slot of the file
    nbytes: int


class FeatureCache:
    """Features of frames, the least recently used given up first.

    What a running pass has still ahead of it stays, however long it was not used: otherwise a second pass over a video
    that does not fit would find nothing. Features of other weights, or of another size of input, are forgotten. The
    two frames in work are held beside the budget.

    Args:
        budget: bytes of memory; "disk" for a temporary file in the folder that TMPDIR names, which takes up to half of
            what is free there; 0 or "off" for nothing but the frames in work; None for what ``doctor`` calls safe here.
        dtype: "float16" or "bfloat16" rounds what is kept, for more frames in less memory and other results; None
            keeps the features as they were encoded, and all results the same bits.

    Raises:
        ValueError: for anything else.
        OSError: no temporary file can be made.
    """

    def __init__(self, budget: int | str | None = None, dtype: str | None = None) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"feature_cache_dtype={dtype!r}: it must be 'float16', 'bfloat16' or None (as encoded)")
        self._dtype = DTYPES[dtype]
        self._file = SlotFile() if budget == "disk" else None
        self.budget = _bytes(budget)
        self._recent: OrderedDict[Key, ImageFeatures] = OrderedDict()  # as encoded
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self.nbytes = 0  # of what is kept
        self._layout: np.dtype | None = None  # of the file's records
        self._slots, self._free = count(), list[int]()
        self._disk_full = False
        self._weights: Derived[object] = Derived()
        self._made_with: tuple[object, ...] = ()
        self._numbers = count()
        self._ahead: dict[int, Sequence[int]] = {}  # of sessions: what a running pass has still ahead
        self._gone: deque[int] = deque()  # sessions that were closed, by whatever thread collects garbage
        self._lock = threading.Lock()

    def session(self) -> SessionFeatures:
        return SessionFeatures(self, next(self._numbers))

    def limit(self, frames: int, model: SAM2) -> None:
        """Keep no more than a number of frames from now on."""
        numbers = self._dtype or model.dtype
        self.budget = min(self.budget, frames * frame_bytes(model.config, numbers.size))

    # ---- for SessionFeatures

    def get(self, key: Key, model: SAM2) -> ImageFeatures | None:
        with self._lock:
            self._tidy(model)
            self._pass(key)
            features = self._recent.get(key)
            if features is None and key in self._kept:
                features = self._load(self._kept[key].place, model.dtype)
                self._remember(key, features)
            if key in self._recent:
                self._recent.move_to_end(key)
            if key in self._kept:
                self._kept.move_to_end(key)
            return features

    def put(self, key: Key, features: ImageFeatures, model: SAM2) -> None:
        with self._lock:
            self._tidy(model)
            self._pass(key)
            self._remember(key, features)

    def __contains__(self, key: Key) -> bool:
        return key in self._recent or key in self._kept

    def expect(self, session: int, frames: Sequence[int]) -> None:
        """Say which frames a pass has ahead of it, each once, in order."""
        with self._lock:
            self._ahead[session] = frames

    def forget(self, session: int) -> None:
        """Give up the features of a session; from any thread, at any moment."""
        self._gone.append(session)
        if self._lock.acquire(blocking=False):  # else whoever holds it tidies up at the next frame
            try:
                self._sweep()
            finally:
                self._lock.release()

    # ---- with the lock

    def _tidy(self, model: SAM2) -> None:
        self._sweep()
        made_with = _maker(model, self._weights)
        if made_with != self._made_with:
            self._made_with = made_with
            self._recent.clear()
            for key in list(self._kept):
                self._drop(key)
            self._layout = None  # features may have other shapes now
            self._slots, self._free = count(), []

    def _sweep(self) -> None:
        while self._gone:
            session = self._gone.popleft()
            self._ahead.pop(session, None)
            for key in [key for key in self._recent if key[0] == session]:
                del self._recent[key]
            for key in [key for key in self._kept if key[0] == session]:
                self._drop(key)

    def _pass(self, key: Key) -> None:
        """A pass has come to a frame."""
        frames = self._ahead.get(key[0], ())
        if key[1] in frames:
            self._ahead[key[0]] = frames[frames.index(key[1]) + 1 :]

    def _remember(self, key: Key, features: ImageFeatures) -> None:
        self._recent[key] = features
        while len(self._recent) > IN_WORK:
            self._keep(*self._recent.popitem(last=False))

    def _keep(self, key: Key, features: ImageFeatures) -> None:
        if key in self._kept:
            return
        if self._dtype is not None:
            features = _map(features, lambda array: array.astype(self._dtype))
        nbytes = sum(array.nbytes for array in features.arrays())
        while self.nbytes + nbytes > self.budget:
            victim = next((k for k in self._kept if k[1] not in self._ahead.get(k[0], ())), None)
            if victim is None:
                return
            self._drop(victim)
        place = self._store(features)
        if place is not None:
            self._kept[key] = _Kept(place, nbytes)
            self.nbytes += nbytes

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key)
        self.nbytes -= kept.nbytes
        if isinstance(kept.place, int):
            self._free.append(kept.place)

    # ---- memory, or a file

    def _store(self, features: ImageFeatures) -> ImageFeatures | int | None:
        """Where features lie from now on; None if the disk is full."""
        if self._file is None:
            mx.async_eval(features.arrays())  # rounded ones, or what they were made from would stay
            return features
        arrays = [np.array(a if a.dtype == mx.float32 else a.view(mx.uint16)) for a in features.arrays()]
        if self._layout is None:
            self._layout = np.dtype([(str(i), array.dtype, array.shape) for i, array in enumerate(arrays)])
            self._stored_as = features.embedding.dtype
        record = np.zeros((), self._layout)
        for name, array in zip(self._layout.names, arrays, strict=True):
            record[name] = array
        slot = self._free.pop() if self._free else next(self._slots)
        try:
            self._file.write(slot, record)
        except OSError as error:
            self._free.append(slot)
            self.budget = self.nbytes  # it grows no more
            if not self._disk_full:
                warnings.warn(f"mlx_sam2: {error.strerror}. Frames that find no room are encoded again", stacklevel=2)
            self._disk_full = True
            return None
        return slot

    def _load(self, place: ImageFeatures | int, dtype: mx.Dtype) -> ImageFeatures:
        if isinstance(place, int):
            record = self._file.read(place, self._layout)
            arrays = [mx.array(record[name]) for name in self._layout.names]
            if self._stored_as != mx.float32:
                arrays = [array.view(self._stored_as) for array in arrays]
            place = ImageFeatures(arrays[0], (arrays[1], arrays[2]) if len(arrays) > 1 else None)
        return place if self._dtype is None else _map(place, lambda array: array.astype(dtype))


class SessionFeatures:
    """The features of one session's frames."""

    def __init__(self, cache: FeatureCache, number: int) -> None:
        self._cache, self._number = cache, number
        self.close = weakref.finalize(self, cache.forget, number)  # users of the official API close nothing

    def get(self, frame_idx: int, model: SAM2) -> ImageFeatures | None:
        """The features of a frame (MLX may still be computing them), if they are there."""
        return self._cache.get((self._number, frame_idx), model)

    def put(self, frame_idx: int, features: ImageFeatures, model: SAM2) -> None:
        self._cache.put((self._number, frame_idx), features, model)

    def __contains__(self, frame_idx: int) -> bool:
        return (self._number, frame_idx) in self._cache

    def expect(self, frames: Sequence[int]) -> None:
        """Say which frames a pass has ahead of it, each once, in order: they stay until it has come to them."""
        self._cache.expect(self._number, frames)


def _bytes(budget: int | str | None) -> int:
    if budget is None:
        return machine.cache_bytes()
    if budget == "disk":
        return shutil.disk_usage(tempfile.gettempdir()).free // DISK_SHARE
    if budget == "off":
        return 0
    if isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0:
        return budget
    raise ValueError(f"feature_cache={budget!r}: it must be a number of bytes, 'disk', 'off' or None (what is safe)")


def _maker(model: SAM2, weights: Derived[object]) -> tuple[object, ...]:
    """What features depend on: equal for two models that give a frame the same features."""
    config = model.config
    parts = [model.image_encoder]
    if config.use_high_res_features_in_sam:
        parts += [model.sam_mask_decoder.conv_s0, model.sam_mask_decoder.conv_s1]
    arrays = [array for part in parts for _, array in tree_flatten(part.parameters())]
    size = config.image_size, config.trunk, config.neck, config.scalp, config.use_high_res_features_in_sam
    return weights.get(arrays, object), *size


def _map(features: ImageFeatures, function: Callable[[mx.array], mx.array]) -> ImageFeatures:
    high_res = features.high_res
    return ImageFeatures(function(features.embedding), high_res and tuple(map(function, high_res)))
