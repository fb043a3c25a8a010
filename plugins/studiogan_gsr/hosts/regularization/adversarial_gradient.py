"""The gradient of a generator's adversarial loss with respect to the gains and biases of each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import FOREIGN, GeneratorError, reason
from studiogan_gsr.regularizers.affines import find_conditional_layers
from studiogan_gsr.regularizers.copies import copied

# (generator, discriminator, z, labels) -> the adversarial loss of the images that the generator makes, a scalar.
AdversarialLoss = Callable[[nn.Module, nn.Module, Tensor, Tensor], Tensor]


class AdversarialGradient:
    """Computes the gradient as if the gains and biases of all layers were free parameters; in an SNGAN they are.

    It works on copies of both networks, in training mode, so it changes nothing of a run.
    generator: the copy, whose spectral norm each batch makes more exact.
    Raises GeneratorError if a network cannot be copied, if a conditional layer is read by a registered function, or
    if batch norm is synchronized between ranks: then a forward pass of one rank would wait for the others.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, loss: AdversarialLoss, classes: int) -> None:
        layers = find_conditional_layers(generator)
        if read := [layer.name for layer in layers if layer.custom is not None]:
            raise GeneratorError(f"the layer {read[0]} is read by a registered function")
        networks = generator, discriminator
        if any(isinstance(module, nn.SyncBatchNorm) for network in networks for module in network.modules()):
            raise GeneratorError("batch norm is synchronized between ranks")
        self.generator, self._discriminator = (_copy(network).train() for network in networks)
        self.generator.requires_grad_(True)
        self._discriminator.requires_grad_(False)
        self._modules = [w.module for layer in find_conditional_layers(self.generator) for w in layer.weights]
        self._loss, self._classes = loss, classes

    def of_classes(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of one batch's loss, (classes, gains and biases of all layers).

        It is 0 for a class that the batch does not contain.
        """
        with _outputs(self._modules) as outputs:
            value = self._loss(self.generator, self._discriminator, z, labels)
        of_images = torch.cat(torch.autograd.grad(value, outputs), 1)
        return of_images.new_zeros(self._classes, of_images.shape[1]).index_add_(0, labels, of_images)


def _copy(network: nn.Module) -> nn.Module:
    try:
        return copied(network)
    except torch.OutOfMemoryError:
        raise
    except FOREIGN as error:
        raise GeneratorError(f"{type(network).__name__} cannot be copied: {reason(error)}") from error


@contextmanager
def _outputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what the modules return inside the `with` block."""
    found: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda _, given, output: found.append(output)) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
