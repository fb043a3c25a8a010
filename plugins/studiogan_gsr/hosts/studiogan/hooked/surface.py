"""One function of StudioGAN, and the hook that wraps it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from studiogan_gsr.errors import HostError
from studiogan_gsr.hosts.studiogan.checkout import UNSUPPORTED, find_function


@dataclass(frozen=True)
class Surface:
    """A function of StudioGAN that a hook wraps.

    module, path: where the function is, such as "worker" and "WORKER.save".
    parameters: names that its signature must contain.
    hook: called instead of the function.  Its arguments are the original function, the object if it is a method, and
    the function's arguments by name.
    """

    module: str
    path: str
    parameters: tuple[str, ...]
    hook: Callable[..., Any]

    def find(self) -> tuple[Any, str, Callable[..., Any]]:
        """Return the function's owner, its name, and the wrapper that calls the hook.

        Raises HostError if the function is missing, or if its parameters are not as expected.
        """
        owner, name, function = find_function(self.module, self.path, list(self.parameters))
        signature = inspect.signature(function)
        self._check_known(signature)

        @functools.wraps(function)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
            if "self" in arguments:
                return self.hook(function, arguments.pop("self"), **arguments)
            return self.hook(function, **arguments)

        return owner, name, hooked

    def _check_known(self, signature: inspect.Signature) -> None:
        """Raise HostError if the function has parameters that the hook does not accept."""
        taken = inspect.signature(self.hook).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
            return
        if extra := [name for name in signature.parameters if name not in (*taken, "self")]:
            raise HostError(
                f"StudioGAN's {self.module}.{self.path} has the parameters {', '.join(extra)}, which the hooks do "
                f"not know: {UNSUPPORTED}"
            )
