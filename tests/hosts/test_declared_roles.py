"""The roles that a factory says its regularizers can have, and those that they have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from studiogan_gsr.contract import ROLES, roles_of_factory
from studiogan_gsr.errors import PluginError
from studiogan_gsr.hosts.regularization.plugins import make_regularizer
from studiogan_gsr.registry import REGULARIZERS, LoadedPlugin, Plugin, find_plugins, load_plugin

PLUGIN = Plugin(REGULARIZERS, "pairs", "stranger:pairs", "stranger", "2.3")


def pairs(generator: nn.Module, class_counts: list[int], **options: object) -> object:
    """A regularizer with the roles of `options`."""
    others = ("scalars", "state_dict", "load_state_dict")
    return SimpleNamespace(**dict.fromkeys((*others, *options["roles"]), lambda *given: {}))


def make(roles: tuple[str, ...]) -> object:
    network = nn.Linear(1, 1)
    return make_regularizer(LoadedPlugin(PLUGIN, pairs), network, network, [1], {"roles": roles})


def test_a_made_regularizer_has_no_role_but_those_that_its_factory_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    make(ROLES)  # a factory that declares nothing
    monkeypatch.setattr(pairs, "roles", ("draw", "generator_loss"), raising=False)
    make(("draw",))  # with these options it has fewer
    make(("generator_loss", "draw"))
    with pytest.raises(PluginError) as caught:
        make(("draw", "penalty"))
    assert str(caught.value).startswith(f"{PLUGIN}: returned a regularizer that also has penalty; ")


def test_every_regularizer_of_this_package_declares_its_roles() -> None:
    ours = [plugin for plugin in find_plugins(REGULARIZERS) if plugin.package == "studiogan-gsr"]
    assert len(ours) >= 5
    for plugin in ours:
        assert roles_of_factory(load_plugin(REGULARIZERS, plugin.name).factory), plugin.name
