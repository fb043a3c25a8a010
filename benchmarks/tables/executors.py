"""Execute planned runs: on this machine, one per GPU or core at a time, or as jobs of a cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.paths import BENCHMARKS
from benchmarks.tables import cluster_job
from benchmarks.tables.plan import PlannedRun
from studiogan_gsr.errors import RequestError, reason
from studiogan_gsr.files import write_atomically
from studiogan_gsr.machine import cores, share_of_cores

_RAISED = "RuntimeError: "  # the start of the line that says why a job failed
_QUEUED_AGAIN = 100  # how many times a job that reaches its time limit is queued again
_SCRIPT = BENCHMARKS / "run.py"


def run_here(runs: Sequence[PlannedRun], places: Sequence[dict[str, str]]) -> list[str]:
    """Execute each run in its own process; return a line for each that failed.

    places: environment variables, such as the GPU or the threads to use; one run at a time executes in each place.
    On SIGINT and SIGTERM no other run begins.  Native runs save and end; StudioGAN's end without saving.
    """
    crew = _Crew(runs)
    workers = [threading.Thread(target=crew.work, args=(place,)) for place in places]
    with _signals_to(crew.stop):
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return crew.failed


class _Crew:
    """Threads that share a queue of runs."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self.failed: list[str] = []
        self._waiting: queue.SimpleQueue[PlannedRun] = queue.SimpleQueue()
        for run in runs:
            self._waiting.put(run)
        self._number = len(runs)
        self._processes: dict[subprocess.Popen[bytes], PlannedRun] = {}
        self._stopped = False
        # Held while a process starts, so that `stop` misses none.
        # Reentrant: a second Ctrl-C can interrupt `stop` itself, in the same thread.
        self._starting = threading.RLock()

    def work(self, environment: dict[str, str]) -> None:
        while not self._stopped:
            try:
                run = self._waiting.get_nowait()
            except queue.Empty:
                return
            which = f"{run.title} ({self._number - self._waiting.qsize()} of {self._number})"
            print(f"begun: {which}, output in {run.out}.log", flush=True)
            began = time.perf_counter()
            try:
                status, last = self._in_a_process(run, environment)
            except OSError as error:
                status, last = 1, reason(error)
            if status == 0:
                print(f"done: {run.title}, {(time.perf_counter() - began) / 3600:.2f} h", flush=True)
            elif self._stopped:
                print(f"stopped: {run.title}; the same command resumes it", flush=True)
            else:
                self.failed.append(f"{run.title}: status {status}: {last}")
                print(f"failed: {self.failed[-1]}", flush=True)

    def stop(self) -> None:
        """Let native runs save and end; end StudioGAN's, which handle no signals and keep what they last saved."""
        with self._starting:
            self._stopped = True
            for process, run in self._processes.items():
                with suppress(ProcessLookupError):  # it has just ended
                    if run.host == "native":
                        process.terminate()
                    else:
                        os.killpg(process.pid, signal.SIGTERM)

    def _in_a_process(self, run: PlannedRun, environment: dict[str, str]) -> tuple[int, str]:
        """Execute a run; return the exit status and the last line that it printed."""
        log = Path(f"{run.out}.log")
        specify(run)
        with log.open("a") as file:
            with self._starting:
                if self._stopped:
                    return 1, "stopped"
                # In its own process group, so that a Ctrl-C reaches it only once, through `stop`.
                process = subprocess.Popen(
                    command(run), stdout=file, stderr=file, env={**os.environ, **environment}, start_new_session=True
                )
                self._processes[process] = run
            status = process.wait()
            with self._starting:
                del self._processes[process]
        return status, (log.read_text(errors="replace").splitlines() or ["no output"])[-1]


def run_on_cluster(runs: Sequence[PlannedRun], parameters: dict[str, Any], cluster: str = "slurm") -> list[str]:
    """Execute each run as a job, through submitit; wait for all; return a line for each that failed.

    parameters: for submitit's AutoExecutor.update_parameters, such as slurm_partition, timeout_min, gpus_per_node.
    cluster: "slurm", or "local", which runs the jobs here.
    A job that reaches its time limit saves and is queued again.  Unfinished jobs of an earlier command are waited
    for, and not submitted again; on Ctrl-C all jobs continue.
    """
    try:
        import cloudpickle
        import submitit
    except ModuleNotFoundError as error:
        raise RequestError("--executor slurm needs the package submitit: pip install submitit") from error
    cloudpickle.register_pickle_by_value(cluster_job)  # the jobs' processes cannot import this package
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise RequestError("--executor slurm: no sbatch on this machine; run the command where jobs are submitted")
    folder = Path(runs[0].out).parent / "jobs"
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster, slurm_max_num_timeout=_QUEUED_AGAIN)
    try:
        executor.update_parameters(name="studiogan-gsr", **parameters)
    except (NameError, TypeError, ValueError) as error:
        raise RequestError(f"--slurm: {reason(error)}") from error
    jobs, failed = [], []
    for run in runs:
        specify(run)
        kept, job = Path(f"{run.out}.job"), _at_work(run)
        if job is not None:
            what = f"already submitted ({job.state}; if the job no longer exists, remove {kept})"
        else:
            what, job = "submitted", executor.submit(cluster_job.Job(command(run)))
            write_atomically(kept, pickle.dumps(job))
        jobs.append(job)
        print(f"{what}: {run.title}, job {job.job_id}, output in {job.paths.stdout}", flush=True)
    for run, job in zip(runs, jobs, strict=True):
        try:
            failure = job.exception()  # waits
        except KeyboardInterrupt:
            print("no longer waiting: the jobs continue; the same command waits for them again", flush=True)
            break
        if failure is None:
            print(f"done: {run.title}", flush=True)
            continue
        raised = [line for line in str(failure).splitlines() if line.startswith(_RAISED)] or [reason(failure)]
        failed.append(f"{run.title}: job {job.job_id} ({job.state}): {raised[-1].removeprefix(_RAISED)}")
        print(f"failed: {failed[-1]}", flush=True)
    return failed


def _at_work(run: PlannedRun) -> Any:
    """Return the unfinished job that an earlier command submitted for this run; None if there is none."""
    path = Path(f"{run.out}.job")
    job = pickle.loads(path.read_bytes()) if path.is_file() else None
    return None if job is None or job.done(force_check=True) else job


def command(run: PlannedRun, flag: str = "--one") -> list[str]:
    """Return the command that completes a run in its own process, or, with the flag "--begin", begins it."""
    return [sys.executable, str(_SCRIPT), flag, str(_specification(run))]


def places(device: str | None, jobs: int | None) -> list[dict[str, str]]:
    """Return the environment variables of each place where one run at a time executes.

    device: "cpu", "cuda" or None, which means CUDA if it is available.  On CUDA, there is a place per GPU.
    jobs: the number of places on a CPU, each with its share of the cores as threads; None: one per core.
    OMP_NUM_THREADS, if set, is the share of each.
    Raises RequestError for `jobs` on CUDA.
    """
    import torch

    number = 0 if device == "cpu" else torch.cuda.device_count()
    if not number:
        jobs = jobs or max(1, cores() // share_of_cores(cores()))
        return [{"OMP_NUM_THREADS": str(share_of_cores(jobs))}] * jobs
    if jobs:
        raise RequestError("--jobs is for --device cpu; on CUDA, one run per GPU executes at a time")
    known = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = known if known != [""] else [str(i) for i in range(number)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:number]]


def _specification(run: PlannedRun) -> Path:
    return Path(run.out).with_suffix(".json")


def specify(run: PlannedRun) -> None:
    """Write the file from which a run's process reads what to run."""
    path = _specification(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(dataclasses.asdict(run)))


@contextmanager
def _signals_to(stop: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop_all(number: int, frame: FrameType | None) -> None:
        print("stopping: the runs save and end", flush=True)
        stop()

    before = {number: signal.signal(number, stop_all) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
