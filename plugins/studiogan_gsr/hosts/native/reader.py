"""Read batches ahead of training, with a limit on every wait.

A thread takes the batches from the DataLoader.  Training waits in `Reader.next`, which checks for signals, dead
workers and the time limit.
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
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader

from studiogan_gsr.errors import DataError, TrainingError, reason
from studiogan_gsr.hosts.native.pixels import Arrays
from studiogan_gsr.progress import console

T = TypeVar("T")

LIMIT = 600  # seconds without a batch after which the run ends
_NOTICE = 30  # seconds without a batch after which a message says so
_GRACE = 5  # seconds to wait for a batch when the run has to stop
_POLL = 0.2  # seconds between two checks while waiting
_REMEDY = "fewer --workers need less memory, and --workers 0 reads images without worker processes"


class ImagesLost(TrainingError):
    """No more images can be read: a worker died, or nothing has been read for too long."""


@contextmanager
def workers_explained() -> Iterator[None]:
    """Turn PyTorch's errors about workers that died, hang or cannot start into ImagesLost, with a remedy."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise ImagesLost(f"no more images can be read: {reason(error)}; {_REMEDY}") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ImagesLost(
            f"workers that read images cannot start: {reason(error)}: shared memory (/dev/shm) is full; --workers 0 "
            "needs none, and docker run --shm-size=1g gives a container more"
        ) from error


class Reader(Generic[T]):
    """Reads a DataLoader's batches in a thread.  Call `end` when done: it ends the thread and all workers.

    loader: uses `collate`.  send: called in the thread with each batch; `next` returns what it returns.
    """

    def __init__(self, loader: DataLoader[Any], send: Callable[[Arrays], T]) -> None:
        before = {child.pid for child in active_children()}
        # Start the workers here, not in the thread: a fork in the thread could copy locks that other threads hold.
        batches = iter(loader)
        self._workers = [child for child in active_children() if child.pid not in before]
        # When a worker dies, PyTorch's handler raises an error wherever the main thread is, even while it saves a
        # checkpoint.  `next` checks the workers instead.
        self._handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if _can_handle_sigchld() else None
        self._send = send
        self._ready: queue.Queue[T | Exception | None] = queue.Queue(maxsize=2)  # None ends the batches
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(batches,), daemon=True)
        self._thread.start()

    def next(self, stopped: Callable[[], bool], what: str) -> T | None:
        """Return the next batch, as `send` returned it; None after the last.

        stopped: returns whether the run has to end.  what: what the batches hold, for messages.
        Raises DataError for an image that cannot be read, and ImagesLost if no batch comes.
        """
        since, noticed = time.monotonic(), False
        while True:
            try:
                batch = self._ready.get(timeout=_POLL)
                break
            except queue.Empty:
                waited = time.monotonic() - since
            # The thread would wait forever for the rest of a batch that a dead worker had begun to send.
            if waited > 1 and (dead := [worker for worker in self._workers if not worker.is_alive()]):
                raise ImagesLost(f"a worker that reads images {_how_it_ended(dead[0].exitcode)}; {_REMEDY}")
            if stopped() and waited > _GRACE:
                raise ImagesLost(f"stopped after waiting {waited:.0f} s for {what}")
            if waited > LIMIT:
                raise ImagesLost(f"no {what} for {waited:.0f} s: check that their files can be read; {_REMEDY}")
            if waited > _NOTICE and not noticed:
                noticed = True
                console().print(f"no {what} for {waited:.0f} s; after {LIMIT} s the run ends")
        if isinstance(batch, Exception):
            raise batch
        return batch

    def end(self) -> None:
        """End the thread and the workers now; kill workers that do not end by themselves."""
        self._ended.set()
        self._thread.join(timeout=1)
        for worker in self._workers:
            if self._thread.is_alive() or worker.is_alive():
                worker.kill()
            worker.join(timeout=5)
        self._thread.join(timeout=1)
        if self._handler is not None and _can_handle_sigchld():
            signal.signal(signal.SIGCHLD, self._handler)

    def _read(self, batches: Iterator[Any]) -> None:
        try:
            while not self._ended.is_set():
                batch = next(batches, None)
                if batch is None:
                    self._put(None)
                    return
                if isinstance(batch, DataError):
                    raise batch
                self._put(self._send(batch))
        except Exception as error:
            self._put(error)

    def _put(self, item: T | Exception | None) -> None:
        """Put an item into the queue, unless the reader has ended."""
        while not self._ended.is_set():
            try:
                self._ready.put(item, timeout=_POLL)
                return
            except queue.Full:
                continue


def _how_it_ended(status: int | None) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status and status < 0 else f"ended with status {status}"


def _can_handle_sigchld() -> bool:
    """Return whether this thread may set the handler of SIGCHLD; no thread may on Windows."""
    return hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
