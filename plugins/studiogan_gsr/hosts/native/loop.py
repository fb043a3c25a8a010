"""The training loop: step, log if due, save if due, evaluate if due, stop if asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

from studiogan_gsr.errors import FOREIGN, GSRError, TrainingError, reason
from studiogan_gsr.evaluation.samples import save_grid
from studiogan_gsr.evaluation.selection import FILE as EVALUATIONS
from studiogan_gsr.evaluation.selection import Selection, best, evaluations
from studiogan_gsr.files import forget_after
from studiogan_gsr.hosts.checkpoint_files import checkpoints
from studiogan_gsr.hosts.class_norms import record
from studiogan_gsr.hosts.native.checkpoint import remove_old, save_checkpoint
from studiogan_gsr.hosts.native.clock import Clock
from studiogan_gsr.hosts.native.failures import failures_explained
from studiogan_gsr.hosts.native.folder import RunFolder
from studiogan_gsr.hosts.native.log import RunLog
from studiogan_gsr.hosts.native.losses import adversarial_loss
from studiogan_gsr.hosts.native.numbers import check_numbers, check_weights, pending_numbers
from studiogan_gsr.hosts.native.process import Ranks, stop_on_signals
from studiogan_gsr.hosts.native.progress_line import TrainingProgress
from studiogan_gsr.hosts.native.starts import Start
from studiogan_gsr.hosts.native.stream import ImageStream
from studiogan_gsr.hosts.native.threads import using_threads
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.hosts.readings import read
from studiogan_gsr.hosts.regularization.gradient_share import read_gradient_share
from studiogan_gsr.hosts.regularization.ranks import check_ranks
from studiogan_gsr.machine import versions
from studiogan_gsr.seeds import SAMPLES, mixed

OnInterval = Callable[[Trainer], dict[str, Any]]


class Loop:
    """Trains from the trainer's step to the last step of the run.

    selection: measures the checkpoints on rank 0; None on other ranks, and in a run that does not evaluate.
    seconds: training time of earlier starts.  stop: set when the run has to end after the current step.
    on_interval: returns more numbers to log at each print interval.
    evaluation_threads: PyTorch's threads in evaluations, whose networks are larger than those that train here.
    """

    def __init__(
        self,
        trainer: Trainer,
        stream: ImageStream,
        folder: RunFolder,
        start: Start,
        ranks: Ranks,
        selection: Selection | None,
        progress: TrainingProgress,
        seconds: float,
        stop: threading.Event,
        on_interval: OnInterval | None,
        evaluation_threads: int,
    ) -> None:
        self.trainer, self.stream, self.folder, self.start = trainer, stream, folder, start
        self.ranks, self.selection, self.progress = ranks, selection, progress
        self.stop, self.on_interval, self.evaluation_threads = stop, on_interval, evaluation_threads
        self.first_step = trainer.steps + 1
        self.total: int = trainer.configuration.OPTIMIZATION.total_steps
        self.log = RunLog(
            folder.path,
            trainer.steps,
            viewer=start.log,
            configuration={**folder.sections, "seed": start.seed, "versions": versions(), "start": start.record()},
            active=ranks.first,
        )
        self._seconds = seconds

    def done(self) -> bool:
        """Return whether all steps are trained and all checkpoints evaluated."""
        return self.trainer.steps >= self.total and not self._evaluation_is_missing()

    def run(self) -> None:
        """Train until the last step.

        Raises TrainingError if a loss or a weight is not finite, if images cannot be read, if the disk is full, or if
        an evaluation fails.  After SIGINT or SIGTERM it saves a checkpoint and raises TrainingError, too.
        Raises RegularizerError if the regularizer was inactive, is not finite, or differs between ranks.
        """
        with (
            stop_on_signals(self.stop),
            closing(self.stream),
            failures_explained(self.folder, self.trainer),
            self.log,
            self.progress,
        ):
            if self.ranks.first:
                forget_after(self.folder.path / EVALUATIONS, self.trainer.steps)
            self.clock = Clock(self._seconds, self.trainer.steps)
            if self._evaluation_is_missing():  # the run ended before it had evaluated its last checkpoint
                self._evaluate()
                self._end_if(self._asked_to_stop())
            while self.trainer.steps < self.total:
                first = self.trainer.steps + 1 == self.first_step
                with self.progress.first_step() if first else nullcontext():
                    self.trainer.step()
                if self.trainer.speed.compiled and first:
                    seconds = self.clock.seconds - self._seconds
                    self.ranks.say(f"--compile: the first step took {seconds:.0f} s, compilation included")
                self.progress.advance()
                self._check_regularizers()
                if self._log_is_due():
                    self._log()
                stop = self._asked_to_stop()
                if stop or self._save_is_due():
                    self._save()
                if self._save_is_due() and self.start.evaluate and not stop:
                    self._evaluate()
                    stop = self._asked_to_stop()
                self._end_if(stop)

    def _log_is_due(self) -> bool:
        step = self.trainer.steps
        return step % self.start.print_freq == 0 or step in (1, self.total)

    def _save_is_due(self) -> bool:
        return self.trainer.steps % self.start.save_freq == 0 or self.trainer.steps == self.total

    def _asked_to_stop(self) -> bool:
        """Return whether any rank was asked to stop.

        Several ranks compare only when a save or a print interval is due, because comparing waits for the device.
        """
        compare = self._save_is_due() or self.trainer.steps % self.start.print_freq == 0
        return (self.ranks.number == 1 or compare) and self.ranks.any(self.stop.is_set())

    def _end_if(self, stop: bool) -> None:
        """Raise TrainingError if the run has to stop before it is complete."""
        step = self.trainer.steps
        if stop and (step < self.total or self._evaluation_is_missing()):
            saved = self.folder.checkpoints / f"step={step}"
            raise TrainingError(
                f"stopped after step {step} of {self.total}, saved in {saved}; --resume resumes the run"
            )

    def _check_regularizers(self) -> None:
        """Check after every step that the regularizers were active, and at intervals that all ranks agree."""
        step, regularization = self.trainer.steps, self.trainer.regularization
        regularization.check_active(step)
        first = step == self.first_step
        if first or step % self.start.print_freq == 0:
            ranks = check_ranks(regularization, step)
            for message in regularization.first_step_messages(step, ranks) if first else ():
                self.ranks.say(message)

    def _log(self) -> None:
        """Log and show the numbers of a print interval; waits for the device once."""
        step = self.trainer.steps
        with self.clock.paused():  # a CPU computes the norms here
            pending = pending_numbers(self.trainer)
            norms = self.trainer.norms.pending() if self.ranks.first else None
        values = read({"numbers": pending, "norms": norms})
        numbers = check_numbers(self.trainer, values["numbers"])
        rate = self.clock.lap(step)
        line = {"seconds": round(self.clock.seconds, 3), "steps_per_second": rate, **numbers}
        with self.clock.paused():
            self.progress.show(step, rate, numbers, left=(self.total - step) / rate)
            line |= self._class_norms(values["norms"])
            line |= self._gradient_share()
            if self.on_interval is not None:
                line |= self.on_interval(self.trainer)
            self.log.write(step, line)

    def _class_norms(self, norms: list[float] | GSRError | None) -> dict[str, Any]:
        """Return each class's largest norm for the log; print a warning if one begins to explode."""
        checked, warning = self.trainer.norms.check(norms)
        if warning:
            self.ranks.say(f"step {self.trainer.steps}: {warning}")
        return record(checked)

    def _gradient_share(self) -> dict[str, float]:
        """After the first step of a new run, print how strong gSR is, and return it for the log."""
        trainer = self.trainer
        if trainer.steps != 1 or not self.ranks.first:
            return {}
        share = read_gradient_share(
            trainer.regularization,
            adversarial_loss(trainer.configuration.LOSS.adv_loss),
            z_prior=trainer.configuration.MODEL.z_prior,
            ranks=trainer.ranks,
            classes=trainer.classes,
        )
        if share is None:
            return {}
        self.ranks.say(share.line)
        return share.numbers

    def _save(self) -> None:
        trainer, model = self.trainer, self.trainer.configuration.MODEL
        check_weights(trainer)
        if self.ranks.first:  # the grid first: a run that is killed in between saves both again
            grid = self.folder.path / "samples" / f"step={trainer.steps:06}.png"
            save_grid(
                trainer.averaged or trainer.generator,
                trainer.class_counts,
                model.z_prior,
                model.z_dim,
                mixed(self.start.seed, SAMPLES),
                grid,
            )
            with self.clock.paused():
                self.log.picture(trainer.steps, grid)
        save_checkpoint(
            trainer,
            self.folder.checkpoints,
            run_name=self.folder.path.resolve().name,
            seed=self.start.seed,
            elapsed=self.clock.seconds,
            drawn=self.stream.drawn,
            best=self._best_step(),
        )

    # Evaluation: rank 0 measures; the other ranks wait for it in `_asked_to_stop`.

    def _evaluation_is_missing(self) -> bool:
        """Return whether this step's checkpoint is due for an evaluation and has none; every rank calls this."""
        return self.start.evaluate > 0 and self.ranks.any(self._is_unmeasured())

    def _is_unmeasured(self) -> bool:
        step = self.trainer.steps
        saved = any(step == other for other, _ in checkpoints(self.folder.checkpoints))
        measured = any(step == line["step"] for line in evaluations(self.folder.path))
        return self.selection is not None and saved and self._save_is_due() and not measured

    def _evaluate(self) -> None:
        """Measure the saved generator on rank 0, unless the run has to stop.  The best checkpoint is kept."""
        if self.selection is not None and not self.stop.is_set():
            with self.clock.paused():
                self._measure(self.selection)

    def _measure(self, selection: Selection) -> None:
        trainer, step = self.trainer, self.trainer.steps
        try:
            with self.progress.paused(), using_threads(self.evaluation_threads):
                line = selection.measure(step, trainer.generator, trainer.averaged, self.stop.is_set)
        except FOREIGN as error:
            cause = str(error) if isinstance(error, GSRError) else reason(error)
            raise TrainingError(
                f"evaluating step {step} failed: {cause}; {self.folder.last_good()}; --resume tries again, --resume "
                "with --no-evaluate trains without evaluations"
            ) from error
        if line is None:  # interrupted
            return
        self.ranks.say(selection.describe(line))
        remove_old(self.folder.checkpoints, self._best_step())
        scalars = {f"evaluation/{name}": value for name, value in line["all"].items()}
        scalars |= {f"evaluation/{group}/frechet": found["frechet"] for group, found in line["groups"].items()}
        self.log.plot(step, scalars)

    def _best_step(self) -> int | None:
        chosen = best(self.folder.path)
        return None if chosen is None else int(chosen["step"])
