"""Attach a regularizer to an optimizer, in any training loop.

The penalty's gradient is added to the parameters' gradients just before each optimizer step.  This
equals adding the penalty to the loss, and changes no line of the host's training loop:

* gradient accumulation: once per step, not once per backward;
* GradScaler: after unscaling (a fused optimizer that unscales by itself gets a scaled gradient);
* DistributedDataParallel: `torch.autograd.grad` triggers no gradient reduction.  None is needed: the
  parameters are equal on all ranks, and so is the penalty;
* a parameter that the loss did not reach gets only the penalty's gradient.

One difference: gradient clipping between backward and step does not see the penalty's gradient.

The hook belongs to the optimizer, so a new optimizer over the same parameters is not regularized: its first step
raises RegularizerError.  A copy of optimizer and network (copy.deepcopy, pickle) has no hook either, but raises no
error: call `attach` for the copy.
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from studiogan_gsr.contract import Penalty, missing_methods
from studiogan_gsr.errors import FOREIGN, GSRError, RegularizerError, reason
from studiogan_gsr.regularizers.count import Count

_CHANGES = "changes the generator: it may read the parameters, but must not write to them"
_KEPT = 8  # a regularizer that keeps this many earlier results, each with its graph, is refused


class Kept:
    """Counts results of earlier calls that a regularizer still keeps alive."""

    def __init__(self) -> None:
        self._alive: list[weakref.ref[Any]] = []

    def add(self, result: Any) -> str:
        """Add the result of a call; return an error text if too many earlier results are still alive, else ""."""
        self._alive = [known for known in self._alive if known() is not None]
        if len(self._alive) >= _KEPT:
            gc.collect()  # results that only a reference cycle keeps alive do not count
            self._alive = [known for known in self._alive if known() is not None]
        earlier = len(self._alive)
        self._alive.append(weakref.ref(result))
        return f"keeps the graphs of {earlier} earlier calls: detach what it keeps" if earlier >= _KEPT else ""


class Attachment:
    """An attached regularizer.

    last: the last penalty, a detached scalar tensor; before the first step, the penalty of the trial in `attach`.
    count: counts how often the penalty's gradient was added for an optimizer step.
    """

    def __init__(
        self,
        regularizer: Penalty,
        optimizer: torch.optim.Optimizer,
        name: str | None,
        watched: Iterable[Tensor] | None,
    ) -> None:
        self.regularizer = regularizer
        self.name = name or type(regularizer).__name__
        optimizer = _innermost(optimizer)
        self.count = Count()
        self.last: Tensor
        self._skipped: Tensor | None = None
        self._skip_next = False
        self._kept = Kept()
        self._watched = list(_parameters(optimizer) if watched is None else watched)
        if any(claim.name == self.name and claim.optimizer() is optimizer for claim in _CLAIMS):
            raise RegularizerError(
                f"{self.name}: acts on this {type(optimizer).__name__} already, and would act twice: remove() "
                "the first, or give the second another name"
            )
        reached = self._probe(optimizer)
        self._handle = optimizer.register_step_pre_hook(self._before_step)
        self._claim = _Claim(self.name, weakref.ref(optimizer), {id(p): weakref.ref(p) for p in reached})
        _CLAIMS.append(self._claim)

    @property
    def attempts(self) -> int:
        """How often the penalty's gradient was added for an optimizer step.

        A fused optimizer under GradScaler may still skip such a step, which it decides on the device; `steps` leaves
        these out.
        """
        return self.count.number

    @property
    def steps(self) -> int:
        """`attempts` without skipped steps; waits for the device if a fused optimizer can skip steps."""
        return self.attempts - (0 if self._skipped is None else int(self._skipped))

    def remove(self) -> None:
        """Stop regularizing."""
        self._handle.remove()
        if self._claim in _CLAIMS:
            _CLAIMS.remove(self._claim)

    def skip_next(self) -> None:
        """Leave the penalty out of the next optimizer step, which the host makes for an extra term of its own."""
        self._skip_next = True

    def cancel_skip(self) -> None:
        """Undo `skip_next` if no optimizer step has been made since."""
        self._skip_next = False

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._skip_next:
            self._skip_next = False
            return None
        # args[0] is the optimizer.  A closure recomputes the gradients inside the step, so the
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
        if wrong := self._kept.add(penalty):
            raise RegularizerError(f"{self.name}: penalty() {wrong}")
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
        self.count.add(penalty.device)
        skipped = getattr(optimizer, "found_inf", None)  # 1 where the scaler found Inf or NaN
        if skipped is not None:
            self._skipped = skipped.detach().clone() if self._skipped is None else self._skipped + skipped
        self.last = penalty.detach()
        return self.last

    def _versions(self) -> int:
        """Return a value that changes when a watched tensor is written to; does not wait for the device."""
        return sum(tensor._version for tensor in self._watched)

    def _penalty(self) -> Tensor:
        try:
            return self.regularizer.penalty()
        except GSRError as error:
            raise RegularizerError(f"{self.name}: penalty(): {error}") from error
        except FOREIGN as error:
            raise RegularizerError(f"{self.name}: penalty() failed: {reason(error)}") from error

    def _gradients(self, penalty: Tensor, optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
        """Return the optimizer's parameters that the penalty reaches, with their gradients."""
        name = self.name
        if not isinstance(penalty, Tensor) or penalty.numel() != 1:
            raise RegularizerError(f"{name}: penalty() returned {_kind(penalty)}; expected: a scalar tensor")
        if not penalty.requires_grad:
            raise RegularizerError(
                f"{name}: penalty() returned a tensor without gradient; nothing would be penalised"
            )
        parameters = [p for p in _parameters(optimizer) if p.requires_grad]
        places = sorted({str(p.device) for p in parameters})
        if places and str(penalty.device) not in places:
            raise RegularizerError(
                f"{name}: penalty() returned a tensor on {penalty.device}; the parameters are on {', '.join(places)}"
            )
        try:
            gradients = torch.autograd.grad(penalty, parameters, allow_unused=True) if parameters else ()
        except RuntimeError as error:
            hint = "; penalty() must not keep a tensor of an earlier call" if "second time" in str(error) else ""
            raise RegularizerError(f"{name}: the gradient of penalty() failed: {reason(error)}{hint}") from error
        reached = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        if not reached:
            raise RegularizerError(
                f"{name}: penalty() reaches none of the {len(parameters)} trainable parameters of this "
                f"{type(optimizer).__name__}: attach it to the generator's optimizer"
            )
        return reached

    def _probe(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """Try the regularizer once, without side effects; return the parameters that its penalty reaches.

        Raises RegularizerError if it cannot be used with this optimizer.
        """
        regularizer, name = self.regularizer, self.name
        if missing := missing_methods(regularizer, ("penalty",)):
            raise RegularizerError(f"{name}: is not a regularizer: {', '.join(missing)} missing")
        state = copy.deepcopy(regularizer.state_dict())
        before = [tensor.detach().clone() for tensor in self._watched]
        devices = sorted({p.get_device() for p in _parameters(optimizer) if p.is_cuda})
        with torch.random.fork_rng(devices), torch.enable_grad():
            penalty = self._penalty()
            gradients = self._gradients(penalty, optimizer)
            finite = torch.isfinite(penalty).all() and all(torch.isfinite(g).all() for _, g in gradients)
        if not finite:
            raise RegularizerError(f"{name}: penalty() or its gradient is not finite (penalty: {penalty.item()})")
        # Compare values: a write through `.data` does not change a tensor's version.
        if any(not torch.equal(old, new) for old, new in zip(before, self._watched, strict=True)):
            raise RegularizerError(f"{name}: penalty() {_CHANGES}")
        try:
            regularizer.load_state_dict(state)
        except FOREIGN as error:
            raise RegularizerError(
                f"{name}: load_state_dict() failed on its own state_dict(): {reason(error)}"
            ) from error
        self.last = penalty.detach()
        return [p for p, _ in gradients]


@dataclass(frozen=True, eq=False)
class _Claim:
    """The parameters that a regularizer acts on, and its optimizer; keeps neither alive.

    others: other optimizers that were checked, with the number of parameters they had at that time.
    """

    name: str
    optimizer: weakref.ref[torch.optim.Optimizer]
    parameters: dict[int, weakref.ref[Tensor]]
    others: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = field(default_factory=weakref.WeakKeyDictionary)

    def is_broken_by(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether an optimizer changes these parameters without the regularizer."""
        if self.optimizer() is optimizer:
            return False
        number = sum(len(group["params"]) for group in optimizer.param_groups)
        if self.others.get(optimizer) == number:
            return False
        self.others[optimizer] = number
        return any((known := self.parameters.get(id(p))) and known() is p for p in _parameters(optimizer))


_CLAIMS: list[_Claim] = []


def _refuse_replaced(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a step of an optimizer that bypasses the regularizer.  Runs before every step; costs microseconds."""
    attached = {claim.name for claim in _CLAIMS if claim.optimizer() is optimizer}
    for claim in list(_CLAIMS):
        if not any(known() is not None for known in claim.parameters.values()):
            _CLAIMS.remove(claim)
        elif claim.name not in attached and claim.is_broken_by(optimizer):
            claim.others.pop(optimizer, None)
            raise RegularizerError(
                f"{claim.name}: this {type(optimizer).__name__} moves parameters that it regularizes, and it is "
                "attached to another optimizer: attach it to this one, too, or call remove() on its Attachment"
            )


register_optimizer_step_pre_hook(_refuse_replaced)


def _innermost(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside wrappers that keep it as `optimizer`, as accelerate's and Lightning's do."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise RegularizerError(f"attach: found {type(optimizer).__name__}; a torch.optim.Optimizer is needed")
    return optimizer


def attach(
    regularizer: Penalty,
    optimizer: torch.optim.Optimizer,
    name: str | None = None,
    watched: Iterable[Tensor] | None = None,
) -> Attachment:
    """Add the regularizer's penalty to what `optimizer` minimises; return a handle with `remove()`.

    optimizer: may be a wrapper that keeps the optimizer as its attribute `optimizer` (accelerate, Lightning).
        An optimizer that is built later over the same parameters needs its own `attach`; until then its steps raise
        RegularizerError.  A copy of optimizer and network needs its own `attach`, too, but raises no error without.
    name: of the regularizer in error messages; default: its class.  Two regularizers of one optimizer must have
        different names.
    watched: tensors that `penalty()` must not write to; the step in which it does raises RegularizerError.
        Default: the optimizer's parameters.
    The penalty is tried once, immediately.  Raises RegularizerError if it is not a finite scalar with a gradient
    with respect to this optimizer's parameters.  The trial changes neither the regularizer's state nor torch's
    random generators.
    """
    return Attachment(regularizer, optimizer, name, watched)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _kind(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
