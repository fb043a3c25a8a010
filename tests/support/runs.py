"""Tiny runs of the native host on handwritten digits, in processes that can be killed.

Processes are forked from a server that has imported everything once: they start at once, and run the command as
`python -m studiogan_gsr` would, with one thread each and warnings as errors.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from multiprocessing import forkserver, get_all_start_methods, get_context, set_start_method
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml
from PIL import Image
from torch.utils.data._utils import worker

from studiogan_gsr.cli import main
from studiogan_gsr.contract import Batch
from studiogan_gsr.datasets.folder import folder_lt
from studiogan_gsr.datasets.preprocessing import Prepared
from studiogan_gsr.evaluation import cache as cache_of_features
from studiogan_gsr.hosts.checkpoint_files import read_file
from studiogan_gsr.hosts.native import checkpoint, reader, shares
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.native.images import InMemory
from studiogan_gsr.hosts.native.losses import conditional_loss, discriminator_loss
from studiogan_gsr.hosts.native.networks import make_networks
from studiogan_gsr.hosts.native.options import TrainOptions
from studiogan_gsr.hosts.native.pixels import Pixels
from studiogan_gsr.hosts.native.process import joined_ranks
from studiogan_gsr.hosts.native.reader import ImagesLost
from studiogan_gsr.hosts.native.run import train
from studiogan_gsr.hosts.native.threads import using_threads
from studiogan_gsr.hosts.native.training import Trainer
from studiogan_gsr.regularizers.lecam import LeCam

Sections = dict[str, Any]

_COMMON: Sections = {
    "DATA": {"name": "Digits_LT_rho50", "img_size": 32, "num_classes": 10},
    "MODEL": {
        "backbone": "resnet",
        "g_cond_mtd": "cBN",
        "d_cond_mtd": "PD",
        "apply_d_sn": True,
        "z_dim": 8,
        "g_conv_dim": 8,
        "d_conv_dim": 4,
    },
    "LOSS": {"adv_loss": "hinge"},
    "OPTIMIZATION": {"batch_size": 8, "d_updates_per_step": 2, "beta1": 0.5, "beta2": 0.9, "total_steps": 4},
}


def changed(sections: Sections, **changes: Any) -> Sections:
    """Sections with some keys changed; None removes a section."""
    names = {**sections, **changes}
    made = {name: {**sections.get(name, {}), **(changes.get(name, {}) or {})} for name in names}
    return {name: values for name, values in made.items() if changes.get(name, {}) is not None}


PLAIN = _COMMON
# gSR, DiffAugment and LeCam, whose moving averages start at step 2.
SNGAN = changed(
    _COMMON,
    LOSS={"apply_lecam": True, "lecam_lambda": 0.1, "lecam_ema_start_iter": 2, "lecam_ema_decay": 0.9},
    AUG={"apply_diffaug": True, "diffaug_type": "diffaug"},
    REGULARIZER={"name": "gsr", "weight": 0.5, "beta": 0.9},
)
# Attention, an averaged generator, and ADA, which adjusts p at every fourth step and collects signs in between.
BIGGAN = changed(
    _COMMON,
    MODEL={
        "backbone": "big_resnet",
        "apply_g_sn": True,
        "apply_attn": True,
        "attn_g_loc": [2],
        "attn_d_loc": [1],
        "g_shared_dim": 4,
        "g_conv_dim": 8,
        "d_conv_dim": 8,
        "apply_g_ema": True,
        "g_ema_decay": 0.9,
        "g_ema_start": 2,
    },
    AUG={
        "apply_ada": True,
        "ada_aug_type": "bgc",
        "ada_initial_augment_p": 0.4,
        "ada_target": 0.6,
        "ada_kimg": 1,
        "ada_interval": 4,
    },
)
MODELS = {"SNGAN": SNGAN, "BigGAN": BIGGAN}


def write(path: Path, sections: Sections) -> Path:
    path.write_text(yaml.safe_dump(sections))
    return path


def arguments(configuration: Path, out: Path, *more: str) -> list[str]:
    """Arguments of `studiogan-gsr`: train on the digits, log every step and save every other."""
    given = ["train", str(configuration), "--data", "unused", "--out", str(out), "--device", "cpu", *more]
    for flag, value in (("--print-freq", "1"), ("--save-freq", "2")):
        given += [] if flag in more else [flag, value]
    return given


def noise_folder(root: Path) -> Path:
    """Write two classes of twelve noise images each, in the layout of `Folder_LT`; return `root`."""
    stream = np.random.default_rng(0)
    for label in "ab":
        (root / "train" / label).mkdir(parents=True)
        for i in range(12):
            pixels = stream.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "train" / label / f"{i:02}.png")
    return root


def one_thread() -> AbstractContextManager[None]:
    """Use one thread: tiny networks need no more, and the processes below have one."""
    return using_threads(1)


# Training step by step.

# Training images per class of Digits_LT_rho50.
COUNTS = [134, 86, 56, 36, 23, 15, 9, 6, 4, 2]
# What makes another family of the common network, for `changed`.
FAMILIES: dict[str, Sections] = {
    "ContraGAN": {
        "MODEL": {"d_cond_mtd": "2C", "d_embed_dim": 8, "normalize_d_embed": True},
        "LOSS": {"cond_lambda": 1.0, "temperature": 1.0},
    },
    "BigGAN": {
        "MODEL": {
            "backbone": "big_resnet",
            "z_dim": 16,
            "g_shared_dim": 8,
            "apply_g_sn": True,
            "apply_attn": True,
            "attn_g_loc": [1],
            "attn_d_loc": [2],
            "d_conv_dim": 8,
        },
    },
}


def random_batches(
    seed: int = 0, size: int = 8, device: torch.device | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of noise of 32 pixels in place of images, and labels of ten classes; on the CPU by default."""
    stream = torch.Generator().manual_seed(seed)
    while True:
        images, labels = torch.rand(size, 3, 32, 32, generator=stream), torch.randint(10, (size,), generator=stream)
        yield (images * 2 - 1).to(device), labels.to(device)


def checked_steps(trainer: Trainer, steps: int) -> Trainer:
    """Train some steps, checked as the loop does."""
    for step in range(1, steps + 1):
        trainer.step()
        trainer.regularization.check_active(step)
        trainer.regularization.report(step)
    return trainer


# Processes.


class Child:
    """A process, and the file with its output."""

    def __init__(self, process: ForkServerProcess, path: Path) -> None:
        self.process, self.path = process, path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def output(self) -> str:
        return self.path.read_text()

    def end(self, seconds: float = 60) -> int:
        """Wait for the process and return its exit status, -n if signal n ended it; kill it after `seconds`."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"still running after {seconds} s:\n{self.output}")
        return self.process.exitcode

    def wait_for_step(self, out: Path, step: int) -> None:
        """Wait until the run's log has reached a step, or the process has ended."""
        while self.process.is_alive() and last_step(out) < step:
            time.sleep(0.005)


def start(folder: Path, work: Callable[..., Any], *given: Any, environment: dict[str, str] | None = None) -> Child:
    """Call `work`, a function of this module, in a new process and session; return without waiting."""
    context = _server()
    path = folder / f"output-{len(list(folder.glob('output-*')))}.txt"
    path.touch()
    process = context.Process(target=_child, args=(path, environment or {}, work, given))
    process.start()
    return Child(process, path)


@cache
def _server() -> Any:
    context = get_context("forkserver")
    context.set_forkserver_preload(["studiogan_gsr.hosts.native.run", "torch.utils.tensorboard", "sklearn.datasets"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


def run(folder: Path, *given: Any) -> Child:
    """Call `start` and wait until the process has ended."""
    child = start(folder, *given)
    child.end()
    return child


def _child(path: Path, environment: dict[str, str], work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    os.setsid()
    set_start_method(get_all_start_methods()[0], force=True)  # the default again, for data workers
    with path.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    warnings.simplefilter("error")
    sys.exit(work(*given))


def command(argv: list[str]) -> int:
    return main(argv)


def command_with_impatient_workers(argv: list[str]) -> int:
    """Run the command; its data workers check every 0.1 s, not every 5 s, whether their parent is alive."""
    worker.MP_STATUS_CHECK_INTERVAL = 0.1
    return main(argv)


def command_without_patience(argv: list[str], seconds: float) -> int:
    """Run the command, which ends after `seconds` without a batch, and prints a notice after half that time."""
    reader._NOTICE, reader.LIMIT = seconds / 2, seconds
    return main(argv)


def command_with(path: Path, argv: list[str], dies_at: int | None = None) -> int:
    """Run the command with `path` on the import path, and the cache of references beside that folder.

    dies_at: None, or `at` of `command_that_dies`.
    """
    sys.path.insert(0, str(path))
    cache_of_features.FOLDER = path.parent / "references"
    return main(argv) if dies_at is None else command_that_dies(argv, dies_at)


def command_that_dies(argv: list[str], at: int) -> int:
    """Run the command and kill it at its `at`-th flush of a file to disk."""
    flush, flushed = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal flushed
        flushed += 1
        if flushed == at:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)

    os.fsync = fsync
    return main(argv)


def command_on_a_full_disk(argv: list[str], size: int, of_files: str) -> int:
    """Run the command; from the first checkpoint file whose name contains `of_files`, files are limited to `size`.

    size: in bytes.  The operating system raises the error, not a mock.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    whole = checkpoint._write

    def write(state: dict[str, Any], path: Path) -> None:
        if of_files in path.name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        whole(state, path)

    checkpoint._write = write
    return main(argv)


def command_with_small_files(argv: list[str], size: int) -> int:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return main(argv)


def command_with_little_memory(argv: list[str], size: int) -> int:
    """Run the command with at most `size` bytes of address space more than the process has now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, resource.RLIM_INFINITY))
    return main(argv)


def one_rank(sections: Sections, options: TrainOptions, kept: Path) -> None:
    """Train one rank and save its final state to the file `kept`."""
    trainer = train(sections, options)
    torch.save(state_of(trainer), kept)


def one_rank_with(path: Path, sections: Sections, options: TrainOptions, kept: Path) -> None:
    """`one_rank` with packages of a folder."""
    sys.path.insert(0, str(path))
    one_rank(sections, options, kept)


def command_in_blocks(argv: list[str], size: int) -> int:
    """Run the command; ranks decode images in blocks of `size`."""
    shares._BLOCK = size
    return main(argv)


def share_of_rank(root: Path, kept: Path, dies_at: int | None) -> None:
    """Read a folder's images into memory, in blocks of 5, and save them, what this rank decoded, and the error.

    dies_at: None, or at which image rank 1's worker kills itself.
    """
    shares._BLOCK, shares._WORTH_WORKERS = 5, 0 if dies_at is not None else 1000
    read: list[int] = []

    class Noted(Pixels):
        def __getitem__(self, index: int) -> Any:
            if index == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            read.append(index)
            return super().__getitem__(index)

    pixels = Noted(Prepared(folder_lt(str(root), "train"), "Folder_LT", 32))
    found: dict[str, Any]
    with joined_ranks("cpu", read_configuration(PLAIN).OPTIMIZATION) as ranks:
        try:
            images = InMemory(pixels, ranks.device, 1, ranks)
            found = {"images": images.images, "labels": images.labels, "notes": images.notes}
        except ImagesLost as error:
            found = {"error": str(error)}
    torch.save({**found, "read": read}, kept)


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Return parameters, noise, ADA, LeCam and step of a trainer.

    Without the batch-norm statistics, which differ between ranks, and the optimizers' state.
    """
    networks = {"G": trainer.generator, "D": trainer.discriminator, "G_ema": trainer.averaged}
    return {
        **{name: dict(net.named_parameters()) for name, net in networks.items() if net is not None},
        "noise": trainer.noise.get_state(),
        "ada": None if trainer.ada is None else {"p": trainer.ada.p, "signs": trainer.ada.signs},
        "regularizers": {name: entry["state"] for name, entry in regularizers_of(trainer).items()},
        "steps": trainer.steps,
    }


def regularizers_of(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """What a checkpoint holds of each regularizer, by name."""
    return {entry["name"]: entry for entry in trainer.regularization.state()}


def discriminator_gradients(
    sections: Sections, real: torch.Tensor, fake: torch.Tensor, labels: torch.Tensor, kept: Path | None = None
) -> dict[str, torch.Tensor]:
    """Return the discriminator's gradients in two updates, and LeCam's averages after them.

    real, fake: (2, N, 3, H, W) in float64.  labels: (2, N).
    kept: None, or the file in which a rank saves its results.  A rank takes its part of each batch, and averages the
    gradients over all ranks.
    """
    configuration = read_configuration(sections)
    _, discriminator = make_networks(configuration, 0)
    discriminator.double()
    if kept is not None:
        dist.init_process_group("gloo")
        rank, ranks = dist.get_rank(), dist.get_world_size()
        real, fake, labels = (tensor.chunk(ranks, 1)[rank] for tensor in (real, fake, labels))
    trainer = SimpleNamespace(ranks=1 if kept is None else ranks)
    loss, conditional = configuration.LOSS, conditional_loss(configuration.MODEL, configuration.LOSS)
    lecam = LeCam(discriminator, [], loss.lecam_lambda, loss.lecam_ema_decay, loss.lecam_ema_start_iter)
    found = {}
    for step, (x, y, label) in enumerate(zip(real, fake, labels, strict=True), start=3):
        discriminator.zero_grad()
        of_real, of_fake = discriminator(x, label), discriminator(y, label)
        value = discriminator_loss(loss.adv_loss, of_real.logits, of_fake.logits)
        value = value + loss.cond_lambda * conditional(of_real, label)
        value = value + lecam.discriminator_loss(judged(of_real.logits, of_fake.logits, step))
        value.backward()
        Trainer._average_gradients(trainer, discriminator)
        found |= {f"{name} {step}": p.grad.clone() for name, p in discriminator.named_parameters()}
    found["averages"] = lecam.averages
    if kept is not None:
        torch.save(found, kept)
        dist.destroy_process_group()
    return found


def judged(real: torch.Tensor, fake: torch.Tensor, step: int) -> Batch:
    """A batch of a discriminator's update of which the logits alone matter."""
    z, labels = torch.zeros(len(fake), 1), torch.zeros(len(fake), dtype=torch.int64)
    images = torch.zeros(len(fake), 3, 1, 1)
    return Batch(step, z, labels, images, None, fake, images[: len(real)], labels[: len(real)], real)


def discriminator_work(*given: Any) -> None:
    discriminator_gradients(*given)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start_ranks(folder: Path, ranks: int, work: Callable[..., Any], given: list[tuple[Any, ...]]) -> list[Child]:
    """Start a process per rank, with the environment variables that torchrun sets.

    given: the arguments of `work`, one tuple per rank.
    """
    place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        start(folder, work, *mine, environment={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, mine in enumerate(given)
    ]


def end_ranks(ranks: list[Child]) -> list[int]:
    """Wait for all ranks and return their exit statuses; kill all when one fails, as torchrun does, or after 60 s."""
    until = time.monotonic() + 60
    while any(child.process.is_alive() for child in ranks):
        if time.monotonic() > until or any(child.process.exitcode for child in ranks):
            for child in ranks:
                child.process.kill()
        time.sleep(0.02)
    return [child.end() for child in ranks]


# A run's files.


def log_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[dict[str, Any]]:
    """Return the lines of the log without their timing."""
    timing = ("seconds", "steps_per_second")
    return [{k: v for k, v in line.items() if k not in timing} for line in log_lines(out)]


def last_step(out: Path) -> int:
    try:
        return int(log_lines(out)[-1]["step"])
    except (OSError, ValueError, IndexError):  # no log yet, or its last line is incomplete
        return 0


def files(folder: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint's files by name, without elapsed time and the run's name."""
    contents = {path.name: read_file(path) for path in sorted(folder.iterdir())}
    for content in contents.values():
        for key in ("elapsed", "run_name"):
            content.pop(key, None)
    return contents


def difference(a: Any, b: Any, place: str = "") -> str:
    """Return the place of the first difference of two nested contents; "" if they are equal, with equal dtypes."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        equal = type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)
        return "" if equal else f"{place}: tensors differ"
    if isinstance(a, dict) and isinstance(b, dict):
        if set(a) != set(b):
            return f"{place}: {sorted(map(str, set(a) ^ set(b)))}"
        return next(filter(None, (difference(a[k], b[k], f"{place}/{k}") for k in a)), "")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{place}: {len(a)} and {len(b)} items"
        return next(
            filter(None, (difference(x, y, f"{place}/{i}") for i, (x, y) in enumerate(zip(a, b, strict=True)))), ""
        )
    return "" if a == b else f"{place}: {a} {b}"
