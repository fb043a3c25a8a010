"""Checks of option values, shared by the regularizers."""

from __future__ import annotations

from studiogan_gsr.errors import OptionError
from studiogan_gsr.settings import is_int, is_number


def check_amount(option: str, value: object) -> None:
    """Raise OptionError for anything but a finite number >= 0."""
    if not is_number(value) or value < 0:  # type: ignore[operator]
        raise OptionError(option, value, "a finite number >= 0")


def check_share(option: str, value: object) -> None:
    """Raise OptionError for anything but a number in [0, 1)."""
    if not is_number(value) or not 0 <= value < 1:  # type: ignore[operator]
        raise OptionError(option, value, "a number in [0, 1)")


def check_step(option: str, value: object) -> None:
    """Raise OptionError for anything but an integer >= 0."""
    if not is_int(value) or value < 0:  # type: ignore[operator]
        raise OptionError(option, value, "an integer >= 0")


def check_flag(option: str, value: object) -> None:
    """Raise OptionError for anything but true or false."""
    if not isinstance(value, bool):
        raise OptionError(option, value, "true or false")
