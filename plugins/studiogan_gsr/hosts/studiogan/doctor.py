"""The diagnosis of `studiogan-gsr doctor`: what is installed, and what to do about what is missing."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from shlex import quote

from studiogan_gsr.errors import GSRError
from studiogan_gsr.evaluation.backbones import (
    CLIP_SHA256,
    CLIP_URL,
    DINOV2_URL,
    INCEPTION_SHA256,
    INCEPTION_URL,
    weights_folder,
)
from studiogan_gsr.files import sha256
from studiogan_gsr.hosts.studiogan import fid_weights
from studiogan_gsr.hosts.studiogan.checkout import PINNED, Checkout, find_checkout
from studiogan_gsr.hosts.studiogan.patching import series, state_of
from studiogan_gsr.hosts.studiogan.shims import SHIMS
from studiogan_gsr.machine import device_name, shortcomings
from studiogan_gsr.registry import try_all_plugins

OK = "-"
_DISTRIBUTION = "studiogan-gsr"
_COLUMN = 35  # width of the column of names, in characters; the longest name of this package's plug-ins fits


@dataclass(frozen=True)
class Finding:
    """One part of the diagnosis.

    what: the part's name.  found: its version, path or state.  remedy: what to do; OK if nothing has to be done.
    optional: True if everything works without the remedy.
    """

    what: str
    found: str
    remedy: str = OK
    optional: bool = False

    @property
    def problem(self) -> bool:
        return self.remedy != OK and not self.optional

    def text(self, width: int) -> str:
        """Return the finding in lines of `width` columns; paths, URLs and the remedy are not broken, for copying."""
        lines = textwrap.wrap(
            f"{self.what:<{_COLUMN}}  {self.found}",
            width,
            subsequent_indent=" " * (_COLUMN + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        return "\n".join(lines if self.remedy == OK else [*lines, f"    remedy: {self.remedy}"])


def report(findings: Sequence[Finding], width: int) -> str:
    """Return all findings as text: first the problems, then the optional remedies, then all others."""
    ordered = sorted(findings, key=lambda finding: (not finding.problem, not finding.optional))
    return "\n".join(finding.text(width) for finding in ordered)


def diagnose(root: str | None = None) -> list[Finding]:
    """Return the findings on versions, device, weights, checkout, plug-ins and shims, each with its remedy."""
    return [
        Finding("python", platform.python_version()),
        *_packages(),
        *_devices(),
        _weights("FID's weights", "evaluate", INCEPTION_URL, INCEPTION_SHA256, weights_folder()),
        _weights("CLIP's weights", "evaluate --backbone clip", CLIP_URL, CLIP_SHA256, weights_folder()),
        _weights("DINOv2's weights", "evaluate --backbone dinov2", DINOV2_URL, "", weights_folder()),
        _weights(
            "StudioGAN's FID weights",
            "studiogan run -- ... -metrics fid",
            fid_weights.URL,
            fid_weights.SHA256,
            fid_weights.weights_path().parent,
        ),
        *_checkout(root),
        *_plugins(),
        *(Finding(f"shim {shim.name}", f"{shim.problem}: {shim.repair}") for shim in SHIMS),
    ]


def _packages() -> list[Finding]:
    from packaging.requirements import Requirement

    findings = [Finding(_DISTRIBUTION, metadata.version(_DISTRIBUTION))]
    for line in dict.fromkeys(metadata.requires(_DISTRIBUTION) or []):
        requirement = Requirement(line)
        if requirement.name in {finding.what for finding in findings}:  # an extra requires it, too
            continue
        extra = "studiogan" if requirement.marker else ""
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        install = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            note = " (only StudioGAN needs it)" if extra else ""
            findings.append(Finding(requirement.name, f"missing{note}", install))
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        findings.append(Finding(requirement.name, version, OK if fits else install))
    return findings


def _devices() -> list[Finding]:
    import torch

    findings = [Finding("device", "no CUDA: StudioGAN runs on the CPU, slowly")]
    if torch.cuda.is_available():
        findings = [_for_bfloat16(Finding("device", device_name("cuda")), "cuda")]
    return [*findings, _for_bfloat16(Finding("CPU", device_name("cpu")), "cpu")]


def _for_bfloat16(finding: Finding, kind: str) -> Finding:
    """Return the finding on a device, with advice if the device has no bfloat16 instructions."""
    import torch

    if not shortcomings("bfloat16", None, torch.device(kind)):
        return finding
    return replace(
        finding, remedy="none needed: do not train with --precision bfloat16, which is slower here", optional=True
    )


def _weights(what: str, command: str, url: str, digest: str, folder: Path) -> Finding:
    """Return the finding on a network's weights, which a command downloads to `folder`; digest: "" if unknown."""
    path = folder / url.rpartition("/")[2]
    if not path.is_file():
        return Finding(
            what,
            f"not downloaded yet: `{command}` downloads {url}",
            f"none needed; without network, put that file into {path.parent}",
            optional=True,
        )
    if not sha256(path).startswith(digest):
        return Finding(what, f"{path}: damaged", f"rm {quote(str(path))}")
    return Finding(what, str(path))


def _checkout(root: str | None) -> list[Finding]:
    try:
        checkout = find_checkout(root)
    except GSRError as error:
        return [Finding("StudioGAN", str(error), "studiogan-gsr studiogan fetch")]
    return [
        Finding("StudioGAN", str(checkout.root)),
        _commit(checkout),
        Finding("its changed files", ", ".join(checkout.changed_files()) or "none"),
        Finding("the patch", ", ".join(f"{path}: {state}" for path, state in state_of(checkout, series()).items())),
    ]


def _commit(checkout: Checkout) -> Finding:
    what, commit, root = "its commit", checkout.commit(), str(checkout.root)
    if not checkout.is_clone:
        remedy = f"mv {quote(root)} {quote(f'{root}.old')} && studiogan-gsr studiogan fetch --root {quote(root)}"
        return Finding(what, "unknown: the folder is not a git clone", remedy)
    if commit is None:
        return Finding(what, "unknown: git is not installed, or fails there", f"git -C {quote(root)} rev-parse HEAD")
    if commit != PINNED:
        return Finding(what, f"{commit}, not the pinned one", f"git -C {quote(root)} checkout {PINNED}")
    return Finding(what, f"{commit}, the pinned one")


def _plugins() -> list[Finding]:
    findings = []
    for plugin, error in try_all_plugins():
        found, remedy = f"{plugin.package} {plugin.version}", OK
        if error is not None:
            found, remedy = str(error), f"reinstall or remove {plugin.package}"
        findings.append(Finding(f"{plugin.group}: {plugin.name}", found, remedy))
    return findings
