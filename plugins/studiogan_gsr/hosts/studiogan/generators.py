"""Generators that only StudioGAN has: built by a checkout's own code, and called like those of the native host.

They are built in this process, on the CPU and without hooks.  Nothing of StudioGAN's training runs.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from studiogan_gsr.errors import ConfigurationError, HostError, reason
from studiogan_gsr.hosts.keys import KEYS, given
from studiogan_gsr.hosts.studiogan import shims
from studiogan_gsr.hosts.studiogan.checkout import find_checkout, find_function
from studiogan_gsr.settings import SECTION, RegularizerSettings, check_data_name, check_keys, regularizer_settings

_PARAMETERS = ["DATA", "OPTIMIZATION", "MODEL", "STYLEGAN", "MODULES", "RUN", "device", "logger"]


@dataclass(frozen=True)
class StudioGANConfiguration:
    """The sections of a configuration that are needed to measure a generator, with StudioGAN's defaults filled in.

    regularizers: empty without REGULARIZER.  given: the sections as read from the YAML file, without defaults.
    """

    DATA: SimpleNamespace
    MODEL: SimpleNamespace
    OPTIMIZATION: SimpleNamespace
    regularizers: tuple[RegularizerSettings, ...]
    given: Mapping[str, Any]

    def sections(self) -> dict[str, Any]:
        """Return the sections as the YAML file has them."""
        return dict(self.given)


class StudioGANGenerator(nn.Module):
    """A generator of StudioGAN: z (batch, z_dim), labels (batch,) -> images (batch, 3, size, size) in [-1, 1].

    classes: the number of classes for a StyleGAN; None for other generators.  A StyleGAN takes one-hot labels and
    draws noise in its layers; this class seeds that noise from z.
    """

    def __init__(self, generator: nn.Module, classes: int | None) -> None:
        super().__init__()
        self._orig_mod, self.classes = generator, classes  # `unwrapped()` looks for `_orig_mod`

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.classes is None:
            return self._orig_mod(z, labels, eval=not self.training)  # type: ignore[no-any-return]
        seed = int(z.double().cpu().abs().sum().item() * 2**20)
        with torch.random.fork_rng():  # on the CPU and all devices, because manual_seed seeds them all
            torch.manual_seed(seed)
            return self._orig_mod(z, F.one_hot(labels, self.classes))  # type: ignore[no-any-return]


def read_studiogan_configuration(sections: Mapping[str, Any]) -> StudioGANConfiguration:
    """Return the sections of a YAML file with StudioGAN's defaults filled in.

    Raises ConfigurationError for sections and keys that StudioGAN does not have, and for generators that need more
    than noise and a label: InfoGAN and latent optimisation.
    """
    known = {name: SimpleNamespace(**dict.fromkeys(keys)) for name, keys in KEYS.items()}
    check_keys({name: values for name, values in sections.items() if name != SECTION}, known)
    made = {
        section: SimpleNamespace(
            **{name: given(sections.get(section, {}).get(name, key.default)) for name, key in keys.items()}
        )
        for section, keys in KEYS.items()
    }
    if made["MODEL"].info_type is not None or made["LOSS"].apply_lo:
        path = "MODEL.info_type" if made["MODEL"].info_type is not None else "LOSS.apply_lo"
        raise ConfigurationError(path, "a generator that needs more than noise and a label", "it cannot be measured")
    check_data_name(made["DATA"].name)
    return StudioGANConfiguration(
        DATA=made["DATA"],
        MODEL=made["MODEL"],
        OPTIMIZATION=made["OPTIMIZATION"],
        regularizers=regularizer_settings(sections),
        given=sections,
    )


def studiogan_generator(sections: Mapping[str, Any], seed: int) -> StudioGANGenerator:
    """Return a new generator of this configuration, built by the checkout in the default folder.

    The states of torch's random number generators do not change.
    Raises HostError if there is no checkout, or if it cannot build the generator.
    """
    source = str(find_checkout().source)
    sys.dont_write_bytecode = True  # leave no __pycache__ in the checkout
    if source not in sys.path:
        sys.path.insert(0, source)
    shims.apply_shims((), early=True)
    config, _, _ = find_function("config", "Configurations", ["cfg_file"])
    _, _, build = find_function("models.model", "load_generator_discriminator", _PARAMETERS)
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file, torch.random.fork_rng(devices=[]):
            yaml.safe_dump({name: values for name, values in sections.items() if name != SECTION}, file)
            file.flush()
            torch.default_generator.manual_seed(seed)
            cfgs = config.Configurations(file.name)
            with contextlib.redirect_stdout(None):  # StudioGAN prints a line about the averaged generator
                generator = build(
                    DATA=cfgs.DATA,
                    OPTIMIZATION=cfgs.OPTIMIZATION,
                    MODEL=cfgs.MODEL,
                    STYLEGAN=cfgs.STYLEGAN,
                    MODULES=cfgs.MODULES,
                    RUN=SimpleNamespace(mixed_precision=False),
                    device="cpu",
                    logger=None,
                )[0]
    except Exception as error:
        raise HostError(f"StudioGAN cannot build this configuration's generator: {reason(error)}") from error
    stylegan = str(cfgs.MODEL.backbone).startswith("stylegan")
    return StudioGANGenerator(generator, cfgs.DATA.num_classes if stylegan else None)
