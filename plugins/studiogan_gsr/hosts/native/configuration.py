"""StudioGAN's keys, with StudioGAN's names and defaults, as frozen sections.

Every key that StudioGAN 947b35e has is here: a key that this host supports is a field of its
section; any other is refused unless it has StudioGAN's default.  None stands for StudioGAN's "N/A".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from studiogan_gsr.errors import ConfigurationError, near_miss, number_hint
from studiogan_gsr.settings import SECTION, RegularizerSettings, check_data_name, regularizer_settings

UNSET = "N/A"
ELSEWHERE = "the native host does not have this; `studiogan-gsr studiogan run` does"
# Blocks of a generator by image size; StudioGAN's also has 256 and 512.
GENERATOR_BLOCKS = {32: 3, 64: 4, 128: 5}


class Kind(NamedTuple):
    """What a key's value may be."""

    allowed: str
    accepts: Callable[[Any], bool]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and value - value == 0)  # neither infinite nor NaN


def _one_of(*values: object) -> Kind:
    return Kind("one of " + ", ".join(map(str, values)), lambda v: v in values and type(v) in map(type, values))


def _or_unset(kind: Kind) -> Kind:
    return Kind(f"{kind.allowed}, or {UNSET}", lambda v: v is None or kind.accepts(v))


FLAG = Kind("true or false", lambda v: isinstance(v, bool))
POSITIVE = Kind("a positive integer", lambda v: _is_int(v) and v > 0)
COUNT = Kind("an integer, 0 or more", lambda v: _is_int(v) and v >= 0)
AMOUNT = Kind("a number, 0 or more", lambda v: _is_number(v) and v >= 0)
ABOVE_ZERO = Kind("a number above 0", lambda v: _is_number(v) and v > 0)
SHARE = Kind("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
DECAY = Kind("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1)
NUMBER = Kind("a number", _is_number)
BLOCKS = Kind(
    "a list of block numbers, from 1",
    lambda v: isinstance(v, list | tuple) and len(set(v)) == len(v) and all(_is_int(i) and i > 0 for i in v),
)
NAME = Kind("a data set's name", lambda v: isinstance(v, str) and bool(v))
_ACTIVATION = _one_of("ReLU", "Leaky_ReLU", "ELU", "GELU")
_INIT = _one_of("ortho", "N02", "glorot", "xavier")


def _key(default: Any, kind: Kind) -> Any:
    return field(default=default, metadata={"kind": kind if default is not None else _or_unset(kind)})


@dataclass(frozen=True)
class Data:
    """DATA: what is trained on."""

    name: str = _key("CIFAR10", NAME)
    img_size: int = _key(32, _one_of(*GENERATOR_BLOCKS))
    num_classes: int = _key(10, POSITIVE)


@dataclass(frozen=True)
class Model:
    """MODEL: both networks."""

    backbone: str = _key("resnet", _one_of("resnet", "big_resnet"))
    g_cond_mtd: str = _key("W/O", _one_of("W/O", "cBN"))
    d_cond_mtd: str = _key("W/O", _one_of("W/O", "AC", "PD", "2C", "D2DCE"))
    normalize_d_embed: bool = _key(False, FLAG)
    d_embed_dim: int | None = _key(None, POSITIVE)
    apply_g_sn: bool = _key(False, FLAG)
    apply_d_sn: bool = _key(False, FLAG)
    g_act_fn: str = _key("ReLU", _ACTIVATION)
    d_act_fn: str = _key("ReLU", _ACTIVATION)
    apply_attn: bool = _key(False, FLAG)
    attn_g_loc: tuple[int, ...] | None = _key(None, BLOCKS)
    attn_d_loc: tuple[int, ...] | None = _key(None, BLOCKS)
    z_prior: str = _key("gaussian", _one_of("gaussian", "uniform"))
    z_dim: int = _key(128, POSITIVE)
    g_shared_dim: int | None = _key(None, POSITIVE)
    g_conv_dim: int = _key(64, POSITIVE)
    d_conv_dim: int = _key(64, POSITIVE)
    apply_g_ema: bool = _key(False, FLAG)
    g_ema_decay: float | None = _key(None, DECAY)
    g_ema_start: int | None = _key(None, COUNT)
    g_init: str = _key("ortho", _INIT)
    d_init: str = _key("ortho", _INIT)


@dataclass(frozen=True)
class Loss:
    """LOSS: adversarial and conditional losses, LeCam, weight clipping."""

    adv_loss: str = _key("vanilla", _one_of("vanilla", "logistic", "least_square", "hinge", "wasserstein"))
    cond_lambda: float | None = _key(None, AMOUNT)
    temperature: float | None = _key(None, ABOVE_ZERO)
    m_p: float | None = _key(None, NUMBER)
    apply_wc: bool = _key(False, FLAG)
    wc_bound: float | None = _key(None, ABOVE_ZERO)
    apply_lecam: bool = _key(False, FLAG)
    lecam_lambda: float | None = _key(None, AMOUNT)
    lecam_ema_start_iter: int | None = _key(None, COUNT)
    lecam_ema_decay: float | None = _key(None, DECAY)


@dataclass(frozen=True)
class Optimization:
    """OPTIMIZATION: both optimizers and the shape of a step."""

    type_: str = _key("Adam", _one_of("Adam", "SGD", "RMSprop"))
    batch_size: int = _key(64, POSITIVE)
    acml_steps: int = _key(1, POSITIVE)
    g_lr: float = _key(0.0002, ABOVE_ZERO)
    d_lr: float = _key(0.0002, ABOVE_ZERO)
    g_weight_decay: float = _key(0.0, AMOUNT)
    d_weight_decay: float = _key(0.0, AMOUNT)
    momentum: float | None = _key(None, DECAY)
    nesterov: bool | None = _key(None, FLAG)
    alpha: float | None = _key(None, DECAY)
    beta1: float = _key(0.5, DECAY)
    beta2: float = _key(0.999, DECAY)
    d_first: bool = _key(True, FLAG)
    g_updates_per_step: int = _key(1, POSITIVE)
    d_updates_per_step: int = _key(5, POSITIVE)
    total_steps: int = _key(100000, POSITIVE)


@dataclass(frozen=True)
class Pre:
    """PRE: what happens to real images."""

    apply_rflip: bool = _key(True, FLAG)


@dataclass(frozen=True)
class Aug:
    """AUG: differentiable augmentation."""

    apply_diffaug: bool = _key(False, FLAG)
    diffaug_type: str = _key("W/O", _one_of("W/O", "diffaug"))
    apply_ada: bool = _key(False, FLAG)
    ada_aug_type: str = _key("W/O", _one_of("W/O", "blit", "geom", "color", "bg", "bgc"))
    ada_initial_augment_p: float | None = _key(None, SHARE)
    ada_target: float | None = _key(None, Kind("a number from -1 to 1", lambda v: _is_number(v) and -1 <= v <= 1))
    ada_kimg: float | None = _key(None, ABOVE_ZERO)
    ada_interval: int | None = _key(None, POSITIVE)


@dataclass(frozen=True)
class Configuration:
    """A whole configuration, every key given or at StudioGAN's default."""

    DATA: Data
    MODEL: Model
    LOSS: Loss
    OPTIMIZATION: Optimization
    PRE: Pre
    AUG: Aug
    regularizer: RegularizerSettings | None = None

    def sections(self) -> dict[str, Any]:
        """As a YAML file would have it, with every supported key."""
        sections: dict[str, Any] = {}
        for name in SECTIONS:
            values = dataclasses.asdict(getattr(self, name))
            sections[name] = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}
        if self.regularizer is not None:
            sections[SECTION] = {"name": self.regularizer.name, **self.regularizer.options}
        return sections


SECTIONS: dict[str, type] = {
    "DATA": Data,
    "MODEL": Model,
    "LOSS": Loss,
    "OPTIMIZATION": Optimization,
    "PRE": Pre,
    "AUG": Aug,
}


def _keys(names: str, default: Any = None) -> dict[str, Any]:
    return dict.fromkeys(names.split(), default)


# StudioGAN's other keys and their defaults.
UNSUPPORTED: dict[str, dict[str, Any]] = {
    "DATA": {"img_channels": 3},
    "MODEL": {"aux_cls_type": "W/O"}
    | _keys("info_type g_info_injection info_num_discrete_c info_num_conti_c info_dim_discrete_c")
    | _keys("w_dim g_depth d_depth"),
    "LOSS": _keys("apply_fm apply_r1_reg apply_gp apply_dra apply_maxgp apply_cr apply_bcr apply_zcr", False)
    | _keys("apply_lo apply_topk", False)
    | _keys("fm_lambda r1_place r1_lambda gp_lambda dra_lambda maxgp_lambda cr_lambda real_lambda fake_lambda")
    | _keys("radius g_lambda d_lambda lo_alpha lo_beta lo_rate lo_lambda lo_steps4train lo_steps4eval")
    | _keys("tac_gen_lambda tac_dis_lambda mh_lambda topk_gamma topk_nu")
    | _keys("infoGAN_loss_discrete_lambda infoGAN_loss_conti_lambda"),
    "OPTIMIZATION": {},
    "PRE": {},
    "AUG": {"apply_apa": False}
    | _keys("apa_initial_augment_p apa_target apa_kimg apa_interval")
    | _keys("cr_aug_type bcr_aug_type", "W/O"),
    "STYLEGAN": {"apply_pl_reg": False, "cond_type": ["PD", "SPD", "2C", "D2DCE"]}
    | _keys("stylegan3_cfg g_reg_interval d_reg_interval mapping_network style_mixing_p g_ema_kimg g_ema_rampup")
    | _keys("pl_weight d_architecture d_epilogue_mbstd_group_size blur_init_sigma"),
}


def read_configuration(sections: Mapping[str, Any]) -> Configuration:
    """Check the sections of a YAML file and fill in StudioGAN's defaults.

    Raises ConfigurationError with the key's path for an unknown section or key, a value of the wrong
    type or range, a key that this host does not support, and keys that contradict each other.
    """
    known = [*UNSUPPORTED, SECTION]
    for name in sections:
        if name == "RUN":
            raise ConfigurationError("RUN", "a section", "the native host takes these on the command line")
        if name not in known:
            allowed = f"allowed: {', '.join(known)}{near_miss(str(name), known)}"
            raise ConfigurationError(str(name), "an unknown section", allowed)
    made: dict[str, Any] = {}
    for name, supported in UNSUPPORTED.items():
        values = sections.get(name, {})
        if not isinstance(values, dict):
            raise ConfigurationError(name, repr(values), "a mapping of keys is wanted")
        kinds = {f.name: f.metadata["kind"] for f in dataclasses.fields(SECTIONS[name])} if name in SECTIONS else {}
        given = {}
        for key, value in values.items():
            value = None if value in (UNSET, [UNSET]) else value
            if key in kinds:
                given[key] = _checked(f"{name}.{key}", value, kinds[key])
            elif key not in supported:
                allowed = f"{name} has no such key{near_miss(str(key), [*kinds, *supported])}"
                raise ConfigurationError(f"{name}.{key}", "an unknown key", allowed)
            elif value != supported[key] or isinstance(value, bool) != isinstance(supported[key], bool):
                raise ConfigurationError(f"{name}.{key}", repr(value), ELSEWHERE)
        if name in SECTIONS:
            made[name] = SECTIONS[name](**given)
    configuration = Configuration(**made, regularizer=regularizer_settings(sections))
    check_data_name(configuration.DATA.name)
    _check_together(configuration)
    return configuration


_MORE_ELSEWHERE = (
    *("MODEL.backbone", "MODEL.g_cond_mtd", "MODEL.d_cond_mtd", "DATA.img_size"),
    *("LOSS.adv_loss", "AUG.diffaug_type", "AUG.ada_aug_type"),
)


def _checked(path: str, value: Any, kind: Kind) -> Any:
    try:
        accepted = kind.accepts(value)
    except TypeError:  # a list or mapping where a plain value is wanted
        accepted = False
    if not accepted:
        allowed = f"allowed: {kind.allowed}{number_hint(value)}"
        if path in _MORE_ELSEWHERE:
            allowed += "; StudioGAN has more: `studiogan-gsr studiogan run`"
        raise ConfigurationError(path, repr(value), allowed)
    return tuple(value) if isinstance(value, list) else value


def _check_together(configuration: Configuration) -> None:
    """What StudioGAN asserts or would fail at later, and what it would silently ignore."""
    data, model, loss = configuration.DATA, configuration.MODEL, configuration.LOSS
    optimization, aug = configuration.OPTIMIZATION, configuration.AUG

    def need(section: str, values: object, keys: str, because: str) -> None:
        for key in keys.split():
            if getattr(values, key) is None:
                raise ConfigurationError(f"{section}.{key}", UNSET, f"{because} needs it")

    blocks = GENERATOR_BLOCKS[data.img_size]
    if model.backbone == "big_resnet":
        if model.g_cond_mtd == "cBN":
            need("MODEL", model, "g_shared_dim", "big_resnet with cBN")
        if model.z_dim % (blocks + 1):
            wanted = f"a multiple of {blocks + 1}: big_resnet cuts z into a part for each block and one for the input"
            raise ConfigurationError("MODEL.z_dim", str(model.z_dim), wanted)
    elif model.g_shared_dim is not None:
        raise ConfigurationError("MODEL.g_shared_dim", str(model.g_shared_dim), "only big_resnet shares embeddings")
    if model.apply_attn:
        need("MODEL", model, "attn_g_loc attn_d_loc", "apply_attn")
        for side, last in (("g", blocks), ("d", blocks + 1)):
            places = getattr(model, f"attn_{side}_loc")
            if max(places, default=0) > last:
                path = f"MODEL.attn_{side}_loc"
                raise ConfigurationError(path, str(list(places)), f"at {data.img_size} pixels blocks are 1 to {last}")
    if model.apply_g_ema:
        need("MODEL", model, "g_ema_decay g_ema_start", "apply_g_ema")
    if model.d_cond_mtd in ("AC", "2C", "D2DCE"):
        need("LOSS", loss, "cond_lambda", f"d_cond_mtd {model.d_cond_mtd}")
    if model.d_cond_mtd in ("2C", "D2DCE"):
        need("MODEL", model, "d_embed_dim", f"d_cond_mtd {model.d_cond_mtd}")
        need("LOSS", loss, "temperature", f"d_cond_mtd {model.d_cond_mtd}")
        if optimization.batch_size < 2:
            raise ConfigurationError(
                "OPTIMIZATION.batch_size", "1", f"{model.d_cond_mtd} contrasts at least 2 images"
            )
    if model.d_cond_mtd == "D2DCE":
        need("LOSS", loss, "m_p", "d_cond_mtd D2DCE")
    if loss.apply_wc:
        need("LOSS", loss, "wc_bound", "apply_wc")
    if loss.apply_lecam:
        need("LOSS", loss, "lecam_lambda lecam_ema_start_iter lecam_ema_decay", "apply_lecam")
    if optimization.type_ == "SGD":
        need("OPTIMIZATION", optimization, "momentum nesterov", "SGD")
        if optimization.nesterov and not optimization.momentum:
            raise ConfigurationError("OPTIMIZATION.momentum", "0", "nesterov: true needs a momentum above 0")
    if optimization.type_ == "RMSprop":
        need("OPTIMIZATION", optimization, "momentum alpha", "RMSprop")
    if aug.apply_diffaug and aug.apply_ada:
        raise ConfigurationError(
            "AUG", "apply_diffaug and apply_ada", "StudioGAN would use ADA alone; switch one off"
        )
    if aug.apply_diffaug and aug.diffaug_type == "W/O":
        raise ConfigurationError("AUG.diffaug_type", "W/O", "apply_diffaug needs diffaug")
    if aug.apply_ada:
        if aug.ada_aug_type == "W/O":
            raise ConfigurationError("AUG.ada_aug_type", "W/O", "apply_ada needs blit, geom, color, bg or bgc")
        need("AUG", aug, "ada_initial_augment_p", "apply_ada")
        if aug.ada_target is not None:
            need("AUG", aug, "ada_kimg ada_interval", "an adaptive p (ada_target)")
