"""Steps a second of the native host by mode and precision, and of StudioGAN."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_run.facts import set_precision
from benchmarks.gpu_run.plan import (
    BFLOAT16,
    DIFFERS,
    EAGER,
    FLOAT32,
    MODELS,
    MODES,
    OPERATIONS,
    STUDIOGAN,
    STUDIOGAN_MIXED,
)
from benchmarks.gpu_run.settings import Settings, Skipped
from benchmarks.gpu_run.studiogan import steps_of_studiogan
from benchmarks.speed.hosts import new_trainer, teraflop
from benchmarks.speed.penalty import wait_for
from studiogan_gsr.hosts.native.training import Speed, Trainer
from studiogan_gsr.settings import load_configuration
from studiogan_gsr.shipped import shipped_configuration

WARM_UP, SMALL_WARM_UP = 10, 5  # steps between the first and the timed ones; graphs are captured in the fourth
BLOCKS, BLOCK, SECONDS = 10, 20, 4.0  # timed blocks, the most steps in one, and the seconds that all take about
PARITY_STEPS = 20


def measure(name: str, settings: Settings) -> dict[str, Any]:
    """Return what a task of the part `steps` finds; name: "MODEL; MODE; PRECISION" or "MODEL; operations"."""
    model, mode, *precision = name.split("; ")
    sections = configuration_of(model, settings.small)
    if mode == OPERATIONS:
        return {"teraflop": teraflop(sections, settings.device)}
    if mode in (STUDIOGAN, STUDIOGAN_MIXED):
        return steps_of_studiogan(sections, mode, precision[0], settings)
    if precision == [DIFFERS]:
        steps = 2 if settings.small else PARITY_STEPS
        return {"steps": steps, "differs_by": difference(sections, settings.device, mode, steps)}
    return timing(sections, settings, mode, precision[0])


def configuration_of(model: str, small: bool) -> dict[str, Any]:
    """Return the sections of a model's shipped configuration, with LeCam from the start; small: a tiny network."""
    sections = load_configuration(shipped_configuration(MODELS[model]))
    sections["LOSS"]["lecam_ema_start_iter"] = 0  # a few steps never come to its usual start
    if small:
        sections["DATA"]["img_size"] = 32
        sections["MODEL"] |= {"g_conv_dim": 4, "d_conv_dim": 4}
        sections["OPTIMIZATION"] |= {"batch_size": 4, "d_updates_per_step": 1}
    return sections


def trainer_of(sections: dict[str, Any], device: str, mode: str, precision: str) -> Trainer:
    """Return a trainer on random images; Skipped if a mode of graphs would run eagerly."""
    torch.compiler.reset()  # compiled networks of earlier tasks count towards its limit of recompilations
    speed = Speed(precision=BFLOAT16 if precision == BFLOAT16 else FLOAT32, **MODES[mode])
    trainer = new_trainer(sections, device, speed)
    if why := trainer.why_eager():
        raise Skipped(why)
    return trainer


def timing(sections: dict[str, Any], settings: Settings, mode: str, precision: str) -> dict[str, Any]:
    """Return seconds of a step on random images: the median over blocks, the first step, and warm-up beyond that.

    Blocks of steps are timed, not steps: waiting for the device after each would cost the time that a step's launches
    overlap with the step before.
    """
    device = settings.device
    set_precision(precision)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True  # as in training
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = trainer_of(sections, device, mode, precision)
    before = _weights(trainer)
    first = _seconds(trainer, 1, device)
    warm = [_seconds(trainer, 1, device) for _ in range(SMALL_WARM_UP if settings.small else WARM_UP)]
    blocks, most = (2, 1) if settings.small else (BLOCKS, BLOCK)
    block = max(1, min(most, int(SECONDS / blocks / warm[-1])))
    times = [_seconds(trainer, block, device) / block for _ in range(blocks)]
    _check(trainer, before, steps=1 + len(warm) + blocks * block)
    step = statistics.median(times)
    found = {"seconds": step, "steps": blocks * block, "first": first, "preparing": first + sum(warm)}
    found["preparing"] -= step * (1 + len(warm))
    found |= {"slowest": max(times), "fastest": min(times)}
    if device == "cuda":
        found["gigabytes"] = torch.cuda.max_memory_reserved() / 1e9  # a graph keeps what is freed in it
    return found


def difference(sections: dict[str, Any], device: str, mode: str, steps: int) -> float:
    """Return by how much a mode's weights differ from the eager ones after some steps from the same seed, in float32.

    It is |difference| / |weights| of all weights of a network, the larger of both networks: a single tensor says
    little, as biases before a batch norm move by rounding errors alone.  For the mode `EAGER` two eager runs are
    compared, which differ by what the device does not repeat.
    """
    set_precision(FLOAT32)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    found: list[dict[str, Tensor]] = []
    for which in (EAGER, mode):
        torch.manual_seed(0)  # of the random images
        trainer = trainer_of(sections, device, which, FLOAT32)
        before = _weights(trainer)
        for _ in range(steps):
            trainer.step()
        _check(trainer, before, steps)
        found.append(_weights(trainer))
        del trainer
    eager, other = found
    return max(float((other[of] - eager[of]).norm() / eager[of].norm()) for of in eager)


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    """Return all weights of each network as one vector on the CPU."""
    networks = {"G": trainer.generator, "D": trainer.discriminator}
    return {of: torch.cat([p.detach().flatten().cpu() for p in net.parameters()]) for of, net in networks.items()}


def _check(trainer: Trainer, before: dict[str, Tensor], steps: int) -> None:
    """Raise RuntimeError unless the steps were made, all losses were finite and both networks have changed."""
    after = _weights(trainer)
    still = [of for of in before if torch.equal(before[of], after[of])]
    if trainer.steps != steps or not bool(trainer.finite) or still:
        state = f"{trainer.steps} of {steps} steps, losses finite: {bool(trainer.finite)}"
        raise RuntimeError(f"the steps are no training: {state}, unchanged networks: {', '.join(still) or 'none'}")


def _seconds(trainer: Trainer, steps: int, device: str) -> float:
    wait_for(device)
    start = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    wait_for(device)
    return time.perf_counter() - start
