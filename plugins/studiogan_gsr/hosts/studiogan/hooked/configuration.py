"""Hooks on StudioGAN's configuration: check all keys, and make REGULARIZER a section like the others."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from studiogan_gsr.datasets.by_name import find_dataset
from studiogan_gsr.errors import HostError
from studiogan_gsr.hosts.regularization.plugins import find_regularizer
from studiogan_gsr.hosts.studiogan.hooked.state import write_settings
from studiogan_gsr.hosts.studiogan.hooked.surface import Surface
from studiogan_gsr.hosts.studiogan.rules import check_values, check_whole, contradiction
from studiogan_gsr.hosts.studiogan.types import Configurations, Original
from studiogan_gsr.settings import (
    SECTION,
    RegularizerSettings,
    check_data_name,
    check_keys,
    check_names,
    load_configuration,
    regularizer_settings,
)


class ConfigurationHooks:
    """Hooks on `Configurations`.

    traveller: travels with a configuration into spawned ranks, and installs the hooks when it is unpickled.
    """

    def __init__(self, traveller: object) -> None:
        self.traveller = traveller

    def surfaces(self) -> list[Surface]:
        """Return the functions to wrap, with their hooks."""
        return [
            Surface("config", "Configurations._overwrite_cfgs", ("self", "cfg_file"), self.read),
            Surface("config", "Configurations.check_compatability", ("self",), self.check_together),
        ]

    def read(self, original: Original, cfgs: Configurations, cfg_file: str) -> None:
        """Check all keys, take REGULARIZER out, and let StudioGAN read the other sections."""
        sections = load_configuration(cfg_file)
        settings = regularizer_settings(sections)
        studiogans = {name: values for name, values in sections.items() if name != SECTION}
        if not isinstance(getattr(cfgs, "super_cfgs", None), dict):
            raise HostError("StudioGAN's Configurations.super_cfgs is missing: this checkout changed too much")
        check_keys(studiogans, cfgs.super_cfgs)
        check_values(studiogans)
        check_data_name(studiogans.get("DATA", {}).get("name", cfgs.DATA.name))
        if not settings:
            original(cfgs, cfg_file)
        else:
            for entry in settings:
                find_regularizer(entry)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "configuration.yaml"
                path.write_text(yaml.safe_dump(studiogans), encoding="utf-8")
                original(cfgs, str(path))
            if cfgs.LOSS.apply_lecam:
                check_names([*settings, RegularizerSettings("lecam", path="LOSS.apply_lecam")])
            write_settings(cfgs, settings)
        find_dataset(str(cfgs.DATA.name))
        cfgs.plugins = self.traveller

    def check_together(self, original: Original, cfgs: Configurations) -> None:
        """Check that the keys agree; turn StudioGAN's failed assertions into errors that name their keys."""
        check_whole(cfgs)
        try:
            original(cfgs)
        except AssertionError as error:
            raise contradiction(original, error, cfgs) from error
