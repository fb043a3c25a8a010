"""Attaching a regularizer to an optimizer; knows no host.

The penalty's gradient is added to the parameters' gradients just before each optimizer step.  That
equals adding the penalty to the loss, and needs no line of the host's training loop:

* gradient accumulation: once a step, not once a backward;
* GradScaler: after unscaling (a fused optimizer that unscales by itself gets a scaled gradient);
* DistributedDataParallel: `torch.autograd.grad` fires no reducer hook, and the penalty, a function
  of parameters that are equal on all ranks, is equal on all ranks;
* a parameter that the loss did not reach gets the penalty's gradient alone.

One difference: gradients that are clipped between backward and step are clipped without the penalty's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from studiogan_gsr.contract import Regularizer, missing_methods
from studiogan_gsr.errors import FOREIGN, GSRError, RegularizerError, reason

_CHANGES = "changes the generator: a penalty is a function of the parameters, and writes to none"


class Attachment:
    """A regularizer at work; `steps` counts the optimizer steps it acted in.

    `last` is the last penalty, at first that of the trial.
    """

    def __init__(
        self,
        regularizer: Regularizer,
        optimizer: torch.optim.Optimizer,
        name: str | None,
        watched: Iterable[Tensor] | None,
    ) -> None:
        self.regularizer = regularizer
        self.name = name or type(regularizer).__name__
        self.steps = 0
        self.last: Tensor
        self._watched = list(_parameters(optimizer) if watched is None else watched)
        self._probe(optimizer)
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def remove(self) -> None:
        """Stop regularizing."""
        self._handle.remove()

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # args[0] is the optimizer.  A closure computes the gradients anew inside the step, so the
        # penalty's gradient has to be added there.
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._add_gradient(optimizer)
            return None

        def regularized(closure: Callable[[], Any] = closure) -> Any:
            loss = closure()
            penalty = self._add_gradient(optimizer)
            return None if loss is None else loss + penalty

        return (args[0], regularized), {k: v for k, v in kwargs.items() if k != "closure"}

    def _add_gradient(self, optimizer: torch.optim.Optimizer) -> Tensor:
        versions = self._versions()
        with torch.enable_grad():
            penalty = self._penalty()
            reached = self._gradients(penalty, optimizer)
        if self._versions() != versions:
            raise RegularizerError(f"{self.name}: penalty() {_CHANGES}")
        # A fused optimizer under GradScaler divides gradients by this scale inside its own step.
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            reached = [(p, g * scale.to(g.device)) for p, g in reached]
        with torch.no_grad():
            old = [(p.grad, g) for p, g in reached if p.grad is not None]
            if old:
                torch._foreach_add_([grad for grad, _ in old], [g for _, g in old])
            for p, g in reached:
                if p.grad is None:
                    p.grad = g.clone()
        self.steps += 1
        self.last = penalty.detach()
        return self.last

    def _versions(self) -> int:
        """Moves when a watched tensor is written to; costs microseconds, and no wait for a device."""
        return sum(tensor._version for tensor in self._watched)

    def _penalty(self) -> Tensor:
        try:
            return self.regularizer.penalty()
        except GSRError:
            raise
        except FOREIGN as error:
            raise RegularizerError(f"{self.name}: penalty() failed: {reason(error)}") from error

    def _gradients(self, penalty: Tensor, optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
        """The optimizer's parameters that the penalty reaches, with their gradients."""
        name = self.name
        if not isinstance(penalty, Tensor) or penalty.numel() != 1:
            raise RegularizerError(f"{name}: penalty() gave {_kind(penalty)}; a scalar tensor is wanted")
        if not penalty.requires_grad:
            raise RegularizerError(f"{name}: penalty() gave a tensor without gradient; nothing would be penalised")
        parameters = [p for p in _parameters(optimizer) if p.requires_grad]
        places = sorted({str(p.device) for p in parameters})
        if places and str(penalty.device) not in places:
            raise RegularizerError(
                f"{name}: penalty() gave a tensor on {penalty.device}; the parameters are on {', '.join(places)}"
            )
        gradients = torch.autograd.grad(penalty, parameters, allow_unused=True) if parameters else ()
        reached = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        if not reached:
            raise RegularizerError(
                f"{name}: penalty() reaches none of the {len(parameters)} trainable parameters of this "
                f"{type(optimizer).__name__}: attach it to the generator's optimizer"
            )
        return reached

    def _probe(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a regularizer that could not act, before any step; leave no trace of the trial."""
        regularizer, name = self.regularizer, self.name
        if missing := missing_methods(regularizer):
            raise RegularizerError(f"{name}: no regularizer: it lacks {', '.join(missing)}")
        state = copy.deepcopy(regularizer.state_dict())
        before = [tensor.detach().clone() for tensor in self._watched]
        devices = sorted({p.get_device() for p in _parameters(optimizer) if p.is_cuda})
        with torch.random.fork_rng(devices), torch.enable_grad():
            penalty = self._penalty()
            gradients = self._gradients(penalty, optimizer)
            finite = torch.isfinite(penalty).all() and all(torch.isfinite(g).all() for _, g in gradients)
        if not finite:
            raise RegularizerError(f"{name}: penalty() or its gradient is not finite ({penalty.item()})")
        # By value: what is written through `.data` leaves no other trace.
        if any(not torch.equal(old, new) for old, new in zip(before, self._watched, strict=True)):
            raise RegularizerError(f"{name}: penalty() {_CHANGES}")
        regularizer.load_state_dict(state)
        self.last = penalty.detach()


def attach(
    regularizer: Regularizer,
    optimizer: torch.optim.Optimizer,
    name: str | None = None,
    watched: Iterable[Tensor] | None = None,
) -> Attachment:
    """Add the regularizer's penalty to what `optimizer` minimises; returns a handle with `remove()`.

    The regularizer is tried once, at once: RegularizerError if its penalty is not a finite scalar
    with gradient to this optimizer's parameters.  The trial changes neither the regularizer's
    state nor any of torch's random generators.
    name: of the regularizer in error messages; default: its class.
    watched: tensors that `penalty()` must not write to, or RegularizerError ends the step that it is seen in;
        default: the optimizer's parameters.
    """
    return Attachment(regularizer, optimizer, name, watched)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _kind(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
