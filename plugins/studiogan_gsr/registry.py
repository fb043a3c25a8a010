"""Find and load plug-ins by entry-point group and name.

No other file reads entry points or imports plug-ins.  A run loads only the plug-ins that its configuration names;
`try_all_plugins` loads all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from studiogan_gsr.errors import (
    FOREIGN,
    ConfigurationError,
    GSRError,
    PluginError,
    near_miss,
    reason,
)

REGULARIZERS = "studiogan.regularizers"
DATASETS = "studiogan.datasets"
BACKBONES = "studiogan.backbones"
STARTUP = "studiogan.startup"  # called by a patched main.py, not through this file
GROUPS = (REGULARIZERS, DATASETS, BACKBONES, STARTUP)
# The configuration key or option in which users name a plug-in.
_NAMED_BY = {REGULARIZERS: "REGULARIZER", DATASETS: "DATA.name", BACKBONES: "--backbone"}


@dataclass(frozen=True)
class Plugin:
    """An entry point in a package's metadata; nothing is imported yet."""

    group: str
    name: str
    value: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version} [{self.group}] {self.name} = {self.value}"


@dataclass(frozen=True)
class LoadedPlugin:
    """A plug-in and its factory."""

    plugin: Plugin
    factory: Callable[..., Any]


def find_plugins(group: str) -> list[Plugin]:
    """Return all plug-ins of a group, sorted by name and package."""
    found = [
        Plugin(group, entry.name, entry.value, entry.dist.name, entry.dist.version)
        for entry in metadata.entry_points(group=group)
        if entry.dist is not None
    ]
    return sorted(found, key=lambda p: (p.name, p.package))


def load_plugin(group: str, name: str, path: str | None = None) -> LoadedPlugin:
    """Import the plug-in of that name.

    path: where a user has written the name, for messages; default: the group's key.
    Raises ConfigurationError if no package has the name; PluginError if two packages have it, if the import fails,
    or if the object cannot be called.
    """
    found = find_plugins(group)
    plugins = [p for p in found if p.name == name]
    if not plugins:
        key = path or _NAMED_BY[group]
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
    """Load every plug-in of every group; return each with the error it raised, or None if it was loaded."""
    tried: list[tuple[Plugin, GSRError | None]] = []
    for group in GROUPS:
        for plugin in find_plugins(group):
            try:
                load_plugin(group, plugin.name)
                tried.append((plugin, None))
            except GSRError as error:
                tried.append((plugin, error))
    return tried


def signature_of(loaded: LoadedPlugin) -> inspect.Signature | None:
    """Return the signature of a plug-in's factory, or None if it has none."""
    try:
        return inspect.signature(loaded.factory)
    except (TypeError, ValueError):  # some builtins have no signature
        return None
