"""Where the plug-ins meet StudioGAN: all its functions that are wrapped, and when.

Only the files of `hooked/` know StudioGAN's attribute names (the launcher knows its entry, a shim one function more).
Each hook wraps one function and leaves its result alone.  Without a plug-in in the configuration nothing is attached,
and a run's numbers are StudioGAN's; but in every run configurations are checked, data sets packed and checkpoints
written and read with more care.  A function that is missing, or has other parameters, ends the run before it starts.
"""

from __future__ import annotations

from collections.abc import Callable

from studiogan_gsr.hosts.studiogan.hooked.checkpoints import CheckpointHooks
from studiogan_gsr.hosts.studiogan.hooked.configuration import ConfigurationHooks
from studiogan_gsr.hosts.studiogan.hooked.data import DataHooks
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun
from studiogan_gsr.hosts.studiogan.hooked.training import TrainingHooks

_installed = False


class Traveller:
    """Travels with a configuration into spawned ranks: the process that unpickles it has the hooks."""

    def __reduce__(self) -> tuple[Callable[[], Traveller], tuple[()]]:
        return arrive, ()


def arrive() -> Traveller:
    """Install the hooks in the process that a configuration has come to."""
    install()
    return Traveller()


def install() -> None:
    """Wrap all functions, once a process; HostError names the first that is not as expected."""
    global _installed
    if _installed:
        return
    run = HookedRun()
    training = TrainingHooks(run)
    parts = (ConfigurationHooks(Traveller()), DataHooks(run), training, CheckpointHooks(run))
    found = [surface.find() for part in parts for surface in part.surfaces()]
    for owner, name, hooked in found:
        setattr(owner, name, hooked)
    training.install_log_line()
    _installed = True
