"""Import StudioGAN once, and fork a process for each run: forking_host.py SOURCE.

Importing takes three times as long as the few steps of a test's run.  Each line of standard input is a request
(JSON: way, arguments, folder, environment, output, ranks, narrow_stylegan).  Each request has two answers, a line
each: the process ID when the run starts, and its exit status when it has ended.
"""

from __future__ import annotations

import atexit
import functools
import json
import multiprocessing.util
import os
import runpy
import sys
import warnings
from collections.abc import Callable
from typing import Any


def run(request: dict[str, Any]) -> int:
    """Run a request in this process, by the `studiogan-gsr` command or main.py alone; return the exit status."""
    from studiogan_gsr.cli import main
    from studiogan_gsr.hosts.studiogan.cpu import redirect_devices_to_cpu

    os.environ.update(request["environment"])
    sys.path[:0] = [path for path in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if path]
    os.chdir(request["folder"])
    if request["narrow_stylegan"]:
        narrow_stylegan()
    if request["way"] == "launched":
        return main(request["arguments"])
    redirect_devices_to_cpu(request["ranks"])
    sys.argv = request["arguments"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


def narrow_stylegan() -> None:
    """Give the layers of StyleGANs at most 16 channels; StudioGAN's configurations cannot say so."""
    import models.stylegan2
    import models.stylegan3

    for network in (
        models.stylegan2.SynthesisNetwork,
        models.stylegan2.Discriminator,
        models.stylegan3.SynthesisNetwork,
    ):
        network.__init__ = functools.partialmethod(at_most_16_channels, network.__init__)


def at_most_16_channels(network: Any, init: Callable[..., None], *given: Any, **options: Any) -> None:
    init(network, *given, **{**options, "channel_max": 16})


def in_a_fork(request: dict[str, Any]) -> None:
    """Run a request in this process, a fork, and end the process with the run's exit status."""
    os.setsid()
    atexit._clear()  # exit handlers registered by imports are the parent's: wandb's removes its folder
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    status = 1
    try:
        status = run(request)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)  # as Python does
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    multiprocessing.util._exit_function()  # end data workers
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.path.insert(0, sys.argv[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import config  # noqa: F401  StudioGAN's
        import loader  # noqa: F401
        import sklearn.datasets  # noqa: F401

        import studiogan_gsr.cli
        import studiogan_gsr.hosts.studiogan.launcher  # noqa: F401
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            in_a_fork(request)
        print(child, flush=True)
        _, ended = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)
