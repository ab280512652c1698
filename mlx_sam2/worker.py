"""One thread for the model, so that a window, an event loop or a server stays free."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from .processes import OneProcess

if TYPE_CHECKING:
    import mlx.core as mx

T = TypeVar("T")

MAX_WAITING = 100  # calls that may wait, unless said otherwise


class BusyError(RuntimeError):
    """The queue of a worker is full."""


class ClosedError(RuntimeError):
    """The worker was shut down."""


class Worker(Executor, OneProcess, advice="each process makes a worker of its own", shared=False):
    """Runs calls one after another on a thread of its own, which has its own MLX stream.

    MLX's streams belong to threads: an array that is evaluated may go anywhere, one that is not can only be evaluated
    where it was made ("There is no Stream(gpu, 0) in current thread"). Predictors hand out numpy arrays, so it is
    enough that all calls on one predictor go through one worker. Several predictors may share it.

    ::

        worker = Worker()
        predictor = worker.submit(SAM2ImagePredictor.from_pretrained, "tiny").result()
        future = worker.submit(predictor.predict, point_coords=[[290, 150]], point_labels=[1])
        future.add_done_callback(show)  # called on the worker's thread; or future.result(), or mlx_sam2.aio
        future.cancel()  # True while it waits: it will never run

    It is a ``concurrent.futures.Executor``, so ``loop.run_in_executor(worker, ...)`` and ``asyncio.wrap_future`` take
    it. Long work goes to ``steps`` as an iterator, and can be stopped between two of its steps. When the program ends,
    the call that runs is finished and those that wait are cancelled. A call must not wait for another call of its own
    worker: that one would never begin.

    Args:
        max_waiting: how many calls may wait for their turn.

    Raises:
        ValueError: for a ``max_waiting`` below 1.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        import mlx.core as mx

        if max_waiting < 1:
            raise ValueError(f"max_waiting={max_waiting!r}: at least 1 call has to be able to wait")
        self.max_waiting = max_waiting
        self._calls: set[Future[Any]] = set()  # of ``submit``, that are not done
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._thread = _idle_thread()
        self._thread.calls.put((Future(), _use_device, (mx.default_device(),), {}))
        # when the worker is collected, and when the program ends
        self._end = weakref.finalize(self, _finish, self._thread, self._calls)
        self._ended: threading.Event | None = None  # after ``shutdown``

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn, without the one that runs."""
        with self._lock:
            return sum(not call.running() for call in self._calls)

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Queue a call.

        Returns:
            Its future: ``result()`` and ``exception()`` wait for it, ``add_done_callback()`` does not, and ``cancel()``
            is True if the call will never be made, False once it runs.

        Raises:
            BusyError: when ``max_waiting`` calls wait.
            ClosedError: after ``shutdown``.
        """
        with self._lock:
            if self.waiting >= self.max_waiting:
                raise BusyError(
                    f"{self.max_waiting} calls wait for the model already; wait for results before asking for more, "
                    "or make the Worker with a larger max_waiting"
                )
            call = self.submit_always(function, *args, **kwargs)
            if not call.done():
                self._calls.add(call)
        return call

    def submit_always(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Queue a call that has to happen, such as closing a file: ``max_waiting`` does not count, and the program's
        end waits for it.
        """
        with self._lock:
            if self._ended is not None:
                raise ClosedError("this worker was shut down; make a new one")
            if self._process != os.getpid():
                raise ClosedError("a worker works in the process that made it; make another one in the forked process")
            call: Future[T] = Future()
            call.add_done_callback(self._done)  # a worker with something to do is not collected
            self._thread.calls.put((call, function, args, kwargs))
        return call

    def _done(self, call: Future[Any]) -> None:
        with self._lock:
            self._calls.discard(call)

    def steps(self, make: Callable[..., Iterator[T]], /, *args: Any, **kwargs: Any) -> Steps[T]:
        """Iterate over ``make(*args, **kwargs)``, every step a call of its own, so that others come in between."""
        return Steps(self, make, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Take no more calls, cancel those of ``submit`` that wait (if ``cancel_futures``), and wait for the rest."""
        with self._lock:
            is_first = self._ended is None
            if is_first:
                self._ended = threading.Event()
        if is_first:
            self._end.detach()
            _end(self._thread, self._calls if cancel_futures else set(), self._ended)
        if wait and threading.current_thread() is not self._thread:
            self._ended.wait()


class Steps(Generic[T]):
    """An iterator that advances on a worker, one call for each step; made by ``Worker.steps``.

    ``next()`` gives the future of a step, for callbacks; a ``for`` loop waits for each of them;
    ``mlx_sam2.aio`` awaits them. Nothing is computed before it is asked for, so a consumer that is slow, or changes
    something between two steps, gets what a plain loop would.
    """

    END: Final = object()  # what next() resolves to when the iterator is exhausted or closed

    def __init__(self, worker: Worker, make: Callable[..., Iterator[T]], /, *args: Any, **kwargs: Any) -> None:
        self.worker = worker
        self._make: Callable[[], Iterator[T]] | None = lambda: make(*args, **kwargs)
        self._iterator: Iterator[T] | None = None
        self._call: Future[Any] | None = None  # the step asked for last

    def next(self) -> Future[T | Any]:
        """Queue the next step; its future resolves to the item, or to ``Steps.END``. Raises as ``Worker.submit``."""
        self._call = self.worker.submit(self._advance)
        return self._call

    def close(self) -> None:
        """Stop: a step that waits is cancelled, one that runs is the last, and then the iterator is closed."""
        if self._call is not None:
            self._call.cancel()
        with contextlib.suppress(ClosedError):  # the collector closes it then
            self.worker.submit_always(self._close)

    def _advance(self) -> T | Any:
        if self._make is not None:
            make, self._make = self._make, None
            self._iterator = iter(make())
        return self.END if self._iterator is None else next(self._iterator, self.END)

    def _close(self) -> None:
        iterator, self._iterator, self._make = self._iterator, None, None
        if iterator is not None and hasattr(iterator, "close"):
            iterator.close()

    def __iter__(self) -> Iterator[T]:
        try:
            while (item := self.next().result()) is not self.END:
                yield item
        finally:
            self.close()


class Latest:
    """Keeps only the newest waiting call, where calls come faster than answers: previews under a moving pointer.

    A call that still waits when the next one comes is cancelled; the one that runs is finished.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._lock = threading.Lock()
        self._call: Future[Any] | None = None

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a call as ``Worker.submit`` does; it replaces the previous one if that still waits."""
        with self._lock:
            self.cancel()
            self._call = self.worker.submit(function, *args, **kwargs)
            return self._call

    def cancel(self) -> bool:
        """Drop the call that waits, if one does: the pointer has left."""
        return self._call is not None and self._call.cancel()


class _Thread(threading.Thread):
    """A thread that serves one worker after the other, and never ends.

    MLX keeps the stream of a thread that has ended. Worse, it clears what a thread has compiled when the thread ends,
    with the help of Python; ``join`` does not wait for that before Python 3.13, so at the end of a program Python may
    be gone by then, and the program aborts ("terminate called without an active exception").
    """

    def __init__(self) -> None:
        super().__init__(name="mlx_sam2", daemon=True)
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()  # (future, function, args, kwargs), or an Event

    def run(self) -> None:
        while True:
            item = self.calls.get()
            if isinstance(item, threading.Event):  # the worker's end
                _IDLE.append(self)
                item.set()
            else:
                _run(*item)
            del item  # or its image would be kept until the next call


_IDLE: list[_Thread] = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDLE.clear)  # a fork does not copy threads


def _idle_thread() -> _Thread:
    try:
        return _IDLE.pop()
    except IndexError:
        thread = _Thread()
        thread.start()
        return thread


def _use_device(device: mx.Device) -> None:
    """Use the default device of the thread that made the worker; MLX gives this thread a stream of its own there."""
    import mlx.core as mx

    if mx.default_device() != device:
        mx.set_default_device(device)


def _run(call: Future[Any], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if call.set_running_or_notify_cancel():
        with _Carrier(call):
            call.set_result(function(*args, **kwargs))


class _Carrier:
    """Carries any error to the future of its call."""

    def __init__(self, call: Future[Any]) -> None:
        self.call = call

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            self.call.set_exception(error)
        del self.call  # the error's traceback holds this frame
        return True


def _end(thread: _Thread, waiting: set[Future[Any]], ended: threading.Event) -> None:
    """Cancel what waits and let the thread go; it sets the event when it has finished."""
    for call in list(waiting):
        call.cancel()
    thread.calls.put(ended)


def _finish(thread: _Thread, waiting: set[Future[Any]]) -> None:
    ended = threading.Event()
    _end(thread, waiting, ended)
    if threading.current_thread() is not thread:
        ended.wait()
