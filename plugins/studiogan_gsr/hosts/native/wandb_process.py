"""The process that calls wandb for a run: `python -m studiogan_gsr.hosts.native.wandb_process`.

Standard input has a message per line, as JSON:

    {"id", "name", "dir", "config", "limit"}    first: the run, and the seconds that wandb has at its end
    {"step", "numbers"}                         scalars by name
    {"step", "picture"}                         a PNG file
    {"exit_code"}                               last; if the input ends without it, the run was killed

Every line of standard output is a message for the user.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

SAID = 1  # the exit status after a message that says what failed
_STARTING = 30  # seconds that wandb's server has to answer at the start


def main() -> int:
    """Pass messages on to wandb until the input ends; return the exit status."""
    try:
        start = json.loads(sys.stdin.readline())
        run, exit_code = _start(start), 1
        for line in sys.stdin:
            message = json.loads(line)
            exit_code = message.get("exit_code", exit_code)
            _log(run, message)
        _limit(start["limit"], run)
        run.finish(exit_code=exit_code)
    except Exception as error:
        _say(f"failed: {_reason(error)}; log.jsonl has all numbers")
        return SAID
    return 0


def _start(given: dict[str, Any]) -> Any:
    """Return wandb's run: as WANDB_MODE and the login say, and offline if that fails."""
    import wandb

    def start(mode: Any) -> Any:
        return wandb.init(
            project=None if "WANDB_PROJECT" in os.environ else "studiogan-gsr",
            id=given["id"],
            name=given["name"],
            dir=given["dir"],
            config=given["config"],
            resume="allow",
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", init_timeout=_STARTING),
        )

    why = ""
    try:
        run = start(None)
    except Exception as error:  # no login, or no answer
        wandb.teardown()  # the first try has taken the id
        run, why = start("offline"), f" ({_reason(error)})"
    # A resumed run repeats steps, which wandb's own counter does not allow.
    run.define_metric("*", step_metric="step")
    if run.offline:
        _say(f"offline{why}; `{_sync(run)}` uploads the run {run.id}")
    else:
        _say(f"the run {run.id} is at {run.url}" if run.url else f"the run {run.id} is shown nowhere (WANDB_MODE)")
    return run


def _log(run: Any, message: dict[str, Any]) -> None:
    import wandb

    if "numbers" in message:
        run.log({"step": message["step"], **message["numbers"]})
    elif "picture" in message:
        run.log({"step": message["step"], "samples": wandb.Image(message["picture"])})


def _limit(seconds: int, run: Any) -> None:
    """End this process if it still runs after some seconds."""

    def end() -> None:
        _say(f"has not finished in {seconds} s; `{_sync(run)}` uploads the rest")
        os._exit(SAID)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _sync(run: Any) -> str:
    return f"wandb sync {Path(run.dir).parent}"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
