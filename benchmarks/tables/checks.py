"""Check the shape of tables.yaml: mappings, and keys that are known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from studiogan_gsr.errors import ConfigurationError, near_miss


def mapping(value: Any, path: str) -> dict[str, Any]:
    """Return a mapping with text keys; raise ConfigurationError, which names the path, if it is none."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(path, repr(value)[:60], "expected: a mapping with text keys")
    return value


def known(given: Any, keys: Iterable[str], path: str) -> None:
    """Raise ConfigurationError if a mapping has a key that is not in `keys`; path: "" for the whole file."""
    for key in mapping(given, path or "the file"):
        if key not in (allowed := list(keys)):
            where = f"{path}.{key}" if path else key
            raise ConfigurationError(
                where, "an unknown key", f"allowed: {', '.join(allowed)}{near_miss(key, allowed)}"
            )


def choice(value: Any, allowed: Iterable[str], path: str) -> str:
    """Return a value if it is one of these names; raise ConfigurationError, with a near miss, if it is not."""
    if value not in (names := list(allowed)):
        hint = near_miss(str(value), names)
        raise ConfigurationError(path, repr(value), f"allowed: {', '.join(names) or 'nothing'}{hint}")
    return str(value)


def choices(value: Any, allowed: Iterable[str], path: str) -> tuple[str, ...]:
    """Return a list of these names as a tuple; raise ConfigurationError, with a near miss, if it is none."""
    names = list(allowed)
    wrong = [name for name in value if name not in names] if isinstance(value, list) else [""]
    if wrong:
        hint = near_miss(str(wrong[0]), names)
        raise ConfigurationError(path, repr(value), f"allowed: a list of {', '.join(names) or 'nothing'}{hint}")
    return tuple(value)
