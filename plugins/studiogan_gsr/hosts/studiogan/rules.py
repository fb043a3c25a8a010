"""What StudioGAN takes without a look and fails at while it trains, refused before the first step."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.keys import KEYS, UNSET, check_needs, check_together, given

Value = Callable[[str], Any]


class Rule(NamedTuple):
    """What StudioGAN fails at later: the key to name, when, and what to do instead."""

    path: str
    breaks: Callable[[Value], bool]
    allowed: str


def _stylegan(value: Value) -> bool:
    return value("MODEL.backbone") in ("stylegan2", "stylegan3")


def _deep(value: Value) -> bool:
    return str(value("MODEL.backbone")).startswith("big_resnet_deep")


def _adaptive(value: Value) -> bool:
    return bool(value("AUG.apply_ada") or value("AUG.apply_apa"))


def _batch(value: Value) -> int:
    """Images a process."""
    ranks = value("OPTIMIZATION.world_size") if value("RUN.distributed_data_parallel") else 1
    return int(value("OPTIMIZATION.batch_size")) // ranks


def _sizes(value: Value) -> range:
    """The sizes that a backbone has, as the powers of two in a range."""
    if _stylegan(value):
        return range(8, 1025)
    return range(32, 33 if value("MODEL.backbone") == "deep_conv" else 513)


# With networks that exist, whatever the run is for.
ALWAYS = (
    Rule(
        "DATA.img_size",
        lambda v: v("DATA.img_size") not in _sizes(v),
        "the StyleGANs take 8 to 1024 pixels, deep_conv 32, the others 32 to 512",
    ),
    Rule(
        "MODEL.g_cond_mtd",
        lambda v: _deep(v) and v("MODEL.g_cond_mtd") == "W/O" and v("MODEL.g_info_injection") != "cBN",
        "this backbone's batch norms need a condition: cBN",
    ),
    Rule(
        "MODEL.g_depth",
        lambda v: _deep(v) and v("MODEL.g_depth") == 1 and v("DATA.img_size") > 32,
        "from 64 pixels on, widths change in a level's second block: 2 or more",
    ),
    Rule(
        "MODEL.d_cond_mtd",
        lambda v: _stylegan(v) and v("MODEL.d_cond_mtd") == "PD",
        "a StyleGAN's projection discriminator is SPD",
    ),
    Rule(
        "STYLEGAN.cond_type",
        lambda v: (
            _stylegan(v)
            and v("MODEL.d_cond_mtd") in ("SPD", "2C", "D2DCE")
            and v("MODEL.d_cond_mtd") not in v("STYLEGAN.cond_type")
        ),
        "MODEL.d_cond_mtd has to be in it",
    ),
    Rule(
        "MODEL.apply_g_ema",
        lambda v: _stylegan(v) and not v("MODEL.apply_g_ema"),
        "StudioGAN draws a StyleGAN's images with the averaged generator: true",
    ),
    Rule(
        "LOSS.radius",
        lambda v: v("MODEL.info_type") is not None and v("LOSS.radius") is not None,
        "InfoGAN's codes have no place in the second images that a radius makes: leave it out",
    ),
    Rule(
        "--standing_max_batch",
        lambda v: v("RUN.standing_statistics") and min(v("RUN.standing_max_batch"), v("RUN.standing_step")) < 1,
        "-std_stat needs -std_max and -std_step above 0",
    ),
    Rule(
        "LOSS.apply_lo",
        lambda v: v("RUN.standing_statistics") and v("LOSS.apply_lo"),
        "standing statistics are made without a discriminator, and latent optimization needs it",
    ),
    Rule(
        "--truncation_factor",
        lambda v: (
            v("RUN.truncation_factor") != -1
            and (v("RUN.truncation_factor") <= 0 or (_stylegan(v) and v("RUN.truncation_factor") > 1))
        ),
        "above 0 (a StyleGAN's up to 1), or -1 for none",
    ),
    Rule(
        "--langevin_noise_std",
        lambda v: v("RUN.langevin_sampling") and min(v("RUN.langevin_noise_std"), v("RUN.langevin_rate")) <= 0,
        "-lgv needs -lgv_rate and -lgv_std above 0",
    ),
    Rule(
        "--langevin_sampling",
        lambda v: v("RUN.langevin_sampling") and (v("MODEL.info_type") is not None or v("MODEL.d_cond_mtd") == "MH"),
        "neither InfoGAN nor MH can be sampled so",
    ),
)
# Of training alone.
TRAINING = (
    Rule("--print_freq", lambda v: v("RUN.print_freq") < 1, "a positive integer"),
    Rule("--save_freq", lambda v: v("RUN.save_freq") < 1, "a positive integer"),
    Rule("--num_workers", lambda v: v("RUN.num_workers") < 1, "a positive integer: StudioGAN keeps its workers"),
    *(
        Rule(
            f"AUG.{kind}_target",
            lambda v, kind=kind: v(f"AUG.apply_{kind}") and v(f"AUG.{kind}_target") is None,  # type: ignore[misc]
            f"apply_{kind} needs a number from -1 to 1: StudioGAN cannot log a p that stays as it is",
        )
        for kind in ("ada", "apa")
    ),
    Rule(
        "AUG.ada_aug_type",
        lambda v: (
            v("AUG.apply_ada")
            and v("DATA.img_size") < 32
            and v("AUG.ada_aug_type") in ("filter", "bgcf", "bgcfn", "bgcfnc")
        ),
        "its filter is longer than images below 32 pixels",
    ),
    Rule(
        "--freezeD",
        lambda v: v("RUN.freezeD") > -1 and (_adaptive(v) or v("LOSS.apply_topk")),
        "fine-tuning forgets what top-k, ADA and APA start from: switch them off",
    ),
    Rule(
        "STYLEGAN.apply_pl_reg",
        lambda v: v("STYLEGAN.apply_pl_reg") and not _stylegan(v),
        "only StyleGANs have the w whose path lengths are regularized",
    ),
    Rule(
        "STYLEGAN.d_epilogue_mbstd_group_size",
        lambda v: _stylegan(v) and _batch(v) % min(_batch(v), v("STYLEGAN.d_epilogue_mbstd_group_size")) != 0,
        "a divisor of the images a process",
    ),
    Rule(
        "LOSS.apply_topk",
        lambda v: v("LOSS.apply_topk") and v("MODEL.d_cond_mtd") == "SPD",
        "top-k cannot choose among SPD's outputs",
    ),
    Rule(
        "LOSS.topk_nu",
        lambda v: v("LOSS.apply_topk") and v("LOSS.topk_gamma") < 1 and int(_batch(v) * v("LOSS.topk_nu")) < 1,
        "of a batch not one image would be left",
    ),
    Rule(
        "DATA.num_classes",
        lambda v: v("MODEL.d_cond_mtd") == "MD" and v("DATA.num_classes") == 1,
        "MD is a discriminator a class: 2 or more",
    ),
    Rule(
        "OPTIMIZATION.batch_size",
        lambda v: (
            _batch(v) < 2
            and (v("MODEL.d_cond_mtd") in ("MD", "MH", "2C", "D2DCE") or v("MODEL.info_type") is not None)
        ),
        "this loss needs 2 images a process",
    ),
    Rule(
        "OPTIMIZATION.batch_size",
        lambda v: (
            v("RUN.save_freq") <= v("OPTIMIZATION.total_steps") + 1
            and v("MODEL.d_cond_mtd") != "W/O"
            and v("DATA.name") != "CIFAR10"
            and _batch(v) < 8 * v("DATA.num_classes")
            and _batch(v) % 8 != 0
        ),
        "a multiple of 8, or 8 a class, in each process: StudioGAN draws such a picture before it saves",
    ),
)


def check_values(sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse values of a wrong type or range; keys that only this checkout has are its own matter."""
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


def check_whole(cfgs: Any) -> None:
    """Refuse keys and arguments that lack others, or contradict each other.

    cfgs: StudioGAN's, with the defaults and the arguments filled in.
    """
    sections = cfgs.super_cfgs

    def value(path: str) -> Any:
        section, name = path.split(".")
        return given(getattr(sections[section], name, None))

    if cfgs.RUN.train:
        check_needs(value)
        check_together(value)
    for path, breaks, allowed in (*ALWAYS, *(TRAINING if cfgs.RUN.train else ())):
        if breaks(value):
            found = value(f"RUN.{path[2:]}" if path.startswith("--") else path)
            raise ConfigurationError(path, UNSET if found is None else str(found), allowed)
    scored = cfgs.RUN.GAN_train or cfgs.RUN.GAN_test
    if scored and cfgs.DATA.name not in cfgs.MISC.cas_setting:
        allowed = f"--GAN_train and --GAN_test know {', '.join(cfgs.MISC.cas_setting)}"
        raise ConfigurationError("DATA.name", str(cfgs.DATA.name), allowed)


def check_size(images: int, OPTIMIZATION: Any, ranks: int) -> None:
    """Refuse a step that takes more images than there are: StudioGAN leaves out a last part that is smaller.

    images: of the training set.
    """
    basket = OPTIMIZATION.basket_size
    if basket > images // ranks:
        found = f"{OPTIMIZATION.batch_size} x {OPTIMIZATION.acml_steps} x {OPTIMIZATION.d_updates_per_step}"
        allowed = f"a step takes {basket} images a process, and there are {images // ranks}"
        raise ConfigurationError("OPTIMIZATION.batch_size, acml_steps, d_updates_per_step", found, allowed)


def _value(sections: Mapping[str, Any], path: str) -> Any:
    section, name = path.split(".")
    return given(getattr(sections[section], name, None))


def contradiction(function: Callable[..., Any], error: AssertionError, cfgs: Any) -> ConfigurationError:
    """An assertion of StudioGAN about its configuration as what it is: keys or arguments that contradict each other.

    The keys are those that the failed assertion of `function` asks for, and the conditions around it.
    """
    said = " ".join(str(error).split()) or "StudioGAN allows no such combination"
    keys: dict[str, Any] = {}
    for test in _failed_tests(function, error):
        for node in ast.walk(test):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):  # self.SECTION.name
                section, name = cfgs.super_cfgs.get(node.value.attr), node.attr
                if section is not None:
                    keys[f"{node.value.attr}.{name}"] = getattr(section, name, None)
    if not keys:
        return ConfigurationError(str(cfgs.RUN.cfg_file), "keys or arguments that contradict each other", said)
    return ConfigurationError(", ".join(keys), ", ".join(map(str, keys.values())), said)


def _failed_tests(function: Callable[..., Any], error: BaseException) -> list[ast.expr]:
    """The assertion of `function` that failed, and the conditions that it stands in."""
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
