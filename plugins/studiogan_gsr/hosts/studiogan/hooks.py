"""Where the plug-ins meet StudioGAN.

The file that knows StudioGAN's attribute names (the launcher knows its entry, a shim one function
more).  Each hook wraps one surface and leaves its result alone.  Without a plug-in in the configuration nothing
is attached, and a run's numbers are StudioGAN's; but configurations are checked, data sets packed and checkpoints
written and read with more care, in every run.  A surface that is missing, or has other parameters, ends the run
before it starts.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock
from torch import nn

from studiogan_gsr.datasets.by_name import find_dataset, make_dataset
from studiogan_gsr.datasets.counts import listed
from studiogan_gsr.datasets.folder import class_folders, differences
from studiogan_gsr.datasets.images import check_reference, is_checked
from studiogan_gsr.datasets.pack import check_unindexed, pack
from studiogan_gsr.datasets.packed import Packed, open_packed, packed_path
from studiogan_gsr.datasets.preprocessing import STUDIOGAN, Prepared, Preprocessing, inspect_files
from studiogan_gsr.datasets.summary import describe
from studiogan_gsr.errors import (
    CheckpointError,
    ConfigurationError,
    DataError,
    GSRError,
    HostError,
    RegularizerError,
    TrainingError,
    in_one_line,
    place,
    reason,
)
from studiogan_gsr.files import claim, publish, write_atomically
from studiogan_gsr.hosts.class_norms import STATE_KEY as NORMS_KEY
from studiogan_gsr.hosts.class_norms import ClassNorms
from studiogan_gsr.hosts.class_norms import record as norms_record
from studiogan_gsr.hosts.keys import KEYS
from studiogan_gsr.hosts.regularization import (
    Regularization,
    check_ranks,
    equalise_ranks,
    find_regularizer,
    with_all_options,
)
from studiogan_gsr.hosts.studiogan.checkout import OTHER, Checkout, surface
from studiogan_gsr.hosts.studiogan.rules import check_size, check_values, check_whole, contradiction
from studiogan_gsr.machine import device_name, versions
from studiogan_gsr.registry import LoadedPlugin
from studiogan_gsr.regularizers.attachment import Attachment
from studiogan_gsr.settings import (
    SECTION,
    RegularizerSettings,
    check_data_name,
    check_keys,
    load_configuration,
    regularizer_settings,
)

STATE_KEY = "regularizer"
# GradScaler may skip the first steps of a mixed-precision run while it looks for its scale.
_PATIENCE = {True: 50, False: 1}
_CHECKPOINT = re.compile(r"model=(G|D|G_ema)-(current|best)-weights-step=(\d+)\.pth")
_SAVING = ".saving-"
# In the environment, so that spawned ranks and a patched main.py have it, too.
KEEP_VARIABLE = "STUDIOGAN_KEEP"


class Run:
    """What the hooks of one process remember.

    step_to_load: of the checkpoint that is being loaded.  ranks_checked: whether all ranks have been compared.
    adaptive: whether the run trains with ADA or APA.  began: the step that training began
    with in this process, and when.  lock: on the folder that this run saves in, until the process ends.
    """

    def __init__(self) -> None:
        self.training_set: Any = None
        self.generator: nn.Module | None = None
        self.norms: ClassNorms | None = None
        self.regularization: Regularization | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.step_to_load: int | None = None
        self.adaptive = False
        self.ranks_checked = False
        self.began: tuple[int, float] | None = None
        self.lock: FileLock | None = None
        self.origin: tuple[Path, int] | None = None


_run = Run()
_installed = False


class Ready:
    """Travels with a configuration into spawned ranks: whoever unpickles it has the hooks."""

    def __reduce__(self) -> tuple[Callable[[], Ready], tuple[()]]:
        return arrive, ()


def arrive() -> Ready:
    """Install the hooks where the configuration has come to."""
    install()
    return Ready()


def install() -> None:
    """Wrap all surfaces, once a process; HostError names the first that is not as expected."""
    global _installed
    if _installed:
        return
    if not isinstance(getattr(import_module("worker"), "LOG_FORMAT", None), str):
        raise HostError(f"StudioGAN's worker.LOG_FORMAT is missing: {OTHER}")
    hooks = [
        _hook("data_util", "Dataset_.__init__", ["resize_size", "resizer", "hdf5_path"], _make_dataset),
        _hook("config", "Configurations._overwrite_cfgs", ["self", "cfg_file"], _read_configuration),
        _hook("config", "Configurations.check_compatability", ["self"], _check_compatibility),
        _hook(
            "utils.hdf5",
            "make_hdf5",
            ["name", "img_size", "resize_size", "data_dir", "resizer", "DATA", "RUN"],
            _make_hdf5,
        ),
        _hook("models.model", "load_generator_discriminator", ["DATA", "MODEL"], _build_networks),
        _hook("config", "Configurations.define_optimizer", ["self", "Gen", "Dis"], _define_optimizer),
        _hook("models.model", "prepare_parallel_training", ["Gen", "distributed_data_parallel"], _prepare_ranks),
        _hook("data_util", "Dataset_.load_dataset", ["self"], _load_dataset),
        _hook("worker", "WORKER.sample_data_basket", ["self"], _sample_images),
        _hook("worker", "WORKER.train_generator", ["self", "current_step"], _train_generator),
        _hook(
            "worker",
            "WORKER.log_train_statistics",
            ["self", "current_step", "real_cond_loss", "gen_acml_loss", "dis_acml_loss"],
            _log_train_statistics,
        ),
        _hook("worker", "WORKER.save", ["self", "step", "is_best"], _save),
        _hook("utils.misc", "save_model", ["model", "when", "step", "ckpt_dir", "states"], _save_model),
        _hook("utils.ckpt", "load_StudioGAN_ckpts", ["ckpt_dir", "load_best", "apply_g_ema"], _load_checkpoint),
        _hook("utils.ckpt", "load_best_model", ["ckpt_dir", "apply_g_ema"], _load_best),
        _hook("utils.ckpt", "load_ckpt", ["optimizer", "ckpt_path", "load_opt"], _load_file),
    ]
    for owner, name, hooked in hooks:
        setattr(owner, name, hooked)
    _installed = True


def _hook(
    module: str, path: str, parameters: list[str], hook: Callable[..., Any]
) -> tuple[Any, str, Callable[..., Any]]:
    """(owner, attribute, hook(function, **arguments)) of a function of StudioGAN that has these parameters."""
    owner, name, function = surface(module, path, parameters)
    signature, taken = inspect.signature(function), inspect.signature(hook).parameters
    extra = [parameter for parameter in signature.parameters if parameter not in taken]
    if extra and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        raise HostError(
            f"StudioGAN's {module}.{path} has the parameters {', '.join(extra)}, which the hooks do not know: {OTHER}"
        )

    @functools.wraps(function)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return hook(function, **bound.arguments)

    return owner, name, hooked


def _read_configuration(original: Callable[..., None], self: Any, cfg_file: str) -> None:
    """Check all keys, take REGULARIZER out, and let StudioGAN read the rest."""
    sections = load_configuration(cfg_file)
    settings = regularizer_settings(sections)
    rest = {name: values for name, values in sections.items() if name != SECTION}
    if not isinstance(getattr(self, "super_cfgs", None), dict):
        raise HostError("StudioGAN's Configurations.super_cfgs is missing: this checkout changed too much")
    check_keys(rest, self.super_cfgs)
    check_values(rest)
    check_data_name(rest.get("DATA", {}).get("name", self.DATA.name))
    if settings is None:
        original(self, cfg_file)
    else:
        find_regularizer(settings.name, settings.options)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "configuration.yaml"
            path.write_text(yaml.safe_dump(rest), encoding="utf-8")
            original(self, str(path))
        # A section like StudioGAN's own: it is printed with the others and reaches spawned ranks.
        section = type(self.DATA)()
        vars(section).update({"name": settings.name, **settings.options})
        self.super_cfgs[SECTION] = section
    find_dataset(str(self.DATA.name))
    self.plugins = Ready()


def _check_compatibility(original: Callable[..., None], self: Any) -> None:
    """Look at the keys together, and name StudioGAN's own refusals as what they are."""
    check_whole(self)
    try:
        original(self)
    except AssertionError as error:
        raise contradiction(original, error, self) from error


def _settings(cfgs: Any) -> RegularizerSettings | None:
    section = cfgs.super_cfgs.get(SECTION)
    return None if section is None else regularizer_settings({SECTION: dict(vars(section))})


def _make_dataset(original: Callable[..., None], self: Any, **arguments: Any) -> None:
    """Remember how `Dataset_` is to prepare its images; `_load_dataset` is called inside."""
    self.gsr_preparation = arguments["resize_size"], arguments["resizer"] or "wo_resize"
    original(self, **arguments)


def _load_dataset(original: Callable[..., None], self: Any) -> None:
    """Give `Dataset_` a plug-in's images where its name is one; remember the training set."""
    name = str(self.data_name)
    found = find_dataset(name)
    if self.hdf5_path is not None:
        packed = Packed(self.hdf5_path) if found is None else open_packed(self.hdf5_path, name)
        if packed.index is not None:
            _say(f"{packed.path}: {_said(packed)}")
        original(self)
    elif found is None:
        original(self)
        _say_left_out(self)
    else:
        size, resizer = self.gsr_preparation
        split = "train" if self.train else "reference"
        dataset = make_dataset(found[0], self.data_dir, split, found[1])
        _say(f"{name}, {split}: {_said(dataset, resizer)}")
        self.data = dataset if size is None else Prepared(dataset, name, size, resizer)
    if not self.train:
        _check_reference(self, found)
    # The first training set that a rank opens is what it trains on; evaluation may open another.
    if self.train and _run.training_set is None:
        _run.training_set = self


def _check_reference(images: Any, found: tuple[LoadedPlugin, dict[str, Any]] | None) -> None:
    """Refuse reference images that are training images, or, of a plug-in, not balanced; say what else there is."""
    if is_checked(images.data):
        return
    training, train = _run.training_set, None
    if training is not None and training.hdf5_path is None:
        train = training.data
    elif found is not None:
        train = make_dataset(found[0], images.data_dir, "train", found[1])
    elif hasattr(images.data, "samples") and (Path(images.data_dir) / "train").is_dir():
        train = class_folders(Path(images.data_dir), "train", str(images.data_name))
    if isinstance(images.data, Prepared) and train is not None and not isinstance(train, Prepared):
        train = Prepared(train, images.data.name, images.data.size, images.gsr_preparation[1])
    for note in check_reference(train, images.data, str(images.data_name), plugin=found is not None):
        _say(f"{images.data_name}, reference: {note}")


def _say_left_out(images: Any) -> None:
    """Say what StudioGAN's own image folder counts otherwise than `Folder_LT`, and what both leave out."""
    if not hasattr(images.data, "samples"):  # CIFAR
        return
    folder = Path(images.data.root)
    found = differences(folder.parent, folder.name, (path for path, _ in images.data.samples))
    for line in [*found, *inspect_files(images.data, STUDIOGAN)]:
        _say(f"{images.data_name}, {'train' if images.train else 'reference'}: {line}")


def _said(dataset: Any, resizer: str = "wo_resize") -> str:
    """What a run's log says of the images it opens, as the native host's record does."""
    said = describe(dataset, resizer)
    preprocessing = Preprocessing(**said["preprocessing"])
    head = "balanced" if said["head_class"] is None else f"head class {said['head_class']}"
    facts = f"{len(dataset.targets)} images, {head}, {preprocessing}"
    notes = [*said["notes"], *inspect_files(dataset, preprocessing)]
    return "; ".join([f"{facts}; images_sha256 {said['images_sha256']}", *notes])


def _make_hdf5(
    original: Callable[..., Any],
    name: str,
    img_size: int,
    resize_size: int | None,
    resizer: str,
    data_dir: str,
    DATA: Any,
    RUN: Any,
    **rest: Any,
) -> Any:
    """Pack in StudioGAN's place: whole or not at all; and trust a file that is there only after a look at it.

    StudioGAN's own packer writes in place and takes any file for whole.
    """
    path = packed_path(data_dir, name, img_size, resizer)
    if resize_size is None:
        path = path.with_name(f"{name}_{img_size}_train.hdf5")
    found = find_dataset(name)
    if path.exists() and (found is not None or Packed(path).index is not None):
        open_packed(path, name, img_size, resizer)
        return str(path), False, None
    try:
        dataset = import_module("data_util").Dataset_(
            data_name=name,
            data_dir=data_dir,
            train=True,
            resize_size=resize_size,
            resizer=resizer,
            normalize=False,
            **rest,
        )
    except Exception as error:
        if found is not None or not path.exists():
            raise
        _say(f"{path} is not compared with its images, which cannot be opened: {reason(error)}")
        return str(path), False, None
    if found is not None:
        _check_data(dataset, name, DATA)
    _run.training_set = None  # this one is packed; what is trained on is opened from the file
    data = dataset.data
    prepared = data if isinstance(data, Prepared) else Prepared(data, name, img_size, resizer)
    if path.exists():
        check_unindexed(path, prepared)
    else:
        pack(prepared, path, "train", found[1] if found else {}, RUN.num_workers)
    return str(path), False, None


def _build_networks(original: Callable[..., Any], **arguments: Any) -> Any:
    """Name what StudioGAN says while it builds the networks as what it is."""
    try:
        return original(**arguments)
    except (torch.cuda.OutOfMemoryError, MemoryError, OSError, ImportError):
        raise
    except Exception as error:
        raise ConfigurationError(
            "DATA and MODEL", "networks that cannot be built", f"{reason(error)} (at {place(error)})"
        ) from error


def _define_optimizer(original: Callable[..., None], self: Any, Gen: Any, Dis: Any) -> None:
    """Attach the regularizer to the generator's optimizer."""
    original(self, Gen, Dis)
    _run.optimizer = self.OPTIMIZATION.g_optimizer
    settings, name = _settings(self), str(self.DATA.name)
    _run.adaptive = bool(self.RUN.train and (self.AUG.apply_ada or self.AUG.apply_apa))
    if not self.RUN.train:
        if settings is not None:
            _say(f"no training in this run: {settings.name} is not attached")
        return
    _run.generator = Gen
    if settings is None and find_dataset(name) is None:
        return
    counts = _check_data(_run.training_set, name, self.DATA)
    check_size(sum(counts), self.OPTIMIZATION, torch.distributed.get_world_size() if _ranked() else 1)
    if settings is None:
        _say(f"no regularizer; {name}: class counts {listed(counts)}")
        return
    _run.regularization = Regularization(settings, Gen, _run.optimizer, counts)
    _say(_run.regularization.summary)


def _prepare_ranks(original: Callable[..., Any], Gen: Any, distributed_data_parallel: bool, **rest: Any) -> Any:
    """Let all ranks start from one generator, buffers included."""
    if distributed_data_parallel:
        equalise_ranks(_run.regularization, Gen)
    return original(Gen=Gen, distributed_data_parallel=distributed_data_parallel, **rest)


def _sample_images(original: Callable[..., Any], self: Any) -> Any:
    """Name a checkpoint to resume from where an image of the next batch cannot be read."""
    try:
        return original(self)
    except DataError as error:
        good, folder = "there is no checkpoint yet", self.RUN.ckpt_dir  # of rank 0 alone
        if folder and (steps := set.intersection(*_steps(Path(folder), "current", self.MODEL.apply_g_ema).values())):
            good = f"-ckpt {folder} resumes from step {max(steps)}"
        raise TrainingError(f"{in_one_line(error).text}; repair or remove it; {good}") from error


def _train_generator(original: Callable[..., Any], self: Any, current_step: int) -> Any:
    """See after every step, on every rank, that the regularizer has acted; and now and then that all ranks agree."""
    if _run.regularization is None and (settings := _settings(self.cfgs)) is not None:
        raise RegularizerError(f"{settings.name} is not attached: StudioGAN made its optimizers without the hooks")
    if _run.began is None:
        _run.began = current_step, time.time()
        if _run.regularization is not None and getattr(self, "pl_reg", None) is not None:
            _rest_in_path_lengths(self.pl_reg, _run.regularization.attachment)
        if not _ranked() or torch.distributed.get_rank() == 0:  # the others have no folder
            _claim(Path(self.RUN.ckpt_dir))
    if _run.regularization is not None:
        _run.regularization.attachment.wake()
    result = original(self, current_step)
    if _run.norms is None and _run.generator is not None and (not _ranked() or torch.distributed.get_rank() == 0):
        _watch(_run.generator).look()  # the norms that later ones are compared with
    step, regularization, first = current_step + 1, _run.regularization, not _run.ranks_checked
    if regularization is not None:
        scaled = self.RUN.mixed_precision and not self.is_stylegan  # as StudioGAN chooses
        regularization.check_acted(step, _PATIENCE[bool(scaled)])
    if first or step % self.RUN.print_freq == 0:
        ranks = check_ranks(regularization, step)
        # With mixed precision the first steps may be skipped, on all ranks alike.
        if first and regularization is not None and regularization.attachment.steps:
            _say(regularization.proof(step, ranks))
        _run.ranks_checked = regularization is None or regularization.attachment.steps > 0
    return result


def _watch(generator: nn.Module) -> ClassNorms:
    """Watch the classes' norms, from the first step or from where a checkpoint was loaded."""
    own = None if _run.regularization is None else _run.regularization.read_norms
    _run.norms = ClassNorms(generator, _described(_run.training_set)["classes"], own)
    return _run.norms


def _rest_in_path_lengths(path_lengths: Any, attachment: Attachment) -> None:
    """Let the penalty act once a generator update: path-length regularization makes an optimizer step of its own."""
    original = path_lengths.cal_pl_reg

    @functools.wraps(original)
    def cal_pl_reg(*args: Any, **kwargs: Any) -> Any:
        attachment.rest()
        return original(*args, **kwargs)

    path_lengths.cal_pl_reg = cal_pl_reg


def _claim(folder: Path) -> None:
    """Let no other run save there: two of -ckpt on one folder would write over one another."""
    folder.mkdir(parents=True, exist_ok=True)
    _run.lock = claim(folder)
    if _run.lock is None:
        raise HostError(f"{folder}: another process trains there; wait for its end, or give -ckpt a copy of it")


def _log_train_statistics(
    original: Callable[..., None],
    self: Any,
    current_step: int,
    real_cond_loss: Any,
    gen_acml_loss: Any,
    dis_acml_loss: Any,
) -> None:
    """Penalty and largest norms, in StudioGAN's own log line and in wandb; all numbers in log.jsonl."""
    step, regularization = current_step + 1, _run.regularization
    logged: dict[str, float] = {}
    if regularization is None:
        original(self, current_step, real_cond_loss, gen_acml_loss, dis_acml_loss)
    else:
        scalars = regularization.report(step)
        with _log_format("".join(f"{regularization.name}_{key}: {value:<.4} " for key, value in scalars.items())):
            original(self, current_step, real_cond_loss, gen_acml_loss, dis_acml_loss)
        logged = {f"{regularization.name}/{key}": value for key, value in scalars.items()}
    norms, told = (None, "") if _run.norms is None else _run.norms.look()
    if told:
        _say(f"step {step}: {told}")
    folder = Path(self.RUN.save_dir) / "statistics" / self.run_name
    folder.mkdir(parents=True, exist_ok=True)
    losses = {"g_loss": float(gen_acml_loss), "d_loss": float(dis_acml_loss)}  # named as in the native host's log
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, **losses, **logged, **norms_record(norms)}) + "\n")
    if logged:
        import wandb

        wandb.log(logged, step=step)


@contextmanager
def _log_format(more: str) -> Iterator[None]:
    """StudioGAN's log line, with more at its end."""
    worker: Any = import_module("worker")
    line = worker.LOG_FORMAT
    worker.LOG_FORMAT = line + more.replace("{", "{{").replace("}", "}}")
    try:
        yield
    finally:
        worker.LOG_FORMAT = line


def _save(original: Callable[..., None], self: Any, step: int, is_best: bool) -> None:
    """Remove the older checkpoint when the new one is whole."""
    folder = Path(self.RUN.ckpt_dir)
    for left in folder.glob(f"{_SAVING}*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    if _run.regularization is not None:
        _run.regularization.report(step)  # what is not finite is never saved
    _describe(self, folder)
    original(self, step, is_best)
    for (_, when, saved), path in _networks(folder).items():
        if saved != step and (when == "current" or is_best):
            path.unlink()


def _describe(self: Any, folder: Path) -> None:
    """Put beside the checkpoint what it is a checkpoint of, for those who read it later."""
    sections: dict[str, Any] = {
        name: {key: vars(self.cfgs.super_cfgs[name])[key] for key in keys if hasattr(self.cfgs.super_cfgs[name], key)}
        for name, keys in KEYS.items()
        if name in self.cfgs.super_cfgs
    }
    if (settings := _settings(self.cfgs)) is not None:
        sections = with_all_options({**sections, SECTION: {"name": settings.name, **settings.options}})
    if self.RUN.distributed_data_parallel:  # StudioGAN has divided it
        sections["OPTIMIZATION"]["batch_size"] *= self.OPTIMIZATION.world_size
    data: dict[str, Any] = {
        "name": self.DATA.name,
        "root": str(Path(self.RUN.data_dir).resolve()),
        "preprocessing": {"resizer": self.RUN.pre_resizer},
    }
    if _run.training_set is not None:
        data |= _described(_run.training_set)
    regularization = _run.regularization
    record = {
        "host": "studiogan",
        "checkout": _checkout(),
        "seed": self.RUN.seed,
        "starts": [*_starts_before(folder), _this_start()],
        "ranks": torch.distributed.get_world_size() if _ranked() else 1,
        "regularizer": None
        if regularization is None
        else {
            "plugin": str(regularization.plugin),
            "summary": regularization.summary,
            "acted": regularization.acted,
        },
        "data": data,
    }
    kept = os.environ.get(KEEP_VARIABLE)
    for where in [folder, *([Path(kept)] if kept else [])]:
        where.mkdir(parents=True, exist_ok=True)
        write_atomically(where / "config.yaml", yaml.safe_dump(sections, sort_keys=False))
        write_atomically(where / "run.json", json.dumps(record) + "\n")


@functools.cache
def _described(images: Any) -> dict[str, Any]:
    """Which images a `Dataset_` has: of a plug-in's, all that the native host records; else counts and names."""
    if images.hdf5_path is None and isinstance(images.data, Prepared):
        return describe(images.data.dataset, images.gsr_preparation[1])
    counts = _class_counts(images)
    packed = None if images.hdf5_path is None else Packed(images.hdf5_path)
    classes = list(getattr(images.data if packed is None else packed, "classes", ()))
    return {
        "class_counts": counts,
        "classes": [str(name) for name in (classes if len(classes) == len(counts) else range(len(counts)))],
    }


def _this_start() -> dict[str, Any]:
    step, began = _run.began or (0, time.time())
    origin = {} if _run.origin is None else {"checkpoint": str(_run.origin[0]), "checkpoint_step": _run.origin[1]}
    return {
        "step": step,
        "time": datetime.fromtimestamp(began, timezone.utc).isoformat(),
        "seconds": round(time.time() - began, 3),
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),
        "versions": versions(),
        "images_sha256": None if _run.training_set is None else _described(_run.training_set).get("images_sha256"),
        **origin,
    }


def _starts_before(folder: Path) -> list[dict[str, Any]]:
    """Of the processes that this one goes on from."""
    path, here = folder / "run.json", _this_start()["step"]
    before = json.loads(path.read_text()).get("starts", []) if path.is_file() else []
    return [start for start in before if start["step"] < here]


@functools.cache
def _checkout() -> dict[str, Any]:
    checkout = Checkout(Path(str(import_module("loader").__file__)).resolve().parents[1])
    return {"commit": checkout.commit(), "changed_files": checkout.changed_files()}


def _keep(model: str, step: int, states: dict[str, Any]) -> None:
    """Put the weights of a step's generator where the user wants those of all steps: a folder that reads as a run."""
    kept = os.environ.get(KEEP_VARIABLE)
    if not kept or model == "D":
        return
    path = Path(kept) / "checkpoints" / f"step={step}" / f"model={model}-current-weights-step={step}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save({"state_dict": states["state_dict"]}, content)
    write_atomically(path, content.getvalue())


def _save_model(
    original: Callable[..., None], model: str, when: str, step: int, ckpt_dir: str, states: dict[str, Any]
) -> None:
    """Put the regularizer's state into the generator's checkpoint; write a file whole or not at all.

    StudioGAN removes the old file first and writes the new one in place.
    """
    _keep(model, step, states)
    if model == "G" and _run.regularization is not None:
        states = {**states, STATE_KEY: _run.regularization.state()}
    if model == "G" and _run.norms is not None:
        states = {**states, NORMS_KEY: _run.norms.state()}
    with tempfile.TemporaryDirectory(dir=ckpt_dir, prefix=_SAVING) as folder:
        original(model, when, step, folder, states)
        for path in Path(folder).iterdir():
            publish(path, Path(ckpt_dir) / path.name)


def _load_checkpoint(
    original: Callable[..., Any], ckpt_dir: str, load_best: bool, apply_g_ema: bool, **rest: Any
) -> Any:
    """Load the newest step that is whole; CheckpointError, by name, where there is none or it cannot be loaded."""
    folder, when = Path(ckpt_dir), "best" if load_best else "current"
    steps = _steps(folder, when, apply_g_ema)
    whole = set.intersection(*steps.values())
    if not whole:
        there = ", ".join(f"{model} of {sorted(found) or 'no step'}" for model, found in steps.items())
        raise CheckpointError(f"{folder}: no whole {when} checkpoint: found {there}")
    _run.step_to_load = max(whole)
    if left := set.union(*steps.values()) - {max(whole)}:
        _say(f"{folder}: goes on from step {max(whole)}; files of {sorted(left)} are left aside")
    try:
        with _only_weights():
            loaded = original(ckpt_dir=ckpt_dir, load_best=load_best, apply_g_ema=apply_g_ema, **rest)
        strength = loaded[4]  # after run's name, step, epoch and top-k
        if _run.adaptive and isinstance(strength, str | None):
            raise CheckpointError(f"{folder}: was trained without ADA or APA, and holds no p for them to go on from")
        _run.origin = folder.resolve(), max(whole)
        return loaded
    except GSRError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder}: the {when} checkpoint of step {max(whole)} cannot be loaded: {reason(error)[:300]}"
        ) from error
    finally:
        _run.step_to_load = None


def _load_best(original: Callable[..., Any], ckpt_dir: str, apply_g_ema: bool, **rest: Any) -> Any:
    """Load the newest best step that is whole; where files are there and none is, keep the last weights."""
    steps = _steps(Path(ckpt_dir), "best", apply_g_ema)
    whole = set.intersection(*steps.values())
    if not whole and any(steps.values()):
        _say(f"{ckpt_dir}: no best checkpoint is whole: the last weights are kept")
        return max(set.intersection(*_steps(Path(ckpt_dir), "current", apply_g_ema).values()), default=0)
    _run.step_to_load = max(whole, default=None)
    try:
        return original(ckpt_dir=ckpt_dir, apply_g_ema=apply_g_ema, **rest)
    finally:
        _run.step_to_load = None


def _load_file(original: Callable[..., Any], optimizer: Any, ckpt_path: str, load_opt: bool, **rest: Any) -> Any:
    """Take the regularizer's state back where the generator's optimizer is restored."""
    if _run.step_to_load is not None:
        ckpt_path = re.sub(r"step=\d+\.pth$", f"step={_run.step_to_load}.pth", ckpt_path)
    with _only_weights():
        result = original(optimizer=optimizer, ckpt_path=ckpt_path, load_opt=load_opt, **rest)
    if optimizer is not _run.optimizer:
        return result
    if not load_opt:
        if _run.regularization is not None:
            _say(f"{_run.regularization.name}: fine-tuning: its state in the checkpoint is left, and it starts anew")
        return result
    content = torch.load(ckpt_path, map_location="cpu", weights_only=True)
    saved = content.get(STATE_KEY)
    if _run.generator is not None and (not _ranked() or torch.distributed.get_rank() == 0):
        _watch(_run.generator).restore(content)
    if _run.regularization is not None:
        _say(_run.regularization.restore(saved, ckpt_path))
    elif saved is not None:
        _say(f"the checkpoint holds the state of {saved['name']}, and this run has no regularizer")
    return result


def _steps(folder: Path, when: str, averaged: bool) -> dict[str, set[int]]:
    """Of each network that a checkpoint needs, the steps whose file is there."""
    found = [(model, step) for model, saved, step in _networks(folder) if saved == when]
    wanted = ["G", "D", "G_ema"] if averaged else ["G", "D"]
    return {name: {step for model, step in found if model == name} for name in wanted}


def _networks(folder: Path) -> dict[tuple[str, str, int], Path]:
    """The files of a checkpoint folder by network, "current" or "best", and step."""
    found = ((_CHECKPOINT.fullmatch(path.name), path) for path in folder.glob("model=*"))
    return {(match[1], match[2], int(match[3])): path for match, path in found if match}


@contextmanager
def _only_weights() -> Iterator[None]:
    """Checkpoints hold tensors and plain data; whatever else a file holds is not run."""
    force, never = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (force, never)}
    os.environ[force] = "1"
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _class_counts(dataset: Any) -> list[int]:
    """Images per class of a `Dataset_`, from the data in use; DataError where they cannot be had."""
    if dataset is None:
        raise DataError("no training set was opened, and the class counts come from it")
    if dataset.hdf5_path is not None:
        return Packed(dataset.hdf5_path).class_counts
    if hasattr(dataset.data, "class_counts"):
        return [int(n) for n in dataset.data.class_counts]
    targets = getattr(dataset.data, "targets", None)
    if targets is None:
        raise DataError(f"{dataset.data_name}: {type(dataset.data).__name__} has neither class_counts nor targets")
    counts: list[int] = np.bincount(np.asarray(targets, dtype=np.int64)).tolist()
    return counts


def _check_data(dataset: Any, name: str, DATA: Any) -> list[int]:
    """The class counts of a `Dataset_`; DataError where classes or image size contradict the section DATA."""
    counts = _class_counts(dataset)
    if len(counts) != DATA.num_classes:
        raise DataError(
            f"DATA.num_classes: found {DATA.num_classes}; {name} has {len(counts)} classes, with "
            f"{listed(counts)} images"
        )
    with torch.random.fork_rng(devices=[]):  # the random flip draws
        image, _ = dataset[0]
    if tuple(image.shape[-2:]) != (DATA.img_size, DATA.img_size):
        raise DataError(
            f"DATA.img_size: found {DATA.img_size}; the images of {name} are {image.shape[-1]} x "
            f"{image.shape[-2]} pixels (--pre_resizer resizes them)"
        )
    return counts


def _say(message: str) -> None:
    rank = torch.distributed.get_rank() if _ranked() else 0
    # The line's end in the same write: ranks share their output.
    print(f"[studiogan-gsr] rank {rank}: {message}\n", end="", flush=True)


def _ranked() -> bool:
    return torch.distributed.is_initialized()
