"""Shims: repairs for today's libraries, and for errors of the pinned StudioGAN itself.

`SHIMS` lists them.  Each can be switched off with `--no-shim NAME`.
"""

from __future__ import annotations

import functools
import glob
import importlib.util
import netrc
import os
import sys
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from packaging.version import parse

from studiogan_gsr.errors import RequestError, near_miss
from studiogan_gsr.hosts.studiogan.checkout import find_function


@dataclass(frozen=True)
class Shim:
    """One repair.

    name: for `--no-shim`.  problem, repair: texts that `doctor` prints.
    apply: a function that makes the repair.  early: call it before StudioGAN is imported, not right after.
    """

    name: str
    problem: str
    repair: str
    apply: Callable[[], None]
    early: bool = False


def apply_shims(skipped: Collection[str], early: bool) -> None:
    """Apply the early or the late shims, except for those that are switched off."""
    for shim in SHIMS:
        if shim.early == early and shim.name not in skipped:
            shim.apply()


def check_names(names: Collection[str]) -> None:
    """Raise RequestError if one of the names is not the name of a shim."""
    known = [shim.name for shim in SHIMS]
    for name in names:
        if name not in known:
            raise RequestError(f"--no-shim {name}: the shims are {', '.join(known)}{near_miss(name, known)}")


def _pkg_resources() -> None:
    if importlib.util.find_spec("pkg_resources") is None:
        module = types.ModuleType("pkg_resources")
        module.parse_version = parse  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = module


def _wandb_offline() -> None:
    chosen = os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")
    if not chosen and not _netrc_has("wandb"):
        os.environ["WANDB_MODE"] = "offline"


def _netrc_has(word: str) -> bool:
    try:
        return any(word in host for host in netrc.netrc(os.environ.get("NETRC")).hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb_image() -> None:
    import torch
    import wandb
    from torchvision.utils import make_grid

    class Image(wandb.Image):
        """An image; a batch of images becomes one grid."""

        def __init__(self, data: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(data, torch.Tensor) and data.ndim == 4:
                data = make_grid(data, normalize=True)
            super().__init__(data, *args, **kwargs)

    setattr(wandb, "Image", Image)  # noqa: B010


def _best_checkpoint() -> None:
    parameters = ["ckpt_dir", "Gen", "Dis", "apply_g_ema", "Gen_ema", "ema"]
    ckpt, name, load_best_model = find_function("utils.ckpt", "load_best_model", parameters)

    @functools.wraps(load_best_model)
    def load_best_model_if_any(ckpt_dir: str, *args: Any, **kwargs: Any) -> Any:
        prefix = os.path.join(glob.escape(ckpt_dir), "model=G-")
        if glob.glob(prefix + "best-weights-step*.pth"):
            return load_best_model(ckpt_dir, *args, **kwargs)
        saved = glob.glob(prefix + "current-weights-step=*.pth")
        step = max((int(path.rpartition("=")[2].removesuffix(".pth")) for path in saved), default=0)
        print("[studiogan-gsr] no metric chose a best checkpoint: the last weights are used")
        return step

    setattr(ckpt, name, load_best_model_if_any)


def _integer_betas() -> None:
    config, name, define_optimizer = find_function(
        "config", "Configurations.define_optimizer", ["self", "Gen", "Dis"]
    )

    def define_optimizer_of_floats(self: Any, Gen: Any, Dis: Any) -> None:
        for key in ("beta1", "beta2"):
            if isinstance(getattr(self.OPTIMIZATION, key, None), int):
                setattr(self.OPTIMIZATION, key, float(getattr(self.OPTIMIZATION, key)))
        define_optimizer(self, Gen, Dis)

    setattr(config, name, functools.wraps(define_optimizer)(define_optimizer_of_floats))


def _late_penalties() -> None:
    import torch

    worker, _, _ = find_function("worker", "WORKER.log_train_statistics", ["self", "current_step"])
    for penalty in ("r1_penalty", "pl_reg_loss"):
        setattr(worker, penalty, torch.zeros(()))


def _checkpoint_numbers() -> None:
    import numpy as np
    import torch

    scalar: Any = np.float64(0).__reduce__()[0]
    names = ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"]  # in numpy 1 and numpy 2
    kinds = {type(np.dtype(kind)) for kind in ("float32", "float64", "int64")}
    torch.serialization.add_safe_globals([*((scalar, name) for name in names), np.dtype, *kinds])


SHIMS = (
    Shim(
        "pkg-resources",
        "setuptools 81 dropped pkg_resources, which utils/style_ops imports",
        "a module with the one function that StudioGAN uses, if the real one is missing",
        _pkg_resources,
        early=True,
    ),
    Shim(
        "wandb-offline",
        "wandb.init, which always runs, asks for a login or fails without network",
        "WANDB_MODE=offline, unless the user has set a mode or a key, or is logged in",
        _wandb_offline,
        early=True,
    ),
    Shim(
        "wandb-image",
        "today's wandb.Image refuses a batch of images, which visualize_fake_images logs",
        "a batch becomes one grid",
        _wandb_image,
    ),
    Shim(
        "best-checkpoint",
        "with -metrics none no best checkpoint is written, and looking for it ends in an IndexError",
        "the last weights are used if there is no best checkpoint",
        _best_checkpoint,
    ),
    Shim(
        "integer-betas",
        "today's Adam refuses betas if only one is an integer (StyleGAN3: beta1: 0)",
        "both are made floats",
        _integer_betas,
    ),
    Shim(
        "late-penalties",
        "a resumed StyleGAN logs its R1 and path-length penalties before it has computed them",
        "they are 0 until then",
        _late_penalties,
    ),
    Shim(
        "checkpoint-numbers",
        "torch.load with weights_only=True refuses the numpy numbers in StudioGAN's own checkpoints",
        "numpy's plain numbers are declared safe to load",
        _checkpoint_numbers,
    ),
)
