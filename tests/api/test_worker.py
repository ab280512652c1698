"""The worker thread: order, bounds, cancellation, errors, and what MLX allows between threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam2.worker import BusyError, ClosedError, Latest, Worker

WAIT = 60  # seconds after which a test that hangs fails


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(max_waiting=3) as worker:
        yield worker


class Gate:
    """A call that runs until it is let go."""

    def __init__(self, worker: Worker) -> None:
        self.entered, self._open = threading.Event(), threading.Event()
        self.call = worker.submit(self._run)
        assert self.entered.wait(WAIT)

    def _run(self) -> str:
        self.entered.set()
        assert self._open.wait(WAIT)
        return "through"

    def open(self) -> None:
        self._open.set()


def test_one_thread_that_is_not_the_callers(worker: Worker) -> None:
    names = {worker.submit(threading.current_thread).result(WAIT).name for _ in range(20)}
    assert names == {"mlx_sam2"}


def test_it_has_its_own_stream_and_the_callers_device(worker: Worker) -> None:
    stream = worker.submit(mx.default_stream, mx.default_device()).result(WAIT)
    assert stream != mx.default_stream(mx.default_device())
    assert worker.submit(mx.default_device).result(WAIT) == mx.default_device()
    assert worker.submit(mx.default_stream, mx.default_device()).result(WAIT) == stream


def test_evaluated_arrays_cross_threads_and_lazy_ones_do_not(worker: Worker) -> None:
    """What the class's docstring says of MLX."""
    here = mx.arange(4.0)
    lazy = here * 2
    mx.eval(here)
    assert worker.submit(lambda: np.array(here + 1).tolist()).result(WAIT) == [1, 2, 3, 4]
    with pytest.raises(RuntimeError, match=r"There is no Stream\(\w+, \d+\) in current thread"):
        worker.submit(np.array, lazy).result(WAIT)


def test_calls_run_in_their_order(worker: Worker) -> None:
    order: list[int] = []
    gate = Gate(worker)
    calls = [worker.submit(order.append, i) for i in range(3)]
    gate.open()
    calls[-1].result(WAIT)
    assert order == [0, 1, 2]


def test_errors_reach_the_caller(worker: Worker) -> None:
    def fail() -> None:
        raise KeyError("no such mask")

    call = worker.submit(fail)
    with pytest.raises(KeyError, match="no such mask") as caught:
        call.result(WAIT)
    assert caught.traceback[-1].name == "fail"
    assert worker.submit(int, "7").result(WAIT) == 7  # and the thread lives


def test_the_queue_is_bounded(worker: Worker) -> None:
    gate = Gate(worker)
    calls = [worker.submit(int) for _ in range(3)]
    assert worker.waiting == 3
    with pytest.raises(BusyError, match=r"^3 calls wait for the model already; .* larger max_waiting$"):
        worker.submit(int)
    closing = worker.submit_always(int)
    assert calls[1].cancel() and closing.cancel()  # a cancelled call makes room
    assert worker.waiting == 2
    worker.submit(int)
    gate.open()
    assert gate.call.result(WAIT) == "through"
    assert worker.submit(int).result(WAIT) == 0 and worker.waiting == 0
    with pytest.raises(ValueError, match="max_waiting=0: at least 1 call"):
        Worker(max_waiting=0)


def test_a_cancelled_call_never_runs(worker: Worker) -> None:
    ran: list[int] = []
    gate = Gate(worker)
    call = worker.submit(ran.append, 1)
    assert call.cancel() and not gate.call.cancel()  # the one that runs is finished
    gate.open()
    worker.submit(ran.append, 2).result(WAIT)
    assert ran == [2] and gate.call.result() == "through"


def test_shutdown_cancels_what_waits_and_finishes_what_runs() -> None:
    worker = Worker()
    gate = Gate(worker)
    call, closing = worker.submit(int), worker.submit_always(int)
    worker.shutdown(wait=False)
    gate.open()
    assert gate.call.result(WAIT) == "through"
    with pytest.raises(CancelledError):
        call.result(WAIT)
    assert closing.result(WAIT) == 0  # what has to happen does
    worker.shutdown()
    with pytest.raises(ClosedError, match="this worker was shut down; make a new one"):
        worker.submit(int)


def test_threads_are_used_again() -> None:
    """MLX keeps the streams of threads that have ended, and clears what they compiled too late."""
    forgotten = Worker()
    thread = forgotten.submit(threading.current_thread).result(WAIT)
    del forgotten
    with Worker() as first, Worker() as second:
        threads = [worker.submit(threading.current_thread).result(WAIT) for worker in (first, second)]
    assert thread in threads and threads[0] is not threads[1]
    for _ in range(3):
        with Worker() as worker:
            assert worker.submit(threading.current_thread).result(WAIT) in threads


def test_a_program_ends_well_after_compiled_functions_ran() -> None:
    """With a thread that ends it aborts, four times of four: "terminate called without an active exception"."""
    script = (
        "import mlx_sam2, mlx.core as mx\nfrom mlx_sam2.worker import Worker\n"
        "kept = []\n"
        "def work():\n    a = mx.ones((4, 4))\n"
        "    for i in range(3000):\n"
        "        kept.append(mx.compile(lambda a, i=i: a @ a))\n        mx.eval(kept[-1](a))\n"
        "with Worker() as worker:\n    worker.submit(work).result()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_program_that_ends_does_not_run_what_waits() -> None:
    script = (
        "import time\nfrom mlx_sam2.worker import Worker\nworker = Worker()\n"
        "worker.submit(time.sleep, 0.3)\n"
        "for i in range(50):\n    worker.submit(print, 'ran', i)\n"
        "print('over')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


# ---- steps


class Counted:
    """An iterator that says where it ran."""

    def __init__(self, length: int) -> None:
        self.threads: set[str] = set()
        self.made = 0
        self.closed = False
        self.length = length

    def __call__(self) -> Iterator[int]:
        try:
            for i in range(self.length):
                self.threads.add(threading.current_thread().name)
                self.made = i + 1
                yield i
        finally:
            self.threads.add(threading.current_thread().name)
            self.closed = True


def test_steps_are_computed_one_by_one_on_the_worker(worker: Worker) -> None:
    counted = Counted(3)
    steps = worker.steps(counted)
    for i in steps:
        assert counted.made == i + 1  # nothing ahead of the consumer
    assert i == 2 and counted.closed and counted.threads == {"mlx_sam2"}
    assert steps.next().result(WAIT) is steps.END


def test_other_calls_come_between_two_steps(worker: Worker) -> None:
    counted = Counted(3)
    steps = worker.steps(counted)
    gate = Gate(worker)
    first, between, second = steps.next(), worker.submit(lambda: counted.made), steps.next()
    gate.open()
    assert (first.result(WAIT), between.result(WAIT), second.result(WAIT)) == (0, 1, 1)


def test_steps_can_be_stopped(worker: Worker) -> None:
    counted = Counted(9)
    held = counted()  # so that it is closed, not collected
    steps = worker.steps(lambda: held)
    assert steps.next().result(WAIT) == 0
    gate = Gate(worker)
    waits = steps.next()
    steps.close()
    gate.open()
    worker.submit(int).result(WAIT)
    assert waits.cancelled() and counted.made == 1 and counted.closed and counted.threads == {"mlx_sam2"}
    assert steps.next().result(WAIT) is steps.END
    for _ in worker.steps(Counted(9)):
        break
    unused = worker.steps(counted)
    unused.close()
    assert unused.next().result(WAIT) is unused.END and counted.made == 1
    worker.shutdown()
    unused.close()  # the end of a program comes in any order


def test_stopping_is_possible_with_a_full_queue(worker: Worker) -> None:
    counted = Counted(9)
    steps = worker.steps(counted)
    steps.next().result(WAIT)
    gate = Gate(worker)
    for _ in range(3):
        worker.submit(int)
    steps.close()
    gate.open()
    worker.submit_always(int).result(WAIT)
    assert counted.closed


def test_an_error_of_a_step_reaches_the_caller(worker: Worker) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("the clip is broken")

    seen = []
    with pytest.raises(OSError, match="the clip is broken"):
        seen.extend(worker.steps(failing))
    assert worker.submit(int).result(WAIT) == 0


def test_only_the_latest_call_waits(worker: Worker) -> None:
    ran: list[int] = []
    latest = Latest(worker)
    gate = Gate(worker)
    calls: list[Future[None]] = [latest.submit(ran.append, i) for i in range(50)]
    gate.open()
    calls[-1].result(WAIT)
    assert ran == [49] and all(call.cancelled() for call in calls[:-1])
    latest.submit(ran.append, 50).result(WAIT)
    assert ran == [49, 50] and not latest.cancel()
