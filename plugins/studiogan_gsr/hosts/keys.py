"""StudioGAN's configuration keys: their defaults, their allowed values, and which keys need others.

All keys of StudioGAN 947b35e are here, with StudioGAN's names and defaults.  None stands for StudioGAN's "N/A".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from studiogan_gsr.errors import ConfigurationError, near_miss, number_hint
from studiogan_gsr.settings import is_int, is_number

UNSET = "N/A"


class Kind(NamedTuple):
    """The values that a key may have: a description for messages, and a test."""

    allowed: str
    accepts: Callable[[Any], bool]


def one_of(*values: object) -> Kind:
    """Return the kind that accepts exactly these values, compared with their types (1 is not true)."""
    return Kind("one of " + ", ".join(map(str, values)), lambda v: v in values and type(v) in map(type, values))


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
POSITIVE = Kind("a positive integer", lambda v: is_int(v) and v > 0)
COUNT = Kind("an integer, 0 or more", lambda v: is_int(v) and v >= 0)
AMOUNT = Kind("a number, 0 or more", lambda v: is_number(v) and v >= 0)
ABOVE_ZERO = Kind("a number above 0", lambda v: is_number(v) and v > 0)
SHARE = Kind("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
PART = Kind("a number above 0, at most 1", lambda v: is_number(v) and 0 < v <= 1)
DECAY = Kind("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1)
NUMBER = Kind("a number", is_number)
SIGN_RATE = Kind("a number from -1 to 1", lambda v: is_number(v) and -1 <= v <= 1)
BLOCKS = Kind(
    "a list of block numbers, from 1",
    lambda v: isinstance(v, list | tuple) and len(set(v)) == len(v) and all(is_int(i) and i > 0 for i in v),
)
NAME = Kind("a data set's name", lambda v: isinstance(v, str) and bool(v))
_ACTIVATION = one_of("ReLU", "Leaky_ReLU", "ELU", "GELU", "Auto")
_INIT = one_of("ortho", "N02", "glorot", "xavier")
_WIDTH = Kind(  # the StyleGANs have none
    f"{POSITIVE.allowed}, or {UNSET}", lambda v: v is None or POSITIVE.accepts(v)
)
_PROXIES = one_of("PD", "SPD", "2C", "D2DCE")
# The types of SimCLR, BYOL and ADA are missing in cr_aug_type, bcr_aug_type and diffaug_type below: StudioGAN lists
# them, but fails when it builds them.
_ADA = one_of("W/O", "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc")


class Key(NamedTuple):
    """A key's default, None for "N/A", and the kind of its values."""

    default: Any
    kind: Kind

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        return self.kind.allowed + (f", or {UNSET}" if self.default is None else "")

    def check(self, path: str, value: Any, more: str = "") -> None:
        """Raise ConfigurationError if a value from a YAML file is not allowed.

        path: the key's path, for the message.  more: the end of the message, instead of a "did you mean".
        """
        if not self.takes(value):
            choices = self.kind.allowed.removeprefix("one of ").split(", ")
            meant = near_miss(value, choices) if isinstance(value, str) and len(choices) > 1 else ""
            allowed = f"allowed: {self.allowed}{number_hint(value)}{more or meant}"
            raise ConfigurationError(path, repr(value), allowed)

    def takes(self, value: Any) -> bool:
        """Return whether a value from a YAML file is allowed."""
        if given(value) is None and self.default is None:
            return True
        try:
            return self.kind.accepts(given(value))
        except TypeError:  # a list or mapping instead of a plain value
            return False


def given(value: Any) -> Any:
    """Return a value from a YAML file, None for "N/A"."""
    return None if value in (UNSET, [UNSET]) else value


def _off(names: str) -> dict[str, Key]:
    return {name: Key(False, FLAG) for name in names.split()}


def _unset(kind: Kind, names: str) -> dict[str, Key]:
    return {name: Key(None, kind) for name in names.split()}


KEYS: dict[str, dict[str, Key]] = {
    "DATA": {
        "name": Key("CIFAR10", NAME),
        "img_size": Key(32, one_of(8, 16, 32, 64, 128, 256, 512, 1024)),
        "num_classes": Key(10, POSITIVE),
        "img_channels": Key(3, one_of(3)),
    },
    "MODEL": {
        "backbone": Key(
            "resnet",
            one_of(
                "deep_conv",
                "resnet",
                "big_resnet",
                "big_resnet_deep_legacy",
                "big_resnet_deep_studiogan",
                "stylegan2",
                "stylegan3",
            ),
        ),
        "g_cond_mtd": Key("W/O", one_of("W/O", "cBN", "cAdaIN")),
        "d_cond_mtd": Key("W/O", one_of("W/O", "AC", "PD", "MH", "MD", "2C", "D2DCE", "SPD")),
        "aux_cls_type": Key("W/O", one_of("W/O", "TAC", "ADC")),
        **_off("normalize_d_embed apply_g_sn apply_d_sn apply_attn apply_g_ema"),
        "g_act_fn": Key("ReLU", _ACTIVATION),
        "d_act_fn": Key("ReLU", _ACTIVATION),
        **_unset(BLOCKS, "attn_g_loc attn_d_loc"),
        "z_prior": Key("gaussian", one_of("gaussian", "uniform")),
        "z_dim": Key(128, POSITIVE),
        "g_conv_dim": Key(64, _WIDTH),
        "d_conv_dim": Key(64, _WIDTH),
        **_unset(POSITIVE, "d_embed_dim w_dim g_shared_dim g_depth d_depth"),
        **_unset(DECAY, "g_ema_decay"),
        **_unset(COUNT, "g_ema_start"),
        "g_init": Key("ortho", _INIT),
        "d_init": Key("ortho", _INIT),
        **_unset(one_of("discrete", "continuous", "both"), "info_type"),
        **_unset(one_of("concat", "cBN"), "g_info_injection"),
        **_unset(POSITIVE, "info_num_discrete_c info_num_conti_c info_dim_discrete_c"),
    },
    "LOSS": {
        "adv_loss": Key("vanilla", one_of("vanilla", "logistic", "least_square", "hinge", "wasserstein", "MH")),
        **_off("apply_fm apply_r1_reg apply_wc apply_gp apply_dra apply_maxgp apply_cr apply_bcr apply_zcr"),
        **_off("apply_lo apply_topk apply_lecam"),
        **_unset(AMOUNT, "cond_lambda tac_gen_lambda tac_dis_lambda mh_lambda fm_lambda r1_lambda gp_lambda"),
        **_unset(AMOUNT, "dra_lambda maxgp_lambda cr_lambda real_lambda fake_lambda g_lambda d_lambda lo_lambda"),
        **_unset(AMOUNT, "infoGAN_loss_discrete_lambda infoGAN_loss_conti_lambda lecam_lambda"),
        **_unset(one_of("inside_loop", "outside_loop"), "r1_place"),
        **_unset(NUMBER, "m_p"),
        **_unset(ABOVE_ZERO, "temperature wc_bound lo_alpha lo_beta"),
        # A float, because StudioGAN does not make zCR's second images if the radius is an integer.
        **_unset(Kind("a float above 0 and below 1e9", lambda v: isinstance(v, float) and 0 < v < 1e9), "radius"),
        **_unset(SHARE, "lo_rate"),
        # With 1, StudioGAN's optimization of z makes no step and returns nothing.
        **_unset(Kind("an integer, 2 or more", lambda v: is_int(v) and v >= 2), "lo_steps4train lo_steps4eval"),
        **_unset(PART, "topk_gamma topk_nu"),
        **_unset(COUNT, "lecam_ema_start_iter"),
        **_unset(DECAY, "lecam_ema_decay"),
    },
    "OPTIMIZATION": {
        "type_": Key("Adam", one_of("Adam", "SGD", "RMSprop")),
        "batch_size": Key(64, POSITIVE),
        "acml_steps": Key(1, POSITIVE),
        "g_lr": Key(0.0002, ABOVE_ZERO),
        "d_lr": Key(0.0002, ABOVE_ZERO),
        "g_weight_decay": Key(0.0, AMOUNT),
        "d_weight_decay": Key(0.0, AMOUNT),
        **_unset(DECAY, "momentum alpha"),
        **_unset(FLAG, "nesterov"),
        "beta1": Key(0.5, DECAY),
        "beta2": Key(0.999, DECAY),
        "d_first": Key(True, FLAG),
        "g_updates_per_step": Key(1, POSITIVE),
        "d_updates_per_step": Key(5, POSITIVE),
        "total_steps": Key(100000, POSITIVE),
    },
    "PRE": {"apply_rflip": Key(True, FLAG)},
    "AUG": {
        **_off("apply_diffaug apply_ada apply_apa"),
        **_unset(SHARE, "ada_initial_augment_p apa_initial_augment_p"),
        **_unset(SIGN_RATE, "ada_target apa_target"),
        **_unset(ABOVE_ZERO, "ada_kimg apa_kimg"),
        **_unset(POSITIVE, "ada_interval apa_interval"),
        "cr_aug_type": Key("W/O", one_of("W/O", "cr", "diffaug")),
        "bcr_aug_type": Key("W/O", one_of("W/O", "bcr", "diffaug")),
        "diffaug_type": Key("W/O", one_of("W/O", "cr", "diffaug")),
        "ada_aug_type": Key("W/O", _ADA),
    },
    "STYLEGAN": {
        **_unset(one_of("stylegan3-t", "stylegan3-r"), "stylegan3_cfg"),
        "cond_type": Key(
            ["PD", "SPD", "2C", "D2DCE"],
            Kind(f"a list, each {_PROXIES.allowed}", lambda v: isinstance(v, list) and all(map(_PROXIES.accepts, v))),
        ),
        **_unset(POSITIVE, "g_reg_interval d_reg_interval mapping_network d_epilogue_mbstd_group_size"),
        **_unset(SHARE, "style_mixing_p"),
        **_unset(ABOVE_ZERO, "g_ema_kimg g_ema_rampup blur_init_sigma"),
        **_off("apply_pl_reg"),
        **_unset(AMOUNT, "pl_weight"),
        **_unset(one_of("orig", "skip", "resnet"), "d_architecture"),
    },
}


class Need(NamedTuple):
    """A condition on keys, and the keys that must be set if it holds.

    when: {path of a key: values}; the condition holds if every key has one of its values.
    keys: paths, separated by spaces.
    """

    when: dict[str, tuple[Any, ...]]
    keys: str


GIVEN = ("any value",)  # in a condition: any value but "N/A"
_STYLEGANS = ("stylegan2", "stylegan3")
_DEEP = ("big_resnet_deep_legacy", "big_resnet_deep_studiogan")
_ON = (True,)
NEEDS = (
    Need({"MODEL.backbone": ("big_resnet", *_DEEP), "MODEL.g_cond_mtd": ("cBN",)}, "MODEL.g_shared_dim"),
    Need({"MODEL.backbone": _DEEP}, "MODEL.g_depth MODEL.d_depth"),
    Need({"MODEL.backbone": _STYLEGANS}, "MODEL.w_dim STYLEGAN.mapping_network STYLEGAN.d_architecture"),
    Need({"MODEL.backbone": _STYLEGANS}, "STYLEGAN.style_mixing_p STYLEGAN.d_epilogue_mbstd_group_size"),
    Need({"MODEL.backbone": _STYLEGANS}, "STYLEGAN.g_reg_interval STYLEGAN.d_reg_interval"),
    Need({"MODEL.backbone": _STYLEGANS, "MODEL.apply_g_ema": _ON}, "STYLEGAN.g_ema_kimg"),
    Need(
        {"MODEL.backbone": ("deep_conv", "resnet", "big_resnet", *_DEEP), "MODEL.apply_g_ema": _ON},
        "MODEL.g_ema_decay MODEL.g_ema_start",
    ),
    Need({"MODEL.backbone": ("stylegan3",)}, "STYLEGAN.stylegan3_cfg"),
    Need({"STYLEGAN.stylegan3_cfg": ("stylegan3-r",)}, "STYLEGAN.blur_init_sigma"),
    Need({"STYLEGAN.apply_pl_reg": _ON}, "STYLEGAN.pl_weight STYLEGAN.g_reg_interval"),
    Need({"MODEL.d_cond_mtd": ("AC", "2C", "D2DCE")}, "LOSS.cond_lambda"),
    Need({"MODEL.d_cond_mtd": ("2C", "D2DCE")}, "MODEL.d_embed_dim LOSS.temperature"),
    Need({"MODEL.d_cond_mtd": ("D2DCE",)}, "LOSS.m_p"),
    Need({"MODEL.d_cond_mtd": ("MH",)}, "LOSS.mh_lambda"),
    Need({"MODEL.aux_cls_type": ("TAC",)}, "LOSS.tac_gen_lambda LOSS.tac_dis_lambda"),
    Need({"LOSS.apply_fm": _ON}, "LOSS.fm_lambda"),
    Need({"LOSS.apply_r1_reg": _ON}, "LOSS.r1_lambda"),
    Need({"LOSS.apply_r1_reg": _ON, "LOSS.r1_place": ("outside_loop",)}, "STYLEGAN.d_reg_interval"),
    Need({"LOSS.apply_wc": _ON}, "LOSS.wc_bound"),
    Need({"LOSS.apply_gp": _ON}, "LOSS.gp_lambda"),
    Need({"LOSS.apply_dra": _ON}, "LOSS.dra_lambda"),
    Need({"LOSS.apply_maxgp": _ON}, "LOSS.maxgp_lambda"),
    Need({"LOSS.apply_cr": _ON}, "LOSS.cr_lambda AUG.cr_aug_type"),
    Need({"LOSS.apply_bcr": _ON}, "LOSS.real_lambda LOSS.fake_lambda AUG.bcr_aug_type"),
    Need({"LOSS.apply_zcr": _ON}, "LOSS.radius LOSS.g_lambda LOSS.d_lambda"),
    Need({"LOSS.apply_lo": _ON}, "LOSS.lo_alpha LOSS.lo_beta LOSS.lo_rate LOSS.lo_lambda"),
    Need({"LOSS.apply_lo": _ON}, "LOSS.lo_steps4train LOSS.lo_steps4eval"),
    Need({"LOSS.apply_topk": _ON}, "LOSS.topk_gamma LOSS.topk_nu"),
    Need({"LOSS.apply_lecam": _ON}, "LOSS.lecam_lambda LOSS.lecam_ema_start_iter LOSS.lecam_ema_decay"),
    Need({"OPTIMIZATION.type_": ("SGD",)}, "OPTIMIZATION.momentum OPTIMIZATION.nesterov"),
    Need({"OPTIMIZATION.type_": ("RMSprop",)}, "OPTIMIZATION.momentum OPTIMIZATION.alpha"),
    Need({"AUG.apply_diffaug": _ON}, "AUG.diffaug_type"),
    Need({"AUG.apply_ada": _ON}, "AUG.ada_aug_type AUG.ada_initial_augment_p"),
    Need({"AUG.apply_ada": _ON, "AUG.ada_target": GIVEN}, "AUG.ada_kimg AUG.ada_interval"),
    Need({"AUG.apply_apa": _ON}, "AUG.apa_initial_augment_p"),
    Need({"AUG.apply_apa": _ON, "AUG.apa_target": GIVEN}, "AUG.apa_kimg AUG.apa_interval"),
)


def check_needs(value: Callable[[str], Any]) -> None:
    """Raise ConfigurationError if a key that another key needs is not set.

    value: returns a key's value by its path, None for "N/A".
    """

    def holds(path: str, values: tuple[Any, ...]) -> bool:
        found = value(path)
        return found is not None if values is GIVEN else found in values

    def needed(key: str) -> str:
        section, name = key.split(".")
        return KEYS[section][name].kind.allowed.replace("W/O, ", "")

    for when, _ in NEEDS:
        if not all(holds(path, values) for path, values in when.items()):
            continue
        keys = [key for other, more in NEEDS if other == when for key in more.split()]
        if missing := [key for key in keys if value(key) in (None, "W/O")]:
            because = " with ".join(f"{path}: {value(path)}" for path in when)
            others = "".join(f", and {key}: {needed(key)}" for key in missing[1:])
            found = str(value(missing[0]) or UNSET)
            raise ConfigurationError(missing[0], found, f"{because} needs {needed(missing[0])}{others}")


def check_together(value: Callable[[str], Any]) -> None:
    """Raise ConfigurationError for combinations that StudioGAN accepts, but that fail or do nothing in training.

    value: returns a key's value by its path, None for "N/A".
    """
    if value("OPTIMIZATION.type_") == "SGD" and value("OPTIMIZATION.nesterov") and not value("OPTIMIZATION.momentum"):
        raise ConfigurationError("OPTIMIZATION.momentum", "0", "nesterov: true needs a momentum above 0")
    places = [value(f"MODEL.attn_{side}_loc") for side in "gd"]
    if value("MODEL.apply_attn") and not any(places):
        found = UNSET if places[0] is None else str(list(places[0]))
        raise ConfigurationError(
            "MODEL.attn_g_loc", found, f"apply_attn needs attn_g_loc or attn_d_loc: {BLOCKS.allowed}, not empty"
        )
