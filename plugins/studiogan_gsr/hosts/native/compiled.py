"""Compile a network's forward and backward pass as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from studiogan_gsr.errors import TrainingError, reason

_LONGEST = 300  # characters of a compiler's output in an error


def compiled(network: nn.Module) -> Callable[..., Any]:
    """Return the network's forward pass, compiled at its first calls.  The module stays as it is, for other uses.

    The result raises TrainingError if the network cannot be compiled, for example without a C++ compiler.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    forward = torch.compile(network, fullgraph=True, dynamic=False)

    def explained(*inputs: Any) -> Any:
        try:
            return forward(*inputs)
        except TorchDynamoException as error:
            raise TrainingError(
                f"--compile: the {type(network).__name__.lower()} cannot be compiled: {reason(error)[:_LONGEST]}; "
                "--resume --no-compile goes on without"
            ) from error

    return explained
