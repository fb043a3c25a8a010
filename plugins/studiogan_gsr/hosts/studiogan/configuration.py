"""What StudioGAN takes without a look and fails at while it trains, refused before the first step."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.keys import KEYS, UNSET, check_needs, check_together, given

# Where null has a meaning of its own: p stays as it is.
_NULL = ("AUG.ada_target", "AUG.apa_target")


def check_values(sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse values of a wrong type or range; keys that only this checkout has are its own matter."""
    for section, values in sections.items():
        for name, value in values.items():
            key, path = KEYS.get(section, {}).get(name), f"{section}.{name}"
            if key is None or (value is None and path in _NULL):
                continue
            if value is None:
                raise ConfigurationError(path, "null", f"allowed: {key.allowed}")
            key.check(path, value)


def check_whole(sections: Mapping[str, Any]) -> None:
    """Refuse keys that lack others, or contradict each other.

    sections: StudioGAN's objects, with the defaults filled in.
    """
    value = partial(_value, sections)
    check_needs(value)
    check_together(value)
    for kind in ("ada", "apa"):
        if value(f"AUG.apply_{kind}") and vars(sections["AUG"])[f"{kind}_target"] == UNSET:
            allowed = f"apply_{kind} needs a number from -1 to 1, or null for a p that stays as it is"
            raise ConfigurationError(f"AUG.{kind}_target", UNSET, allowed)
    run = sections["RUN"]
    ranks = sections["OPTIMIZATION"].world_size if run.distributed_data_parallel else 1
    batch_size = value("OPTIMIZATION.batch_size") // ranks
    if value("LOSS.apply_topk") and int(batch_size * value("LOSS.topk_nu")) < 1:
        found = str(value("LOSS.topk_nu"))
        raise ConfigurationError("LOSS.topk_nu", found, f"of a batch of {batch_size} not one image would be left")
    in_order = value("MODEL.d_cond_mtd") != "W/O" and value("DATA.name") != "CIFAR10"
    if run.train and in_order and batch_size < 8 * value("DATA.num_classes") and batch_size % 8:
        allowed = "allowed: a multiple of 8: the picture that StudioGAN draws before it saves takes no other"
        raise ConfigurationError("OPTIMIZATION.batch_size", f"{batch_size} a process", allowed)


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
