"""Guard, count and check the calls of the roles that see a batch; after the first, no call waits for the device."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from studiogan_gsr.contract import Batch, DiscriminatorLoss, Draw, GeneratorLoss
from studiogan_gsr.errors import FOREIGN, GSRError, RegularizerError, reason
from studiogan_gsr.regularizers.attachment import Kept
from studiogan_gsr.regularizers.count import Count

# Logits are moderate if the root of their sum of squares is below this: their squares are far from overflow in
# float32.  If they are not, the run has diverged, and a term that is not finite is not to blame.
_MODERATE = 1e16
_TENSORS = ("z", "labels", "images", "w", "logits", "real_images", "real_labels", "real_logits")


class Term:
    """The term that a regularizer adds to the loss of one network.

    plugin: its name in messages.  role: "generator_loss" or "discriminator_loss".  network: the one that it trains.
    watched: the parameters of both networks, which it must not write to.
    count: counts the calls in this process.  last: the last value; None before the first call.
    finite: whether all values were finite as long as all logits were moderate, a bool tensor; None before a call.
    """

    def __init__(
        self,
        plugin: str,
        regularizer: GeneratorLoss | DiscriminatorLoss,
        role: str,
        network: nn.Module,
        watched: Iterable[Tensor],
    ) -> None:
        self._name, self._function = f"{plugin}: {role}()", getattr(regularizer, role)
        self._parameters, self._watched = list(network.parameters()), list(watched)
        self._kept, self._kept_values = Kept(), Kept()
        self.count = Count()
        self.last: Tensor | None = None
        self.finite: Tensor | None = None
        self._moderate: Tensor | None = None  # whether all logits were moderate

    def __call__(self, batch: Batch) -> Tensor:
        """Return the term for a batch; raise RegularizerError for anything but a scalar with gradient."""
        token = _Token()
        followed: dict[str, Any] = {name: _followed(getattr(batch, name), token) for name in _TENSORS}
        given = replace(batch, **followed)
        with self._unchanged(batch):
            returned = _call(self._name, self._function, given)
        value = self._checked(returned, batch.logits.device)
        if self.count.number == 0:
            self._try_gradient(value)
            self._moderate, self.finite = (torch.ones_like(value, dtype=torch.bool) for _ in range(2))
        if wrong := self._kept.add(token) or self._kept_values.add(returned):
            raise RegularizerError(f"{self._name} {wrong}")
        self._flag(value.detach(), batch)
        self.count.add(value.device)
        self.last = value.detach()
        return value

    def _flag(self, value: Tensor, batch: Batch) -> None:
        """Update the flags, in place: a CUDA graph keeps its tensors' addresses."""
        assert self._moderate is not None
        assert self.finite is not None
        logits = [batch.logits] if batch.real_logits is None else [batch.logits, batch.real_logits]
        lengths = torch._foreach_norm([values.detach().float() for values in logits])
        for length in lengths:
            self._moderate &= length < _MODERATE
        self.finite &= (value.abs() < torch.inf) | ~self._moderate

    @contextmanager
    def _unchanged(self, batch: Batch) -> Iterator[None]:
        """Raise RegularizerError if a tensor of the batch or a parameter is written to.

        The first call compares values, because a write through `.data` does not change a tensor's version.  Later
        calls compare versions, which does not wait for the device.
        """
        given = {name: tensor for name in _TENSORS if (tensor := getattr(batch, name)) is not None}
        tensors = [*given.values(), *self._watched]
        before = [tensor.detach().clone() for tensor in tensors] if self.count.number == 0 else []
        versions = [tensor._version for tensor in tensors]
        failure = None
        try:
            yield
        except RegularizerError as error:  # torch may raise an error because of the write; name the write instead
            failure = error
        changed = [tensor._version != version for tensor, version in zip(tensors, versions, strict=True)]
        for i, old in enumerate(before):
            changed[i] = changed[i] or not torch.equal(old, tensors[i])
        if any(changed):
            names = [f"batch.{name}" for name in given]
            first = changed.index(True)
            what = names[first] if first < len(names) else "a network's parameters"
            raise RegularizerError(f"{self._name} writes to {what}; it may only read") from failure
        if failure is not None:
            raise failure

    def _checked(self, value: object, device: torch.device) -> Tensor:
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise RegularizerError(f"{self._name} returned {found}; expected: a scalar tensor")
        if not value.requires_grad:
            raise RegularizerError(f"{self._name} returned a tensor without gradient; nothing would be regularized")
        if value.device != device:
            raise RegularizerError(f"{self._name} returned a tensor on {value.device}; the batch is on {device}")
        return value.reshape(())

    def _try_gradient(self, value: Tensor) -> None:
        """Raise RegularizerError unless the first value has a finite gradient to the network."""
        parameters = [p for p in self._parameters if p.requires_grad]
        try:
            found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
        except RuntimeError as error:
            raise RegularizerError(f"{self._name}: its gradient failed: {reason(error)}") from error
        gradients = [gradient for gradient in found if gradient is not None]
        if not gradients:
            raise RegularizerError(
                f"{self._name} reaches none of the {len(parameters)} trainable parameters of its network"
            )
        if not all(bool(tensor.isfinite().all()) for tensor in (value, *gradients)):
            raise RegularizerError(f"{self._name} or its gradient is not finite ({value.item()})")


class Drawing:
    """A regularizer's `draw`, which changes what the generator gets in training.

    sizes: images per batch, by what the batch updates: "generator", "discriminator" or "path_length".
    counts: count the calls in this process, by what the batch updates.
    """

    def __init__(self, plugin: str, regularizer: Draw, classes: int, sizes: Mapping[str, int]) -> None:
        self._name, self._function, self._classes = f"{plugin}: draw()", regularizer.draw, classes
        try:
            self._takes_update = "update" in inspect.signature(self._function).parameters
        except (TypeError, ValueError):  # some builtins have no signature
            self._takes_update = False
        self.counts = {update: Count() for update in sizes}

    def __call__(self, z: Tensor, labels: Tensor, update: str) -> tuple[Tensor, Tensor]:
        """Return z and labels for a batch; update: what the batch updates, a key of `sizes`."""
        drawn = self._draw(z, labels, update)
        self.counts[update].add(z.device)
        return drawn

    def try_draw(self, z: Tensor, labels: Tensor, update: str) -> None:
        """Call `draw` once and check the returned values; torch's global random generators do not change."""
        before = z.clone(), labels.clone()
        with torch.random.fork_rng([z.get_device()] if z.is_cuda else []):
            new_z, new_labels = self._draw(z, labels, update)
        if not (torch.equal(z, before[0]) and torch.equal(labels, before[1])):
            raise RegularizerError(f"{self._name} writes to what it gets; it may only read")
        low, high = int(new_labels.min()), int(new_labels.max())
        if low < 0 or high >= self._classes:
            raise RegularizerError(
                f"{self._name} returned labels from {low} to {high}; allowed: 0 to {self._classes - 1}"
            )
        if not bool(new_z.isfinite().all()):
            raise RegularizerError(f"{self._name} returned a z that is not finite")

    def _draw(self, z: Tensor, labels: Tensor, update: str) -> tuple[Tensor, Tensor]:
        versions = z._version, labels._version
        drawn = _call(self._name, self._function, z, labels, **({"update": update} if self._takes_update else {}))
        if (z._version, labels._version) != versions:
            raise RegularizerError(f"{self._name} writes to what it gets; it may only read")
        if not isinstance(drawn, tuple) or len(drawn) != 2:
            raise RegularizerError(f"{self._name} returned {type(drawn).__name__}; expected: (z, labels)")
        for what, new, old in zip(("z", "labels"), drawn, (z, labels), strict=True):
            if not isinstance(new, Tensor) or _form(new) != _form(old):
                found = _form(new) if isinstance(new, Tensor) else type(new).__name__
                raise RegularizerError(f"{self._name} returned {what} {found}; expected: {_form(old)}")
        return drawn


def _form(tensor: Tensor) -> str:
    return f"of shape {tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}"


def _call(name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except GSRError as error:
        raise RegularizerError(f"{name}: {error}") from error
    except torch.cuda.OutOfMemoryError:
        raise
    except FOREIGN as error:
        raise RegularizerError(f"{name} failed: {reason(error)}") from error


class _Token:
    """Lives as long as the graph of one call."""


class _Followed(torch.autograd.Function):
    """The identity; its graph holds a token, whose lifetime shows whether a plug-in keeps the graph alive."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, token: _Token) -> Tensor:
        ctx.token = token
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _followed(tensor: Tensor | None, token: _Token) -> Tensor | None:
    if tensor is None or not tensor.requires_grad or tensor.is_leaf:
        return tensor
    return _Followed.apply(tensor, token)  # type: ignore[no-any-return]
