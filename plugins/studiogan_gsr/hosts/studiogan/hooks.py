"""The hooks on StudioGAN: they wrap functions of StudioGAN, once per process.

Each hook wraps one function, and returns what StudioGAN expects of it.  The hooks on batches call the regularizers.
In this folder, only `hooked/`, `rules.py` and `generators.py` use StudioGAN's attribute names.  The launcher uses its
entry point, and a shim may use the function that it repairs.

Without a plug-in in the configuration, nothing is attached and a run computes the same numbers as StudioGAN.  But in
every run, the checks of configuration, data sets and checkpoints are stricter.  If a function is missing or has
unexpected parameters, the run ends before it starts.
"""

from __future__ import annotations

from collections.abc import Callable

from studiogan_gsr.hosts.studiogan.hooked.batches import BatchHooks
from studiogan_gsr.hosts.studiogan.hooked.checkpoints import CheckpointHooks
from studiogan_gsr.hosts.studiogan.hooked.configuration import ConfigurationHooks
from studiogan_gsr.hosts.studiogan.hooked.data import DataHooks
from studiogan_gsr.hosts.studiogan.hooked.networks import NetworkHooks
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun
from studiogan_gsr.hosts.studiogan.hooked.training import TrainingHooks

_installed = False


class Traveller:
    """Is pickled with a configuration, and installs the hooks in the process that unpickles it, a spawned rank."""

    def __reduce__(self) -> tuple[Callable[[], Traveller], tuple[()]]:
        return arrive, ()


def arrive() -> Traveller:
    """Install the hooks in the process that unpickles a configuration."""
    install()
    return Traveller()


def install() -> None:
    """Wrap all functions, once per process; raise HostError, before any is wrapped, if one is not as expected."""
    global _installed
    if _installed:
        return
    run = HookedRun()
    training = TrainingHooks(run)
    configuration, data, networks = ConfigurationHooks(Traveller()), DataHooks(run), NetworkHooks()
    parts = (configuration, data, networks, BatchHooks(run), training, CheckpointHooks(run))
    surfaces = [surface for part in parts for surface in part.surfaces()]
    for surface in surfaces:
        surface.find()
    for surface in surfaces:  # found again: two hooks may wrap one function, the second around the first
        owner, name, hooked = surface.find()
        setattr(owner, name, hooked)
    training.install_log_line()
    _installed = True
