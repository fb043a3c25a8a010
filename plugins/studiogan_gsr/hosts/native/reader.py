"""Reading batches ahead of the training without ever waiting for good.

A thread takes batches from the loader, so that the training itself waits where a signal is heard and a clock runs.
"""

from __future__ import annotations

import errno
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from studiogan_gsr.errors import DataError, TrainingError, reason
from studiogan_gsr.progress import console

LIMIT = 600  # seconds without a batch after which nobody expects one any more
_NOTICE = 30  # seconds after which the user learns what the run waits for
_GRACE = 5  # seconds that a run which was told to end waits for a batch, to save at the next step
_POLL = 0.2
_REMEDY = "fewer --workers need less memory, and --workers 0 reads without any"


class ImagesLost(TrainingError):
    """No further images come: a worker died, or nothing has been read for too long."""


@contextmanager
def workers_explained() -> Iterator[None]:
    """Say ImagesLost, with a remedy, for what PyTorch says of workers that died, hang or cannot start."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise ImagesLost(f"images are read no further: {reason(error)}; {_REMEDY}") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ImagesLost(
            f"workers that read images cannot start: {reason(error)}: shared memory (/dev/shm) is full; --workers 0 "
            "needs none, and docker run --shm-size=1g gives a container more"
        ) from error


class Reader:
    """Batches of a loader, read by a thread; ended with its workers, also where these hang.

    pin: put batches into pinned memory, from which copies to a GPU do not wait.
    """

    def __init__(self, loader: DataLoader[Any], pin: bool) -> None:
        before = {child.pid for child in active_children()}
        # Workers start here and not in the thread: a fork copies no lock that another thread holds.
        batches = iter(loader)
        self._workers = [child for child in active_children() if child.pid not in before]
        # PyTorch's handler raises an error for a worker that died wherever the main thread is just then, even within
        # a checkpoint.  `next` looks for itself.
        self._handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if _hears_of_children() else None
        self._pin = pin
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(batches,), daemon=True)
        self._thread.start()

    def next(self, stopped: Callable[[], bool], what: str) -> tuple[Tensor, Tensor] | None:
        """The next batch; None after the last.

        stopped: whether the run is to end.  what: is read, for messages.
        Raises DataError for an image that cannot be read, ImagesLost where no batch comes.
        """
        since, noticed = time.monotonic(), False
        while True:
            try:
                batch = self._ready.get(timeout=_POLL)
                break
            except queue.Empty:
                waited = time.monotonic() - since
            # What it had begun to send is never complete, and the thread waits for the rest of it.
            if waited > 1 and (dead := [worker for worker in self._workers if not worker.is_alive()]):
                raise ImagesLost(f"a worker that reads images {_how_it_ended(dead[0].exitcode)}; {_REMEDY}")
            if stopped() and waited > _GRACE:
                raise ImagesLost(f"stopped after waiting {waited:.0f} s for {what}")
            if waited > LIMIT:
                raise ImagesLost(f"no {what} have come for {waited:.0f} s: do their files answer? {_REMEDY}")
            if waited > _NOTICE and not noticed:
                noticed = True
                console().print(f"waiting for {what} for {waited:.0f} s; after {LIMIT} s the run ends")
        if isinstance(batch, Exception):
            raise batch
        return batch  # type: ignore[no-any-return]

    def end(self) -> None:
        """End the thread and the workers now; workers that do not answer are killed."""
        self._ended.set()
        self._thread.join(timeout=1)
        for worker in self._workers:
            if self._thread.is_alive() or worker.is_alive():
                worker.kill()
            worker.join(timeout=5)
        self._thread.join(timeout=1)
        if self._handler is not None and _hears_of_children():
            signal.signal(signal.SIGCHLD, self._handler)

    def _read(self, batches: Iterator[Any]) -> None:
        try:
            while not self._ended.is_set():
                batch = next(batches, None)
                if batch is None:
                    self._give(None)
                    return
                if isinstance(batch, DataError):
                    raise batch
                images, labels = map(torch.from_numpy, batch)
                self._give((images.pin_memory(), labels.pin_memory()) if self._pin else (images, labels))
        except Exception as error:
            self._give(error)

    def _give(self, item: Any) -> None:
        while not self._ended.is_set():
            try:
                self._ready.put(item, timeout=_POLL)
                return
            except queue.Full:
                continue


def _how_it_ended(status: int | None) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status and status < 0 else f"ended with status {status}"


def _hears_of_children() -> bool:
    """Whether this thread may set what happens when a worker ends; not on Windows."""
    return hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
