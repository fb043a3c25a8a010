"""Configurations that nobody would write: each runs, or is refused before the first step with the key's path.

A few are tried at every run, always the same; EXAMPLES=1000 tries others.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from studiogan_gsr.cli import main
from studiogan_gsr.errors import ConfigurationError
from studiogan_gsr.hosts.keys import KEYS, NEEDS
from studiogan_gsr.hosts.native.configuration import read_configuration
from studiogan_gsr.hosts.studiogan.checkout import Checkout
from studiogan_gsr.settings import load_configuration, regularizer_settings
from studiogan_gsr.shipped import shipped_configuration
from support.host import DIGITS, Host, Outcome
from support.runs import one_thread

Sections = dict[str, Any]
EXAMPLES = int(os.environ.get("EXAMPLES", "0"))


def examples(number: int) -> settings:
    return settings(
        max_examples=EXAMPLES or number,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


PATHS = [f"{section}.{name}" for section, keys in KEYS.items() for name in keys]
# What is neither too large for these tests nor without images.
SMALL: dict[str, list[Any]] = {
    "DATA.name": ["Folder_LT_rho4", "Folder_LT_rho2"],
    "DATA.img_size": [32],
    "DATA.num_classes": [10],
    "MODEL.backbone": ["resnet", "deep_conv", "big_resnet", "big_resnet_deep_legacy", "big_resnet_deep_studiogan"],
    "MODEL.z_dim": [8, 12, 16],
    "MODEL.w_dim": [16],
    "MODEL.g_conv_dim": [8, "N/A"],
    "MODEL.d_conv_dim": [8, "N/A"],
    "MODEL.g_shared_dim": [8, "N/A"],
    "MODEL.d_embed_dim": [8],
    "OPTIMIZATION.batch_size": [8, 16, 12, 1],
    "OPTIMIZATION.acml_steps": [1, 2],
    "OPTIMIZATION.total_steps": [1],
}
WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["N/A", "1e-4", ["N/A"], "gsr", "W/O", "\x00", "ä" * 200]),
    st.lists(st.integers(-1, 9), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "weight": st.floats(0, 2),
    "groups": st.sampled_from(["square", "paper", 1, 2, 4, 8]),
    "beta": st.floats(0, 0.99),
    "power_iterations": st.integers(1, 3),
    "released_bias_update": st.booleans(),
    "apply_to": st.lists(st.sampled_from(["gain", "bias", "mapping"]), max_size=2),
}


def right(path: str) -> st.SearchStrategy[Any]:
    """Values that the key alone allows."""
    if path in SMALL:
        return st.sampled_from(SMALL[path])
    section, name = path.split(".")
    allowed = KEYS[section][name].kind.allowed
    if choices := re.fullmatch("one of (.*)", allowed):
        return st.sampled_from([yaml.safe_load(choice) for choice in choices[1].split(", ")])
    if allowed == "true or false":
        return st.booleans()
    if "list" in allowed:
        return st.sampled_from([[1], [2], [1, 2], [3], [4], []])
    if "integer" in allowed:
        return st.integers(1, 3)
    return st.sampled_from([0.1, 0.5, 0.9, 1.0])


@st.composite
def configurations(draw: st.DrawFn) -> Sections:
    """A shipped configuration, small, with keys of all kinds changed or added, rightly more often than not."""
    base = draw(st.sampled_from(["SNGAN-gSR", "BigGAN-gSR", "ContraGAN-gSR", "BigGAN-DiffAug-LeCam-gSR"]))
    sections: Sections = yaml.safe_load(shipped_configuration(f"CIFAR10_LT/{base}").read_text())
    small = {"z_dim": 16, "g_conv_dim": 8, "d_conv_dim": 8}
    sections["DATA"] = dict(DIGITS)
    sections["MODEL"] |= small | ({"g_shared_dim": 8} if base.startswith("BigGAN") else {})
    sections["OPTIMIZATION"] |= {"batch_size": 8, "acml_steps": 1, "d_updates_per_step": 1, "total_steps": 1}

    def at(path: str) -> Any:
        section, name = path.split(".")
        return sections.get(section, {}).get(name, KEYS[section][name].default)

    def put(path: str) -> None:
        section, name = path.split(".")
        wrong = draw(st.integers(0, 5)) == 0
        sections.setdefault(section, {})[name] = draw(WRONG if wrong else right(path))

    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=5)):
        put(path)
        if draw(st.booleans()):
            for when, keys in NEEDS:
                if all(at(condition) in values for condition, values in when.items()):
                    for key in keys.split():
                        if at(key) in (None, "N/A", "W/O"):
                            put(key)
    if draw(st.integers(0, 3)) == 0:
        option = draw(st.sampled_from([*OPTIONS, "wieght", 3]))
        sections["REGULARIZER"] = {"name": "gsr", option: draw(st.one_of(OPTIONS.get(str(option), WRONG), WRONG))}
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.sampled_from([*KEYS, "REGULARIZER", "RUN", "MISC", "Model", 7]))
        sections[place] = draw(WRONG)
    return sections


def judge(outcome: Outcome, sections: Sections) -> None:
    """It trained, regularized, or was refused in one line that says where and why."""
    event("ran" if outcome.status == 0 else "refused")
    if outcome.status == 0:
        assert "gsr: active in step 1, penalty " in outcome.output, outcome.output
        return
    message = outcome.lines("studiogan-gsr: ")
    assert len(message) == 1, (sections, outcome.output)
    assert outcome.status == 2, message
    assert "Traceback" not in outcome.output
    assert not outcome.lines("Progress:")
    assert re.search(r"studiogan-gsr: .*: (found .*; |refused: )", message[0]), message


# ------------------------------------------------------------------ files


@given(
    st.text()
    | st.builds(
        yaml.safe_dump,
        st.recursive(WRONG, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)),
        allow_unicode=st.booleans(),
    )
)
@example("a: &x [*x]")
@example("? [1, 2]\n: 3")
@example("DATA: !!python/object/apply:os.system ['true']")
@example("{" * 2000)
@example("a: 1\na: 2")
@example("&a [" + "*a, " * 9 + "]")
@example("x: 2001-99-99")
@example("<<: 3")
@examples(300)
def test_any_text_is_sections_or_an_error_of_one_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(ConfigurationError), one_line():
            sections = load_configuration(path)
            assert isinstance(sections, dict)
            regularizer_settings(sections)
            read_configuration(sections)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Look at an error's message on its way."""
    try:
        yield
    except ConfigurationError as error:
        text = str(error)
        if len(text.splitlines()) != 1 or ": found " not in text:
            raise AssertionError(text) from error
        raise


# ------------------------------------------------------------------ runs


@given(sections=configurations())
@examples(300)
def test_the_native_host_runs_or_refuses(sections: Sections, digits: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")
        path, out = Path(folder) / "any.yaml", Path(folder) / "out"
        path.write_text(yaml.safe_dump(sections))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            status = main(
                ["train", str(path), "--data", str(digits), "--out", str(out), "--device", "cpu", "--print-freq", "1"]
            )
        judge(Outcome(status, printed.getvalue(), out), sections)
        assert (status == 0) == (out / "checkpoints").is_dir()


@pytest.mark.host
@pytest.mark.slow
@given(sections=configurations())
@examples(120)
def test_studiogan_runs_or_is_refused(sections: Sections, checkout: Checkout, digits: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_text(yaml.safe_dump(sections))
        judge(Host(checkout).run(path, digits, Path(folder) / "out", limit=120), sections)
