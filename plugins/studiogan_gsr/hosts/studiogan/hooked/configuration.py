"""Hooks on StudioGAN's configuration: keys are checked, and REGULARIZER becomes a section like the others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.errors import HostError
from studiogan_gsr.hosts.regularization import find_regularizer
from studiogan_gsr.hosts.studiogan.hooked.surface import Surface
from studiogan_gsr.hosts.studiogan.rules import check_values, check_whole, contradiction
from studiogan_gsr.settings import SECTION, check_data_name, check_keys, load_configuration, regularizer_settings


class ConfigurationHooks:
    """Hooks on `Configurations`.

    traveller: travels with a configuration into spawned ranks, and installs the hooks where it is unpickled.
    """

    def __init__(self, traveller: object) -> None:
        self.traveller = traveller

    def surfaces(self) -> list[Surface]:
        """What is wrapped, and by what."""
        return [
            Surface("config", "Configurations._overwrite_cfgs", ("self", "cfg_file"), self.read),
            Surface("config", "Configurations.check_compatability", ("self",), self.check_together),
        ]

    def read(self, original: Callable[..., None], cfgs: Any, cfg_file: str) -> None:
        """Check all keys, take REGULARIZER out, and let StudioGAN read the rest."""
        sections = load_configuration(cfg_file)
        settings = regularizer_settings(sections)
        rest = {name: values for name, values in sections.items() if name != SECTION}
        if not isinstance(getattr(cfgs, "super_cfgs", None), dict):
            raise HostError("StudioGAN's Configurations.super_cfgs is missing: this checkout changed too much")
        check_keys(rest, cfgs.super_cfgs)
        check_values(rest)
        check_data_name(rest.get("DATA", {}).get("name", cfgs.DATA.name))
        if settings is None:
            original(cfgs, cfg_file)
        else:
            find_regularizer(settings.name, settings.options)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "configuration.yaml"
                path.write_text(yaml.safe_dump(rest), encoding="utf-8")
                original(cfgs, str(path))
            # A section like StudioGAN's own: it is printed with the others and reaches spawned ranks.
            section = type(cfgs.DATA)()
            vars(section).update({"name": settings.name, **settings.options})
            cfgs.super_cfgs[SECTION] = section
        find_dataset(str(cfgs.DATA.name))
        cfgs.plugins = self.traveller

    def check_together(self, original: Callable[..., None], cfgs: Any) -> None:
        """Check the keys together, and turn StudioGAN's own refusals into errors that name their keys."""
        check_whole(cfgs)
        try:
            original(cfgs)
        except AssertionError as error:
            raise contradiction(original, error, cfgs) from error
