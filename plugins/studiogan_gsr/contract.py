"""What a regularizer plug-in is, for those who call one."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Regularizer(Protocol):
    """What a factory of the entry-point group `studiogan.regularizers` gives."""

    def penalty(self) -> Tensor:
        """A scalar with gradient to the generator's parameters."""
        ...

    def scalars(self) -> dict[str, float]:
        """Numbers to log, at the last penalty; may wait for the device."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as tensors and plain data."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Take back what `state_dict` gave."""
        ...


def missing_methods(regularizer: object) -> list[str]:
    """Names of the methods that an object lacks to be a regularizer."""
    wanted = ("penalty", "scalars", "state_dict", "load_state_dict")
    return [f"{name}()" for name in wanted if not callable(getattr(regularizer, name, None))]
