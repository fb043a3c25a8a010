"""Copy a network between training steps."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


def copied(network: _Module) -> _Module:
    """Return a deep copy of a network, also after a forward pass.

    `deepcopy` refuses tensors that autograd has made, such as weights that spectral norm has computed.  The copy
    shares them, until its next forward pass computes its own.
    """
    attributes = (value for module in network.modules() for value in vars(module).values())
    made = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(network, {id(tensor): tensor.detach() for tensor in made})
