"""Rules that refuse, before the first step, configurations that StudioGAN accepts and later fails with."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.keys import KEYS, UNSET, check_needs, check_together, given
from studiogan_gsr.hosts.studiogan.types import Configurations, Original, Section


class Sections:
    """StudioGAN's sections; `sections.MODEL.backbone` is a value, or None for "N/A" and for a missing key."""

    def __init__(self, sections: Mapping[str, Any]) -> None:
        self._sections = sections

    def __getattr__(self, name: str) -> _Values:
        return _Values(self._sections[name])

    def value(self, path: str) -> Any:
        """Return the value of a key by its path, such as "MODEL.backbone"."""
        section, name = path.split(".")
        return getattr(getattr(self, section), name)


class _Values:
    def __init__(self, section: Section) -> None:
        self._section = section

    def __getattr__(self, name: str) -> Any:
        return given(getattr(self._section, name, None))


@dataclass(frozen=True)
class Rule:
    """A configuration that StudioGAN fails with.

    path: the key or argument that the error names.  breaks: returns whether sections break the rule.
    allowed: the end of the error message, with the allowed values or a reason.
    training: True if the rule holds for training only.
    """

    path: str
    breaks: Callable[[Sections], bool]
    allowed: str
    training: bool


RULES: list[Rule] = []
Breaks = Callable[[Sections], bool]


def _rule(path: str, allowed: str, *, training: bool = False) -> Callable[[Breaks], Breaks]:
    """Return a decorator that adds a rule; the decorated function returns whether sections break it."""

    def add(breaks: Breaks) -> Breaks:
        RULES.append(Rule(path, breaks, allowed, training))
        return breaks

    return add


def _is_stylegan(s: Sections) -> bool:
    return s.MODEL.backbone in ("stylegan2", "stylegan3")


def _is_deep(s: Sections) -> bool:
    return str(s.MODEL.backbone).startswith("big_resnet_deep")


def _images_per_process(s: Sections) -> int:
    ranks = s.OPTIMIZATION.world_size if s.RUN.distributed_data_parallel else 1
    return int(s.OPTIMIZATION.batch_size) // ranks


# Networks.


@_rule("DATA.img_size", "the StyleGANs take 8 to 1024 pixels, deep_conv 32, the others 32 to 512")
def _another_size(s: Sections) -> bool:
    smallest, largest = 32, 512
    if _is_stylegan(s):
        smallest, largest = 8, 1024
    elif s.MODEL.backbone == "deep_conv":
        largest = 32
    return not smallest <= s.DATA.img_size <= largest


@_rule("MODEL.g_cond_mtd", "allowed: cBN; the batch norms of this backbone need a condition")
def _deep_without_condition(s: Sections) -> bool:
    return _is_deep(s) and s.MODEL.g_cond_mtd == "W/O" and s.MODEL.g_info_injection != "cBN"


@_rule("MODEL.g_depth", "allowed: 2 or more; above 32 pixels, the width changes in the second block of a level")
def _deep_of_one_block(s: Sections) -> bool:
    return _is_deep(s) and s.MODEL.g_depth == 1 and s.DATA.img_size > 32


@_rule("MODEL.d_cond_mtd", "use SPD, the projection discriminator of the StyleGANs")
def _stylegan_with_projection(s: Sections) -> bool:
    return _is_stylegan(s) and s.MODEL.d_cond_mtd == "PD"


@_rule("STYLEGAN.cond_type", "it must contain MODEL.d_cond_mtd")
def _stylegan_of_another_condition(s: Sections) -> bool:
    method = s.MODEL.d_cond_mtd
    return _is_stylegan(s) and method in ("SPD", "2C", "D2DCE") and method not in s.STYLEGAN.cond_type


@_rule("MODEL.apply_g_ema", "allowed: true; StudioGAN draws the images of a StyleGAN with the averaged generator")
def _stylegan_without_average(s: Sections) -> bool:
    return _is_stylegan(s) and not s.MODEL.apply_g_ema


@_rule("LOSS.radius", "leave it out: StudioGAN generates the perturbed images without InfoGAN's codes")
def _radius_with_codes(s: Sections) -> bool:
    return s.MODEL.info_type is not None and s.LOSS.radius is not None


# Sampling.


@_rule("--standing_max_batch", "-std_stat needs -std_max and -std_step above 0")
def _standing_without_batches(s: Sections) -> bool:
    return bool(s.RUN.standing_statistics and min(s.RUN.standing_max_batch, s.RUN.standing_step) < 1)


@_rule(
    "LOSS.apply_lo",
    "standing statistics are computed without a discriminator, and latent optimization needs it",
)
def _standing_with_optimized_latents(s: Sections) -> bool:
    return bool(s.RUN.standing_statistics and s.LOSS.apply_lo)


@_rule("--truncation_factor", "allowed: a number above 0 (at most 1 for a StyleGAN), or -1 for none")
def _truncation_out_of_range(s: Sections) -> bool:
    factor = s.RUN.truncation_factor
    return factor != -1 and (factor <= 0 or (_is_stylegan(s) and factor > 1))


@_rule("--langevin_noise_std", "-lgv needs -lgv_rate and -lgv_std above 0")
def _langevin_without_noise(s: Sections) -> bool:
    return bool(s.RUN.langevin_sampling and min(s.RUN.langevin_noise_std, s.RUN.langevin_rate) <= 0)


@_rule("--langevin_sampling", "InfoGAN and MH cannot be sampled this way")
def _langevin_of_other_latents(s: Sections) -> bool:
    return s.RUN.langevin_sampling and (s.MODEL.info_type is not None or s.MODEL.d_cond_mtd == "MH")


# Training.


@_rule("--print_freq", "a positive integer", training=True)
def _never_printed(s: Sections) -> bool:
    return bool(s.RUN.print_freq < 1)


@_rule("--save_freq", "a positive integer", training=True)
def _never_saved(s: Sections) -> bool:
    return bool(s.RUN.save_freq < 1)


@_rule("--num_workers", "a positive integer: StudioGAN's persistent workers need one", training=True)
def _without_workers(s: Sections) -> bool:
    return bool(s.RUN.num_workers < 1)


@_rule(
    "AUG.ada_target",
    "apply_ada needs a number from -1 to 1: StudioGAN cannot log a constant p",
    training=True,
)
def _ada_without_target(s: Sections) -> bool:
    return s.AUG.apply_ada and s.AUG.ada_target is None


@_rule(
    "AUG.apa_target",
    "apply_apa needs a number from -1 to 1: StudioGAN cannot log a constant p",
    training=True,
)
def _apa_without_target(s: Sections) -> bool:
    return s.AUG.apply_apa and s.AUG.apa_target is None


@_rule(
    "AUG.ada_aug_type",
    "its filter is longer than images below 32 pixels; choose a type without filter, such as bgc",
    training=True,
)
def _filter_longer_than_images(s: Sections) -> bool:
    return s.AUG.apply_ada and s.DATA.img_size < 32 and s.AUG.ada_aug_type in ("filter", "bgcf", "bgcfn", "bgcfnc")


@_rule("--freezeD", "fine-tuning loses the state of top-k, ADA and APA: switch them off", training=True)
def _fine_tuning_with_memory(s: Sections) -> bool:
    return s.RUN.freezeD > -1 and bool(s.AUG.apply_ada or s.AUG.apply_apa or s.LOSS.apply_topk)


@_rule("STYLEGAN.apply_pl_reg", "it regularizes path lengths in w, which only StyleGANs have", training=True)
def _path_lengths_without_w(s: Sections) -> bool:
    return s.STYLEGAN.apply_pl_reg and not _is_stylegan(s)


@_rule("STYLEGAN.d_epilogue_mbstd_group_size", "a divisor of the images per process", training=True)
def _uneven_groups_of_images(s: Sections) -> bool:
    images = _images_per_process(s)
    return _is_stylegan(s) and images % min(images, s.STYLEGAN.d_epilogue_mbstd_group_size) != 0


@_rule("LOSS.apply_topk", "top-k cannot choose among SPD's outputs", training=True)
def _topk_of_stylegan_outputs(s: Sections) -> bool:
    return bool(s.LOSS.apply_topk and s.MODEL.d_cond_mtd == "SPD")


@_rule("LOSS.topk_nu", "it would leave no image of a batch: raise it", training=True)
def _topk_of_no_image(s: Sections) -> bool:
    return s.LOSS.apply_topk and s.LOSS.topk_gamma < 1 and int(_images_per_process(s) * s.LOSS.topk_nu) < 1


@_rule("DATA.num_classes", "allowed: 2 or more; MD has one discriminator output per class", training=True)
def _one_discriminator(s: Sections) -> bool:
    return bool(s.MODEL.d_cond_mtd == "MD" and s.DATA.num_classes == 1)


@_rule("OPTIMIZATION.batch_size", "this loss needs 2 images per process", training=True)
def _loss_of_one_image(s: Sections) -> bool:
    pairs = s.MODEL.d_cond_mtd in ("MD", "MH", "2C", "D2DCE") or s.MODEL.info_type is not None
    return _images_per_process(s) < 2 and pairs


@_rule(
    "OPTIMIZATION.batch_size",
    "a multiple of 8, or at least 8 x num_classes, per process: StudioGAN draws 8 columns before it saves",
    training=True,
)
def _picture_without_images(s: Sections) -> bool:
    images = _images_per_process(s)
    drawn = s.MODEL.d_cond_mtd != "W/O" and s.DATA.name != "CIFAR10"
    saves = s.RUN.save_freq <= s.OPTIMIZATION.total_steps + 1
    return saves and drawn and images < 8 * s.DATA.num_classes and images % 8 != 0


def check_values(sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigurationError for values of a wrong type or range; keys that are not in `KEYS` are skipped."""
    for section, values in sections.items():
        for name, value in values.items():
            key, path = KEYS.get(section, {}).get(name), f"{section}.{name}"
            if key is None:
                continue
            if value is None:
                raise ConfigurationError(path, "null", f"allowed: {key.allowed}")
            key.check(path, value)
    activations = [sections.get("MODEL", {}).get(f"{side}_act_fn", "ReLU") for side in "gd"]
    if activations.count("Auto") == 1:
        raise ConfigurationError("MODEL.g_act_fn, MODEL.d_act_fn", ", ".join(activations), "Auto is for both or none")


def check_whole(cfgs: Configurations) -> None:
    """Raise ConfigurationError for keys and arguments that need others, or contradict each other.

    cfgs: with StudioGAN's defaults and the command line's arguments filled in.
    """
    sections = Sections(cfgs.super_cfgs)
    if cfgs.RUN.train:
        check_needs(sections.value)
        check_together(sections.value)
    for rule in RULES:
        if (cfgs.RUN.train or not rule.training) and rule.breaks(sections):
            found = sections.value(f"RUN.{rule.path[2:]}" if rule.path.startswith("--") else rule.path)
            raise ConfigurationError(rule.path, UNSET if found is None else str(found), rule.allowed)
    scored = cfgs.RUN.GAN_train or cfgs.RUN.GAN_test
    if scored and cfgs.DATA.name not in cfgs.MISC.cas_setting:
        allowed = f"--GAN_train and --GAN_test support {', '.join(cfgs.MISC.cas_setting)}"
        raise ConfigurationError("DATA.name", str(cfgs.DATA.name), allowed)


def check_size(images: int, OPTIMIZATION: Section, ranks: int, *, divided: bool = False) -> None:
    """Raise ConfigurationError if a training step takes more images than a process has.

    StudioGAN drops the last incomplete batch; here this would be the only batch.

    images: number of images of the training set.  OPTIMIZATION: the section.  ranks: number of processes.
    divided: whether StudioGAN has already divided the batch size by the number of processes.
    """
    per_step = OPTIMIZATION.basket_size
    if per_step > images // ranks:
        batch_size = OPTIMIZATION.batch_size * (ranks if divided else 1)
        found = f"{batch_size} x {OPTIMIZATION.acml_steps} x {OPTIMIZATION.d_updates_per_step}"
        allowed = f"a step takes {per_step} images per process, and there are {images // ranks}"
        raise ConfigurationError("OPTIMIZATION.batch_size, acml_steps, d_updates_per_step", found, allowed)


def contradiction(function: Original, error: AssertionError, cfgs: Configurations) -> ConfigurationError:
    """Return the ConfigurationError for a failed assertion of StudioGAN about its configuration.

    The error names the keys that the assertion in `function` and the `if` statements around it read.
    """
    message = " ".join(str(error).split()) or "StudioGAN does not allow this combination"
    keys: dict[str, Any] = {}
    for test in _failed_tests(function, error):
        for node in ast.walk(test):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):  # self.SECTION.name
                section, name = cfgs.super_cfgs.get(node.value.attr), node.attr
                if section is not None:
                    keys[f"{node.value.attr}.{name}"] = getattr(section, name, None)
    if not keys:
        return ConfigurationError(str(cfgs.RUN.cfg_file), "keys or arguments that contradict each other", message)
    return ConfigurationError(", ".join(keys), ", ".join(map(str, keys.values())), message)


def _failed_tests(function: Original, error: BaseException) -> list[ast.expr]:
    """Return the test expressions of the failed assertion in `function` and of the `if` statements around it."""
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code is not getattr(function, "__code__", None):
        at = at.tb_next
    try:
        lines, first = inspect.getsourcelines(function)
        nodes = ast.walk(ast.parse(textwrap.dedent("".join(lines))))
    except (OSError, SyntaxError):
        return []
    number = -1 if at is None else at.tb_lineno - first + 1
    around = [node for node in nodes if isinstance(node, ast.Assert | ast.If)]
    return [node.test for node in around if node.lineno <= number <= (node.end_lineno or 0)]
