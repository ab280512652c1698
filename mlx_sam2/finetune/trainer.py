"""The loop: batches are prepared ahead on a thread, weights are updated, held-out items are scored, states are kept."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from ..checkpoint.adapter import FILE, write_adapter
from ..datasets.items import Item
from ..model.sam2 import SAM2
from ..text import some
from . import state
from .arguments import ArgumentError, Arguments
from .evaluation import Scores, evaluate_clips, evaluate_photos
from .features import FeatureCache
from .optimizer import AdamW, Arrays, clipped, global_norm
from .parallel import World
from .prompts import draw_plan
from .rollout import training_config
from .samples import Batch, draw_sample, prepare, together, trainable
from .steps import Gradient, Gradients, added, generator
from .weights import Weights

AHEAD = 4  # batches that are prepared before they are needed
ORDER, SAMPLE, PROMPT, NOISE = range(4)  # what is drawn, so that no two draws share their numbers


class TrainingError(RuntimeError):
    """A run that cannot go on. One line."""


@dataclass(frozen=True)
class Event:
    """What a callback is told.

    Attributes:
        kind: "step", "evaluation" or "end".
        step: updates so far.
        values: losses, norm and rate of a step; scores of an evaluation.
    """

    kind: str
    step: int
    values: dict[str, float]


Callback = Callable[[Event], object]  # False ends the run


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: updates so far.
        best: the best score so far, and its step.
        waited: evaluations since then.
    """

    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    waited: int = 0


class Trainer:
    """Fine-tunes a model.

    Args:
        model: its weights are the start; they stay as they are until ``use``.
        items: what is trained on, of one kind: clips if all of them are videos, else photos.
        held_out: what is scored.
        folder: for the adapter, the state and cached features; None keeps nothing.
        base: what the model was loaded as, for the adapter's header.

    Raises:
        ArgumentError: nothing can be trained on, or the preset does not fit.
    """

    def __init__(
        self,
        model: SAM2,
        items: Sequence[Item],
        held_out: Sequence[Item] = (),
        arguments: Arguments | None = None,
        folder: Path | None = None,
        base: str = "",
    ) -> None:
        self.arguments = arguments = arguments or Arguments()
        self.video = arguments.preset != "decoder" and bool(items) and all(item.is_video for item in items)
        self.items = [item for item in items if trainable(item, self.video)]
        self.held_out = [item for item in held_out if trainable(item, self.video)]
        if not self.items:
            what = "clip of two annotated frames" if self.video else "photo"
            raise ArgumentError(f"none of {len(items)} items is a {what} with an object: there is nothing to train on")
        self._named = {item.name: item for item in self.items}
        self.folder, self.base = folder, base
        self.weights = Weights(model, arguments, self.video)
        self.scored = model.with_config(model.config)  # as it is used
        self.model = model.with_config(training_config(model.config))
        for twin in (self.model, self.scored):
            self.weights.put_all(twin)
        self._gradients = Gradients(self.model, self.weights, arguments)
        self.optimizer = AdamW(
            self.weights.groups(arguments, model.config.trunk.total_blocks), final_share=arguments.final_share
        )
        self.average: Arrays = dict(self.weights.masters) if arguments.ema else {}
        self.progress = Progress()
        self.world = World()
        cached = not self.video and not arguments.augments and arguments.preset == "decoder"
        place = None if folder is None else folder / "features"
        self.features = self._held_features = None
        if cached:
            for found in (self.items, self.held_out):
                _refuse_same_names(found)
            self.features = FeatureCache(self.scored, place)
            # apart: photos of another data set may have the same names
            self._held_features = FeatureCache(self.scored, place and place / "held_out")

    @property
    def result(self) -> Arrays:
        """The masters that are scored and saved: their average if one is kept."""
        return self.average or self.weights.masters

    # ---- the loop

    def run(self, *callbacks: Callback) -> Progress:
        """Train to the last step, from where ``resume`` left off.

        Raises:
            TrainingError: a loss is not finite.
            DatasetError: a frame or a mask is damaged.
        """
        arguments, progress = self.arguments, self.progress
        tell = _teller(callbacks)
        if progress.step == 0 and self.held_out:
            tell(Event("evaluation", 0, self.evaluate()))
        with ThreadPoolExecutor(1, thread_name_prefix="mlx_sam2-batches") as pool:
            ahead = self._ahead(pool)
            while progress.step < arguments.steps:
                going = tell(Event("step", progress.step + 1, self._step(ahead)))
                progress.step += 1
                last = progress.step == arguments.steps or not going
                every = arguments.evaluate_every
                if last or (every and progress.step % every == 0):
                    going &= self._evaluate(tell)
                if last or not going or progress.step % arguments.save_every == 0:
                    self.save()
                if not going:
                    break
            pool.shutdown(wait=True, cancel_futures=True)
        tell(Event("end", progress.step, {"best": progress.best, "best_step": progress.best_step}))
        return progress

    def _step(self, batches: Iterator[Batch]) -> dict[str, float]:
        began = time.perf_counter()
        gradients: Arrays = {}
        totals = [0.0] * 5
        for micro in range(self.arguments.accumulate):
            batch = next(batches)
            found = self._gradient(batch, micro)
            mx.eval(found.total, found.gradients)
            values = [float(found.total), *map(float, found.terms)]
            if not all(map(math.isfinite, values)):
                raise TrainingError(
                    f"step {self.progress.step + 1}: the loss of {', '.join(batch.names)} is {values[0]}; "
                    "a smaller rate may help (--set rate=...)"
                )
            totals = [a + b for a, b in zip(totals, values, strict=True)]
            gradients = added(gradients, found.gradients)
        gradients = self.world.average(gradients, self.weights.masters)
        norm = global_norm(gradients)
        where = self.progress.step / self.arguments.steps
        largest = self.arguments.clip or math.inf
        masters = self.optimizer.step(self.weights.masters, clipped(gradients, norm, largest), where)
        self.weights.masters = masters
        if self.arguments.ema:
            keep = self.arguments.ema
            self.average = {name: keep * self.average[name] + (1 - keep) * value for name, value in masters.items()}
        mx.eval(masters, self.average, self.optimizer.first, self.optimizer.second)
        names = ("loss", "focal", "dice", "iou", "presence")
        return {**dict(zip(names, totals, strict=True)), "norm": float(norm), "seconds": time.perf_counter() - began}

    def _gradient(self, batch: Batch, micro: int) -> Gradient:
        place = (self.progress.step, micro)  # all processes draw the same prompts, as officially
        plan = draw_plan(batch.targets, self.arguments, generator(self.arguments.seed, PROMPT, *place))
        noise = int(generator(self.arguments.seed, NOISE, *place, self.world.rank).integers(1 << 62))
        features = None
        if self.features is not None:
            pairs = zip(batch.names, batch.first, strict=True)
            features = [self.features.get(self._named[name], first) for name, first in pairs]
        count = self.world.mean(batch.targets.shape[1])
        found = self._gradients.of(batch, plan, features, mx.random.key(noise), max(count, 1))
        self.weights.put(self.model, self.weights.masters)
        return found

    # ---- batches

    def _ahead(self, pool: ThreadPoolExecutor) -> Iterator[Batch]:
        """Batches in order, each prepared on a thread before it is needed."""
        waiting: deque[Future[Batch]] = deque()
        first = self.progress.step * self.arguments.accumulate
        number = first
        last = self.arguments.steps * self.arguments.accumulate
        while number < last or waiting:
            while len(waiting) < AHEAD and number < last:
                waiting.append(pool.submit(self._batch, number))
                number += 1
            yield waiting.popleft().result()

    def _batch(self, number: int) -> Batch:
        """The batch of a place in the run; every process of several takes samples of its own."""
        count = self.arguments.batch
        start = (number * self.world.size + self.world.rank) * count
        return together([self._sample(start + i) for i in range(count)])

    def _sample(self, number: int) -> Batch:
        """Every item once, in a drawn order, then all again in another one."""
        seed, arguments = self.arguments.seed, self.arguments
        round_, place = divmod(number, len(self.items))
        item = self.items[int(generator(seed, ORDER, round_).permutation(len(self.items))[place])]
        random = generator(seed, SAMPLE, number)
        sample = draw_sample(item, arguments, random, self.video, self.features is None)
        return prepare(sample, self.model.config.image_size, arguments, random)

    # ---- scores

    def evaluate(self) -> Scores:
        """Score the held-out items with the result so far."""
        self.weights.put(self.scored, self.result)
        if self.video:
            return evaluate_clips(self.scored, self.held_out, self.arguments.evaluated)
        cache = self._held_features or FeatureCache(self.scored, None)
        return evaluate_photos(self.scored, self.held_out, cache.get, self.arguments.evaluated)

    def _evaluate(self, tell: Callable[[Event], bool]) -> bool:
        """Evaluate, keep the adapter if it is the best so far, and say whether to go on."""
        progress = self.progress
        scores = self.evaluate() if self.held_out else {}
        score = scores.get("jf", scores.get("iou_1", -math.inf)) if scores else float(progress.step)
        if score > progress.best:
            progress.best, progress.best_step, progress.waited = score, progress.step, 0
            self._write_adapter(scores)
        else:
            progress.waited += 1
        going = tell(Event("evaluation", progress.step, scores)) if scores else True
        return going and not (scores and 0 < self.arguments.patience <= progress.waited)

    def _write_adapter(self, scores: Scores) -> None:
        if self.folder is not None and self.world.rank == 0:
            about = {"base": self.base, "preset": self.arguments.preset, "step": str(self.progress.step)}
            about |= {name: f"{value:.6g}" for name, value in scores.items()}
            write_adapter(self.folder / FILE, self.weights.adapter(self.result, about))

    def use(self, model: SAM2) -> None:
        """Put the result into a model, as a loaded adapter would be."""
        adapter = self.weights.adapter(self.result, {})
        dtypes = dict(tree_flatten(model.parameters()))
        for name in adapter.names():
            value = adapter.changed(name, self.weights.start[name])
            model.load_weights([(name, value.astype(dtypes[name].dtype))], strict=False)

    # ---- states

    def save(self) -> None:
        """Write the state that ``resume`` goes on from."""
        if self.folder is not None and self.world.rank == 0:
            state.save(self.folder, self)

    def resume(self) -> bool:
        """Go on from the state in the folder, to the same bits as a run without a break. False if there is none."""
        return self.folder is not None and state.load(self.folder, self)


def _refuse_same_names(items: Sequence[Item]) -> None:
    names = Counter(item.name for item in items)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ArgumentError(
            f"several photos have the name {some(twice)}, by which their features are kept: rename them, or set augment"
        )


def _teller(callbacks: Sequence[Callback]) -> Callable[[Event], bool]:
    """Tell all callbacks; False if one of them ends the run."""

    def tell(event: Event) -> bool:
        going = True
        for callback in callbacks:
            going &= callback(event) is not False
        return going

    return tell
