"""The shims that need no checkout: what they mend, and when they keep away."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from studiogan_gsr.errors import RequestError
from studiogan_gsr.hosts.studiogan.shims import SHIMS, check_names

APPLY = {shim.name: shim.apply for shim in SHIMS}


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without wandb settings; gives the place of a .netrc."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_wandb_is_offline_for_whoever_is_not_logged_in(nobody: Path) -> None:
    APPLY["wandb-offline"]()
    assert os.environ.pop("WANDB_MODE") == "offline"
    nobody.write_text("machine example.org login me password secret\n")
    APPLY["wandb-offline"]()
    assert os.environ.pop("WANDB_MODE") == "offline"


def test_wandb_is_left_alone_for_whoever_chose_or_is_logged_in(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "key")
        APPLY["wandb-offline"]()
        assert "WANDB_MODE" not in os.environ
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        APPLY["wandb-offline"]()
        assert os.environ["WANDB_MODE"] == "disabled"
    nobody.write_text("machine api.wandb.ai login user password secret\n")
    APPLY["wandb-offline"]()
    assert "WANDB_MODE" not in os.environ


def test_pkg_resources_is_replaced_only_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    there = object()
    monkeypatch.setitem(sys.modules, "pkg_resources", there)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there)
    APPLY["pkg-resources"]()
    assert sys.modules["pkg_resources"] is there
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pkg_resources" else find_spec(name, *a)
    )
    APPLY["pkg-resources"]()
    from pkg_resources import parse_version

    assert parse_version("1.10") > parse_version("1.9")


def test_numbers_of_numpy_in_a_checkpoint_load_with_the_shim_and_not_without(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"best_fid": np.float64(3.5), "step": np.int64(7), "p": np.float32(0.5)}, path)
    script = "import torch, sys; print(torch.load(sys.argv[1])['best_fid'])"
    apply = "from studiogan_gsr.hosts.studiogan.shims import _checkpoint_numbers; _checkpoint_numbers();"

    def status(code: str) -> int:
        return subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False).returncode

    assert status(apply + script) == 0
    old = tmp_path / "numpy1.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert subprocess.run([sys.executable, "-c", apply + script, old], check=False).returncode == 0
    assert status(script) != 0
    with pytest.raises(Exception, match=r"Weights only load failed"):  # nor does the shim open the door wider
        torch.load(io.BytesIO(path.read_bytes().replace(b"float64", b"float65")), weights_only=True)


def test_every_shim_says_what_breaks_and_an_unknown_one_is_refused() -> None:
    assert all(shim.problem and shim.repair for shim in SHIMS)
    with pytest.raises(RequestError, match=r"--no-shim wandb-imag: the shims are .*; did you mean wandb-image\?"):
        check_names(["wandb-imag"])
