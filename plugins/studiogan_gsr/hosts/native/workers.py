"""Set up the worker processes that read images: they end with their run, which alone handles signals."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess


def set_up_worker(run_id: int, worker: int) -> None:
    """Make a worker end with its run; ignore SIGINT, and SIGTERM unless the run itself sent it.

    A terminal or a batch system signals all processes, but the run needs more batches until it has stopped.
    Without this, a worker of a killed run would wait forever to hand over its batches.

    run_id: the process id of the run.  worker: the worker's number, which DataLoader passes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before any thread starts, as threads inherit it
        threading.Thread(target=_end_on_sigterm_of, args=(run_id,), daemon=True).start()
    if (parent := parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(0)


def _end_on_sigterm_of(run_id: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run_id:
        pass
    os._exit(0)
