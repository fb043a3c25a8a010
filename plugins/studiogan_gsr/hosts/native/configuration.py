"""The native host's configuration: StudioGAN's keys, with StudioGAN's names and defaults.

Every key that this host supports is a field of its section.  StudioGAN's other keys are refused unless they have
StudioGAN's default.  None stands for StudioGAN's "N/A".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from studiogan_gsr.errors import ConfigurationError, near_miss
from studiogan_gsr.hosts.keys import KEYS, POSITIVE, Key, Kind, check_needs, check_together, given, one_of
from studiogan_gsr.settings import (
    SECTION,
    RegularizerSettings,
    check_data_name,
    check_names,
    regularizer_section,
    regularizer_settings,
)

ELSEWHERE = "the native host does not have this; `studiogan-gsr studiogan run` does"
ELSEWHERE_TOO = "; StudioGAN has more: `studiogan-gsr studiogan run`"
_RETIRED = {
    "LOSS.lecam_released": "it is now an option of the regularizer: REGULARIZER: {name: lecam, released: true, "
    "weight: LOSS.lecam_lambda, decay: LOSS.lecam_ema_decay}, in place of the LOSS.lecam keys"
}
# Number of generator blocks by image size in pixels.  StudioGAN has 32 to 512; we add 16 for small studies.
GENERATOR_BLOCKS = {16: 2, 32: 3, 64: 4, 128: 5}


def _key(path: str, kind: Kind | None = None) -> Any:
    """Return a field with StudioGAN's default.  kind: the values allowed here, if StudioGAN allows more."""
    section, name = path.split(".")
    key = KEYS[section][name]
    return field(default=key.default, metadata={"key": key if kind is None else key._replace(kind=kind)})


_ACTIVATION = one_of("ReLU", "Leaky_ReLU", "ELU", "GELU")


@dataclass(frozen=True)
class Data:
    """DATA: the data set and its images."""

    name: str = _key("DATA.name")
    img_size: int = _key("DATA.img_size", one_of(*GENERATOR_BLOCKS))
    num_classes: int = _key("DATA.num_classes")


@dataclass(frozen=True)
class Model:
    """MODEL: both networks."""

    backbone: str = _key("MODEL.backbone", one_of("resnet", "big_resnet"))
    g_cond_mtd: str = _key("MODEL.g_cond_mtd", one_of("W/O", "cBN"))
    d_cond_mtd: str = _key("MODEL.d_cond_mtd", one_of("W/O", "AC", "PD", "2C", "D2DCE"))
    normalize_d_embed: bool = _key("MODEL.normalize_d_embed")
    d_embed_dim: int | None = _key("MODEL.d_embed_dim")
    apply_g_sn: bool = _key("MODEL.apply_g_sn")
    apply_d_sn: bool = _key("MODEL.apply_d_sn")
    g_act_fn: str = _key("MODEL.g_act_fn", _ACTIVATION)
    d_act_fn: str = _key("MODEL.d_act_fn", _ACTIVATION)
    apply_attn: bool = _key("MODEL.apply_attn")
    attn_g_loc: tuple[int, ...] | None = _key("MODEL.attn_g_loc")
    attn_d_loc: tuple[int, ...] | None = _key("MODEL.attn_d_loc")
    z_prior: str = _key("MODEL.z_prior")
    z_dim: int = _key("MODEL.z_dim")
    g_shared_dim: int | None = _key("MODEL.g_shared_dim")
    g_conv_dim: int = _key("MODEL.g_conv_dim", POSITIVE)
    d_conv_dim: int = _key("MODEL.d_conv_dim", POSITIVE)
    apply_g_ema: bool = _key("MODEL.apply_g_ema")
    g_ema_decay: float | None = _key("MODEL.g_ema_decay")
    g_ema_start: int | None = _key("MODEL.g_ema_start")
    g_init: str = _key("MODEL.g_init")
    d_init: str = _key("MODEL.d_init")


@dataclass(frozen=True)
class Loss:
    """LOSS: adversarial and conditional losses, LeCam, weight clipping."""

    adv_loss: str = _key("LOSS.adv_loss", one_of("vanilla", "logistic", "least_square", "hinge", "wasserstein"))
    cond_lambda: float | None = _key("LOSS.cond_lambda")
    temperature: float | None = _key("LOSS.temperature")
    m_p: float | None = _key("LOSS.m_p")
    apply_wc: bool = _key("LOSS.apply_wc")
    wc_bound: float | None = _key("LOSS.wc_bound")
    apply_lecam: bool = _key("LOSS.apply_lecam")
    lecam_lambda: float | None = _key("LOSS.lecam_lambda")
    lecam_ema_start_iter: int | None = _key("LOSS.lecam_ema_start_iter")
    lecam_ema_decay: float | None = _key("LOSS.lecam_ema_decay")


@dataclass(frozen=True)
class Optimization:
    """OPTIMIZATION: both optimizers, and the updates of a step."""

    type_: str = _key("OPTIMIZATION.type_")
    batch_size: int = _key("OPTIMIZATION.batch_size")
    acml_steps: int = _key("OPTIMIZATION.acml_steps")
    g_lr: float = _key("OPTIMIZATION.g_lr")
    d_lr: float = _key("OPTIMIZATION.d_lr")
    g_weight_decay: float = _key("OPTIMIZATION.g_weight_decay")
    d_weight_decay: float = _key("OPTIMIZATION.d_weight_decay")
    momentum: float | None = _key("OPTIMIZATION.momentum")
    nesterov: bool | None = _key("OPTIMIZATION.nesterov")
    alpha: float | None = _key("OPTIMIZATION.alpha")
    beta1: float = _key("OPTIMIZATION.beta1")
    beta2: float = _key("OPTIMIZATION.beta2")
    d_first: bool = _key("OPTIMIZATION.d_first")
    g_updates_per_step: int = _key("OPTIMIZATION.g_updates_per_step")
    d_updates_per_step: int = _key("OPTIMIZATION.d_updates_per_step")
    total_steps: int = _key("OPTIMIZATION.total_steps")


@dataclass(frozen=True)
class Pre:
    """PRE: preprocessing of real images."""

    apply_rflip: bool = _key("PRE.apply_rflip")


@dataclass(frozen=True)
class Aug:
    """AUG: differentiable augmentation."""

    apply_diffaug: bool = _key("AUG.apply_diffaug")
    diffaug_type: str = _key("AUG.diffaug_type", one_of("W/O", "diffaug"))
    apply_ada: bool = _key("AUG.apply_ada")
    ada_aug_type: str = _key("AUG.ada_aug_type", one_of("W/O", "blit", "geom", "color", "bg", "bgc"))
    ada_initial_augment_p: float | None = _key("AUG.ada_initial_augment_p")
    ada_target: float | None = _key("AUG.ada_target")
    ada_kimg: float | None = _key("AUG.ada_kimg")
    ada_interval: int | None = _key("AUG.ada_interval")


@dataclass(frozen=True)
class Configuration:
    """A whole configuration; keys that are not given have StudioGAN's defaults."""

    DATA: Data
    MODEL: Model
    LOSS: Loss
    OPTIMIZATION: Optimization
    PRE: Pre
    AUG: Aug
    regularizers: tuple[RegularizerSettings, ...] = ()

    def sections(self) -> dict[str, Any]:
        """Return the sections as a YAML file has them: every supported key that is not "N/A"."""
        sections: dict[str, Any] = {}
        for name in SECTIONS:
            values = dataclasses.asdict(getattr(self, name))
            sections[name] = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}
        if self.regularizers:
            sections[SECTION] = regularizer_section(self.regularizers)
        return sections

    def all_regularizers(self) -> tuple[RegularizerSettings, ...]:
        """Return those under REGULARIZER, and LeCam if LOSS.apply_lecam is on."""
        loss = self.LOSS
        if not loss.apply_lecam:
            return self.regularizers
        options = {"weight": loss.lecam_lambda, "decay": loss.lecam_ema_decay, "start": loss.lecam_ema_start_iter}
        return (*self.regularizers, RegularizerSettings("lecam", options, "LOSS.apply_lecam"))


SECTIONS: dict[str, type] = {
    "DATA": Data,
    "MODEL": Model,
    "LOSS": Loss,
    "OPTIMIZATION": Optimization,
    "PRE": Pre,
    "AUG": Aug,
}


def read_configuration(sections: Mapping[str, Any]) -> Configuration:
    """Check the sections of a YAML file, and return them with StudioGAN's defaults filled in.

    Raises ConfigurationError, with the key's path, for an unknown section or key, for a value of the wrong type or
    range, for a key that this host does not support, and for keys that contradict each other.
    """
    known = [*KEYS, SECTION]
    for name in sections:
        if name == "RUN":
            raise ConfigurationError("RUN", "a section", "the native host takes these options on the command line")
        if name not in known:
            allowed = f"allowed: {', '.join(known)}{near_miss(str(name), known)}"
            raise ConfigurationError(str(name), "an unknown section", allowed)
    values = {name: _read_section(name, sections.get(name, {})) for name in KEYS}
    made = {name: kind(**values[name]) for name, kind in SECTIONS.items()}
    configuration = Configuration(**made, regularizers=regularizer_settings(sections))
    check_data_name(configuration.DATA.name)
    check_needs(partial(_value, configuration))
    check_together(partial(_value, configuration))
    _check_contradictions(configuration)
    check_names(configuration.all_regularizers())
    return configuration


def only_in_studiogan(sections: Mapping[str, Any]) -> bool:
    """Return whether a configuration has what StudioGAN supports and the native host does not."""
    try:
        read_configuration(sections)
    except ConfigurationError as error:
        return error.allowed.endswith((ELSEWHERE, ELSEWHERE_TOO))
    return False


def _read_section(name: str, values: object) -> dict[str, Any]:
    """Check the keys of a section, and return the supported ones."""
    if not isinstance(values, dict):
        raise ConfigurationError(name, repr(values), "expected: a mapping of keys")
    known = KEYS[name]
    fields = dataclasses.fields(SECTIONS[name]) if name in SECTIONS else ()
    supported: dict[str, Key] = {f.name: f.metadata["key"] for f in fields}
    found = {}
    for key, value in values.items():
        path = f"{name}.{key}"
        if key in supported:
            allowed_elsewhere = key in known and known[key].takes(value)
            supported[key].check(path, value, ELSEWHERE_TOO if allowed_elsewhere else "")
            found[key] = tuple(value) if isinstance(given(value), list) else given(value)
        elif path in _RETIRED:
            raise ConfigurationError(path, repr(value), _RETIRED[path])
        elif key not in known:
            allowed = f"{name} has no such key{near_miss(str(key), known)}"
            raise ConfigurationError(path, "an unknown key", allowed)
        elif not _is_default(known[key], given(value)):
            raise ConfigurationError(path, repr(value), ELSEWHERE)
    return found


def _is_default(key: Key, value: Any) -> bool:
    """Return whether a value is the key's default; unlike in Python, 0 is not equal to false."""
    return bool(value == key.default) and isinstance(value, bool) == isinstance(key.default, bool)


def _value(configuration: Configuration, path: str) -> Any:
    """Return a key's value by its path; StudioGAN's default if this host does not support the key."""
    section, name = path.split(".")
    return getattr(getattr(configuration, section, None), name, KEYS[section][name].default)


def _check_contradictions(configuration: Configuration) -> None:
    """Raise ConfigurationError for keys that contradict each other, or that StudioGAN would silently ignore."""
    data, model = configuration.DATA, configuration.MODEL
    optimization, aug = configuration.OPTIMIZATION, configuration.AUG
    blocks = GENERATOR_BLOCKS[data.img_size]
    if model.backbone == "big_resnet":
        if model.z_dim % (blocks + 1):
            allowed = f"allowed: a multiple of {blocks + 1}, one part per block of big_resnet and one for its input"
            raise ConfigurationError("MODEL.z_dim", str(model.z_dim), allowed)
    elif model.g_shared_dim is not None:
        raise ConfigurationError("MODEL.g_shared_dim", str(model.g_shared_dim), "only big_resnet uses it; remove it")
    if model.apply_attn:
        for side, last in (("g", blocks), ("d", blocks + 1)):
            places = getattr(model, f"attn_{side}_loc")
            if max(places or (), default=0) > last:
                path = f"MODEL.attn_{side}_loc"
                raise ConfigurationError(path, str(list(places)), f"at {data.img_size} pixels blocks are 1 to {last}")
    if model.d_cond_mtd in ("2C", "D2DCE") and optimization.batch_size < 2:
        raise ConfigurationError("OPTIMIZATION.batch_size", "1", f"{model.d_cond_mtd} contrasts at least 2 images")
    if aug.apply_diffaug and aug.apply_ada:
        raise ConfigurationError(
            "AUG", "apply_diffaug and apply_ada", "StudioGAN would use ADA alone; switch one off"
        )
