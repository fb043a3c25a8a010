"""Plug-ins: entry-point group and name -> object.  Found, then loaded, then checked.

The only file that reads entry points, and the only one that imports foreign code.  Only what
a configuration names is loaded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from typing import Any

import numpy as np

from studiogan_gsr.contract import Regularizer, missing_methods
from studiogan_gsr.datasets.labels import labels_of, start_hint
from studiogan_gsr.datasets.names import GRAMMAR, is_variant, parse_variant, variant_name
from studiogan_gsr.errors import (
    FOREIGN,
    ConfigurationError,
    GSRError,
    OptionError,
    PluginError,
    near_miss,
    number_hint,
    reason,
)

REGULARIZERS = "studiogan.regularizers"
DATASETS = "studiogan.datasets"
BACKBONES = "studiogan.backbones"
STARTUP = "studiogan.startup"  # called by a patched main.py, not through this file
GROUPS = (REGULARIZERS, DATASETS, BACKBONES, STARTUP)
# Where a user writes a plug-in's name.
_NAMED_BY = {REGULARIZERS: "REGULARIZER", DATASETS: "DATA.name", BACKBONES: "--backbone"}
# A factory's options, and the parts of a name that give them.
_PART_OF = {
    "ratio": "ratio (_rho)",
    "profile": "_step",
    "reversed": "_reversed",
    "released": "_released",
    "seed": "_seed",
}
_DATASET_ATTRIBUTES = ("targets", "class_counts", "classes", "__len__", "__getitem__")


@dataclass(frozen=True)
class Plugin:
    """An entry point as found in a package's metadata; nothing is imported yet."""

    group: str
    name: str
    value: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version} [{self.group}] {self.name} = {self.value}"


@dataclass(frozen=True)
class LoadedPlugin:
    """A plug-in with the factory it names."""

    plugin: Plugin
    factory: Callable[..., Any]


def find_plugins(group: str) -> list[Plugin]:
    """All plug-ins of a group, sorted by name and package."""
    found = [
        Plugin(group, entry.name, entry.value, entry.dist.name, entry.dist.version)
        for entry in metadata.entry_points(group=group)
        if entry.dist is not None
    ]
    return sorted(found, key=lambda p: (p.name, p.package))


def load_plugin(group: str, name: str) -> LoadedPlugin:
    """Import the one plug-in of that name.

    Raises ConfigurationError for a name that no package has, PluginError for a name that two
    packages have, an import that fails, or an object that cannot be called.
    """
    found = find_plugins(group)
    plugins = [p for p in found if p.name == name]
    if not plugins:
        key = _NAMED_BY[group]
        names = [p.name for p in found]
        raise ConfigurationError(
            key, repr(name), f"installed are {', '.join(names) or 'none'}{near_miss(name, names)}"
        )
    if len(plugins) > 1:
        raise PluginError(" and ".join(map(str, plugins)), f"two packages have the name {name}; uninstall one")
    plugin = plugins[0]
    entry = metadata.EntryPoint(plugin.name, plugin.value, plugin.group)
    try:
        factory = entry.load()
    except FOREIGN as error:
        raise PluginError(str(plugin), f"import failed: {reason(error)}") from error
    if not callable(factory):
        raise PluginError(str(plugin), f"is {type(factory).__name__}, not a factory that can be called")
    return LoadedPlugin(plugin, factory)


def try_all_plugins() -> list[tuple[Plugin, GSRError | None]]:
    """Every plug-in of every group, with the error that loading it gives."""
    tried: list[tuple[Plugin, GSRError | None]] = []
    for group in GROUPS:
        for plugin in find_plugins(group):
            try:
                load_plugin(group, plugin.name)
                tried.append((plugin, None))
            except GSRError as error:
                tried.append((plugin, error))
    return tried


def find_regularizer(name: str, options: Mapping[str, Any]) -> LoadedPlugin:
    """The regularizer plug-in of that name, its options checked as far as possible without a generator.

    Raises ConfigurationError with the key's path for options that the factory does not take or refuses.
    """
    loaded = load_plugin(REGULARIZERS, name)
    signature = _signature(loaded)
    if signature is not None:
        _check_signature(loaded, signature, options)
    check_options = getattr(loaded.factory, "check_options", None)
    if callable(check_options):
        try:
            check_options(dict(options))
        except OptionError as error:
            raise ConfigurationError(
                f"REGULARIZER.{error.option}",
                repr(error.found),
                f"allowed: {error.allowed}{number_hint(error.found)}",
            ) from error
        except FOREIGN as error:
            raise PluginError(str(loaded.plugin), f"check_options failed: {reason(error)}") from error
    return loaded


def all_options(loaded: LoadedPlugin, options: Mapping[str, Any]) -> dict[str, Any]:
    """A regularizer's options, the given ones and the defaults of its factory, as far as they are plain data."""
    signature = _signature(loaded)
    parameters = list(signature.parameters.values())[2:] if signature else []  # after generator and class_counts
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: _plain(value) for name, value in {**defaults, **options}.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """As a YAML file has it."""
    return list(map(_plain, value)) if isinstance(value, tuple | list) else value


def make_regularizer(
    loaded: LoadedPlugin, generator: Any, class_counts: list[int], options: Mapping[str, Any]
) -> Regularizer:
    """Call the factory and check what it gives; PluginError names the plug-in and the cause."""
    try:
        regularizer: Regularizer = loaded.factory(generator, class_counts, **options)
    except FOREIGN as error:
        raise PluginError(str(loaded.plugin), f"refused: {reason(error)}") from error
    if missing := missing_methods(regularizer):
        raise PluginError(
            str(loaded.plugin),
            f"gave {type(regularizer).__name__}, no regularizer: it lacks {', '.join(missing)}",
        )
    return regularizer


def find_dataset(name: str) -> tuple[LoadedPlugin, dict[str, Any]] | None:
    """The plug-in and options that a data set's name means; None for a name that is the host's own.

    Raises ConfigurationError for a name that looks like one of ours and is not.
    """
    found = {p.name for p in find_plugins(DATASETS)}
    bases = [base for base in found if is_variant(name, base)]
    if not bases:
        stem = name.split("_rho")[0]
        ours = [base for base in found if base.endswith("_LT")]
        alike = (
            _letters(name).startswith(tuple(map(_letters, ours)))
            or _letters(name) in map(_letters, found)
            # Not what we call CIFAR10_LT and the host calls CIFAR10.
            or (f"{_letters(stem)}lt" not in map(_letters, ours) and get_close_matches(stem, ours, cutoff=0.85))
        )
        if alike or re.search(r"_rho\d", name):
            raise ConfigurationError(
                "DATA.name",
                repr(name),
                f"installed data sets are {', '.join(sorted(found)) or 'none'}{near_miss(stem, found)}; the form is "
                f"{GRAMMAR}; an image folder of your own is Folder_LT, or any name without _rho",
            )
        return None
    base = max(bases, key=len)
    options = parse_variant(name, base)
    loaded = load_plugin(DATASETS, base)
    signature = _signature(loaded)
    if signature is not None:
        try:
            signature.bind_partial("root", "train")
        except TypeError as error:
            raise PluginError(
                str(loaded.plugin), f"has the signature {signature}; wanted (root, split, **options)"
            ) from error
        _check_parts(name, base, signature, options)
    return loaded, options


def _check_parts(name: str, base: str, signature: inspect.Signature, options: dict[str, Any]) -> None:
    """Refuse parts of a name that mean nothing for a data set, and a missing one, with the name to write."""
    parameters = signature.parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = {option: value for option, value in options.items() if option in signature.parameters}
        if unknown := [part for option, part in _PART_OF.items() if option in options and option not in known]:
            raise ConfigurationError(
                "DATA.name", repr(name), f"{base} has no {', '.join(unknown)}; write {variant_name(base, known)}"
            )
    try:
        signature.bind("root", "train", **options)
    except TypeError as error:
        example = variant_name(base, {"ratio": 100, **options})
        raise ConfigurationError(
            "DATA.name",
            repr(name),
            f"{base} cannot be made so: {error}; write, say, {example}; the form is {GRAMMAR}",
        ) from error


def make_dataset(loaded: LoadedPlugin, root: str, split: str, options: Mapping[str, Any]) -> Any:
    """Call the factory and check what it gives; DataError and PluginError name the cause."""
    try:
        dataset = loaded.factory(root, split, **options)
    except GSRError as error:
        if isinstance(error, OptionError):
            raise ConfigurationError("DATA.name", f"{error}", f"as {loaded.plugin} reports") from error
        raise
    except FOREIGN as error:
        raise PluginError(str(loaded.plugin), f"failed: {reason(error)}") from error
    missing = [a for a in _DATASET_ATTRIBUTES if not hasattr(dataset, a)]
    if missing:
        raise PluginError(str(loaded.plugin), f"gave {type(dataset).__name__} without {', '.join(missing)}")
    try:
        images, counts = len(dataset), [int(n) for n in dataset.class_counts]
        counted = np.bincount(labels_of(dataset), minlength=len(counts)).tolist()
    except FOREIGN as error:
        raise PluginError(
            str(loaded.plugin), f"gave {type(dataset).__name__} whose labels cannot be counted: {reason(error)}"
        ) from error
    if counts != counted or images != sum(counts):
        raise PluginError(
            str(loaded.plugin),
            f"gave {images} images, class_counts {_start(counts)} and targets that count to {_start(counted)}; "
            f"they must agree{start_hint(np.flatnonzero(counted))}",
        )
    return dataset


def find_backbone(name: str) -> LoadedPlugin:
    """The plug-in of a network for features, by name."""
    return load_plugin(BACKBONES, name)


def make_backbone(loaded: LoadedPlugin, device: Any) -> Any:
    """Call the factory and check what it gives; WeightsError where weights are missing, else PluginError."""
    try:
        backbone = loaded.factory(device)
    except GSRError:
        raise
    except FOREIGN as error:
        raise PluginError(str(loaded.plugin), f"failed: {reason(error)}") from error
    missing = [name for name in ("column", "digest") if not isinstance(getattr(backbone, name, None), str)]
    if missing or not callable(backbone):
        wanted = ", ".join(missing) or "a call"
        raise PluginError(str(loaded.plugin), f"gave {type(backbone).__name__}, no backbone: it lacks {wanted}")
    return backbone


def _start(counts: list[int]) -> str:
    return f"{counts[:10]}{'...' * (len(counts) > 10)}"


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _signature(loaded: LoadedPlugin) -> inspect.Signature | None:
    try:
        return inspect.signature(loaded.factory)
    except (TypeError, ValueError):  # some builtins have none
        return None


def _check_signature(loaded: LoadedPlugin, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    """Refuse a regularizer's factory of another shape, options it does not take, and missing ones."""
    wrong = PluginError(
        str(loaded.plugin), f"has the signature {signature}; wanted (generator, class_counts, **options)"
    )
    try:
        taken = signature.bind_partial("generator", "class_counts").arguments
    except TypeError as error:
        raise wrong from error
    parameters = [p for p in signature.parameters.values() if p.name not in taken]
    allowed = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    synonyms = getattr(loaded.factory, "also_called", {})  # names that papers and other programs have for an option
    for option, value in options.items():
        if option in taken or (option not in allowed and not takes_any):
            synonym = synonyms.get(option.lower()) if isinstance(synonyms, Mapping) else None
            hint = f"; did you mean {synonym}?" if synonym in allowed else near_miss(option, allowed)
            raise ConfigurationError(
                f"REGULARIZER.{option}",
                repr(value),
                f"{loaded.plugin.name} has the keys {', '.join(allowed) or 'none'}{hint}",
            )
    try:
        signature.bind("generator", "class_counts", **options)
    except TypeError as error:
        raise ConfigurationError("REGULARIZER", f"{error}", f"{loaded.plugin.name} needs this key") from error
