"""Find a regularizer's plug-in, check the options that a configuration gives it, and call its factory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from studiogan_gsr.contract import missing_methods, roles_of, roles_of_factory
from studiogan_gsr.errors import (
    FOREIGN,
    ConfigurationError,
    OptionError,
    PluginError,
    near_miss,
    number_hint,
    reason,
)
from studiogan_gsr.registry import REGULARIZERS, LoadedPlugin, load_plugin, signature_of
from studiogan_gsr.settings import SECTION, RegularizerSettings, regularizer_section, regularizer_settings

_DISCRIMINATOR = "discriminator"  # a factory that names this parameter gets the network


def find_regularizer(settings: RegularizerSettings) -> LoadedPlugin:
    """Load the plug-in of these settings, check the options as far as possible without a generator, and return it.

    Raises ConfigurationError, with the key's path, for options that the factory does not have or refuses.
    """
    loaded = load_plugin(REGULARIZERS, settings.name, settings.path)
    signature = signature_of(loaded)
    if signature is not None:
        _check_signature(loaded, signature, settings)
    check_options = getattr(loaded.factory, "check_options", None)
    if callable(check_options):
        try:
            check_options(dict(settings.options))
        except OptionError as error:
            raise ConfigurationError(
                f"{settings.path}.{error.option}",
                repr(error.found),
                f"allowed: {error.allowed}{number_hint(error.found)}",
            ) from error
        except FOREIGN as error:
            raise PluginError(str(loaded.plugin), f"check_options failed: {reason(error)}") from error
    return loaded


def all_options(loaded: LoadedPlugin, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a regularizer's options: the given ones and the factory's defaults, as far as they are plain data."""
    signature = signature_of(loaded)
    parameters = list(signature.parameters.values())[2:] if signature else []  # after generator and class_counts
    defaults = {p.name: p.default for p in parameters if p.name != _DISCRIMINATOR and p.default is not p.empty}
    return {name: _plain(value) for name, value in {**defaults, **options}.items() if _is_plain(value)}


def with_all_options(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's sections with all options of its regularizers, defaults included.

    A record then holds the options that a run was trained with, even if a later version has other defaults.
    """
    found = regularizer_settings(sections)
    if not found:
        return dict(sections)
    whole = [replace(s, options=all_options(find_regularizer(s), s.options)) for s in found]
    return {**sections, SECTION: regularizer_section(whole)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """Return an option's value as YAML would load it: tuples become lists, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(map(_plain, value)) if isinstance(value, tuple | list) else value


def make_regularizer(
    loaded: LoadedPlugin,
    generator: nn.Module,
    discriminator: nn.Module,
    class_counts: list[int],
    options: Mapping[str, Any],
) -> Any:
    """Call the plug-in's factory and return its `Regularizer`.

    Raises PluginError if the factory fails, or if it returns no regularizer or one with undeclared roles.
    """
    signature = signature_of(loaded)
    wants = signature is not None and _DISCRIMINATOR in signature.parameters
    networks = {_DISCRIMINATOR: discriminator} if wants else {}
    try:
        regularizer = loaded.factory(generator, class_counts, **networks, **options)
    except FOREIGN as error:
        raise PluginError(str(loaded.plugin), f"refused: {reason(error)}") from error
    if missing := missing_methods(regularizer):
        raise PluginError(
            str(loaded.plugin),
            f"returned {type(regularizer).__name__}, no regularizer: {', '.join(missing)} missing",
        )
    declared = roles_of_factory(loaded.factory)
    if declared is not None and (others := [role for role in roles_of(regularizer) if role not in declared]):
        raise PluginError(
            str(loaded.plugin),
            f"returned a regularizer that also has {', '.join(others)}; its factory has roles = {declared}",
        )
    return regularizer


def _check_signature(loaded: LoadedPlugin, signature: inspect.Signature, settings: RegularizerSettings) -> None:
    """Check a factory's signature and the options against it.

    Raises PluginError for another signature, ConfigurationError for an unknown or a missing option.
    """
    wrong = PluginError(
        str(loaded.plugin), f"has the signature {signature}; expected: (generator, class_counts, **options)"
    )
    networks = {_DISCRIMINATOR: ""} if _DISCRIMINATOR in signature.parameters else {}
    try:
        taken = signature.bind_partial("generator", "class_counts", **networks).arguments
    except TypeError as error:
        raise wrong from error
    parameters = [p for p in signature.parameters.values() if p.name not in taken]
    allowed = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    synonyms = getattr(loaded.factory, "also_called", {})  # names of options in papers and other programs
    for option, value in settings.options.items():
        if option in taken or (option not in allowed and not takes_any):
            synonym = synonyms.get(option.lower()) if isinstance(synonyms, Mapping) else None
            hint = f"; did you mean {synonym}?" if synonym in allowed else near_miss(option, allowed)
            raise ConfigurationError(
                f"{settings.path}.{option}",
                repr(value),
                f"{loaded.plugin.name} has the keys {', '.join(allowed) or 'none'}{hint}",
            )
    try:
        signature.bind("generator", "class_counts", **networks, **settings.options)
    except TypeError as error:
        raise ConfigurationError(settings.path, f"{error}", f"{loaded.plugin.name} needs this key") from error
