"""Names of long-tailed data sets: <data set>_rho<ratio>[_step][_reversed][_released][_seed<k>].

The name carries the variant, because a benchmark's caches are keyed by the name alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np

from studiogan_gsr.errors import ConfigurationError

_RATIO = r"[1-9][0-9]*(?:\.[0-9]*[1-9])?"
_PARTS = re.compile(
    rf"(?:_rho(?P<ratio>{_RATIO}))?(?P<step>_step)?(?P<reversed>_reversed)?(?P<released>_released)?"
    r"(?:_seed(?P<seed>0|[1-9][0-9]*))?"
)
GRAMMAR = "<data set>_rho<ratio>[_step][_reversed][_released][_seed<k>], parts in this order, none twice"


def is_variant(name: str, base: str) -> bool:
    """Return whether a name is `base`, alone or followed by what looks like parts of a variant."""
    return re.fullmatch(rf"{re.escape(base)}(_(rho|step|reversed|released|seed).*)?", name) is not None


def parse_variant(name: str, base: str) -> dict[str, Any]:
    """Return the options that a name's parts set, for the factory of the data set `base`.

    >>> parse_variant("CIFAR10_LT_rho100_step_seed3", "CIFAR10_LT")
    {'ratio': 100, 'profile': 'step', 'seed': 3}

    Raises ConfigurationError for anything outside the grammar, with the canonical form.
    """
    match = _PARTS.fullmatch(name.removeprefix(base))
    if not name.startswith(base) or match is None:
        raise ConfigurationError(
            "DATA.name", repr(name), f"the form is {GRAMMAR}{_in_order(name, base) or _as_number(name, base)}"
        )
    options: dict[str, Any] = {}
    if match["ratio"]:
        ratio = float(match["ratio"])
        options["ratio"] = int(ratio) if ratio.is_integer() else ratio
    if match["step"]:
        options["profile"] = "step"
    options |= {flag: True for flag in ("reversed", "released") if match[flag]}
    if match["seed"]:
        options["seed"] = int(match["seed"])
    return options


def variant_name(base: str, options: Mapping[str, Any]) -> str:
    """Return the name of a data set's variant; the inverse of `parse_variant`."""
    name = base
    if options.get("ratio") is not None:
        name += f"_rho{options['ratio']}"
    if options.get("profile", "exp") != "exp":
        name += f"_{options['profile']}"
    name += "".join(f"_{flag}" for flag in ("reversed", "released") if options.get(flag))
    if "seed" in options:
        name += f"_seed{options['seed']}"
    return name


def _as_number(name: str, base: str) -> str:
    """Return '; write X' if a name's ratio is not in canonical form or is inverted (smallest class over largest).

    Names the rule if the ratio is below 1.  Returns an empty string if there is no number to correct.
    """
    before, found, rest = name.removeprefix(base).partition("_rho")
    text = rest.split("_")[0]
    try:
        ratio = float(text)
    except ValueError:
        return ""
    if not found or before or not ratio < float("inf"):
        return ""
    why = "" if ratio >= 1 else "; the ratio is the largest class over the smallest, 1 or more"
    if ratio <= 0:
        return why
    ratio = ratio if ratio >= 1 else round(1 / ratio, 6)
    written = np.format_float_positional(ratio, trim="-")
    candidate = f"{base}_rho{written}{rest.removeprefix(text)}"
    return f"{why}; write {candidate}" if _PARTS.fullmatch(candidate.removeprefix(base)) else ""


def _in_order(name: str, base: str) -> str:
    """Return '; write X' if a name's parts are valid but out of order or repeated."""
    parts = set(name.removeprefix(base).split("_")[1:])
    for order in permutations(parts) if name.startswith(base) and len(parts) <= len(_PARTS.groupindex) else ():
        candidate = "_".join([base, *order])
        if _PARTS.fullmatch(candidate.removeprefix(base)):
            return f"; write {candidate}"
    return ""
