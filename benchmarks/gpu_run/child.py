"""The process that performs tasks of a part one after the other, and writes each result as soon as it is there.

It ends after the first task that fails or is not complete: a CUDA error stays in its process.  The supervisor then
starts another one for the other tasks.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_run.record import DONE, FAILED, LEFT_OUT, SKIPPED, Record
from benchmarks.gpu_run.settings import Partial, Settings, Skipped

LINES = 12  # of the output of a failed task


def main(argv: list[str]) -> int:
    """Perform the tasks that a JSON text describes; return 1 after one that is not complete."""
    given = json.loads(argv[0])
    settings = Settings(**given["settings"])
    module, _, name = given["function"].partition(":")
    function = getattr(import_module(module), name)
    for task, least in given["tasks"]:
        record = Record(Path(given["record"]))
        outcome = record.outcomes[task]
        if time.time() + least > settings.until:
            outcome.end(LEFT_OUT, "no time was left")
            record.write()
            continue
        outcome.begin()
        record.write()
        try:
            result = function(task, settings)
            json.dumps(result)
        except Skipped as reason:
            outcome.end(SKIPPED, str(reason))
        except Partial as partial:
            outcome.result = partial.result or outcome.result
            outcome.end(partial.state, str(partial))
            record.write()
            return 1
        except BaseException as error:
            why = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
            outcome.end(FAILED, why, traceback.format_exc().splitlines()[-LINES:])
            record.write()
            return 1
        else:
            outcome.result = result
            outcome.end(DONE)
        record.write()
        _free_memory()
    return 0


def _free_memory() -> None:
    """Return the last task's device memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
