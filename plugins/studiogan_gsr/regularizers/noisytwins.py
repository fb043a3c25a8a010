"""NoisyTwins (Rangwani et al., CVPR 2023) for StyleGAN2 and StyleGAN3: noise on the class embedding, and twins in W.

In training, the generator's mapping network sees the class y as

    embed(y) + sigma * weight(y) * N(0, I)

with the class weights of gSR (mean 1, by the effective number of samples).  In the generator's updates the two halves
of a batch are twins: the same z and y, different noise.  Each half's w of the first layer are normalized over its
n images: a and b (n x d).  With their cross-correlation C = a^T b / n, the loss is that of Barlow Twins:

    weight * ( sum_i (C_ii - 1)^2 + gamma * sum_{i != j} C_ij^2 )

Noise and loss equal those of the authors' program (val-iisc/NoisyTwins).  That program also adds noise of the same
scale to the discriminator's class embedding, which the paper's formulas do not show: option `discriminator_noise`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studiogan_gsr.contract import Batch, Regularizer
from studiogan_gsr.errors import GeneratorError, OptionError, RegularizerError
from studiogan_gsr.regularizers.affines import unwrapped
from studiogan_gsr.regularizers.mapping import is_class_mapping
from studiogan_gsr.regularizers.options import check_amount, check_flag, check_step
from studiogan_gsr.regularizers.precision import at_least_float32
from studiogan_gsr.regularizers.weights import effective_number_weights
from studiogan_gsr.settings import is_number


def twins_loss(w: Tensor, other_w: Tensor, gamma: float) -> Tensor:
    """Return the Barlow Twins loss of twins' latents, a scalar.  w, other_w: (N, d), N at least 2."""
    with torch.autocast(w.device.type, enabled=False):
        w, other_w = (F.batch_norm(at_least_float32(half), None, None, training=True) for half in (w, other_w))
        correlation = w.T @ other_w / len(w)
        diagonal = torch.diagonal(correlation)
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        return (diagonal - 1).square().sum() + gamma * off_diagonal


class ClassNoise:
    """Adds noise to the class embedding of mapping networks, in their forward pass in training mode only.

    Code that reads the embedding by itself, such as gSR and the norms of the classes, sees no noise.  Copies of a
    network (`deepcopy`, pickle) have no noise: an averaged generator is for evaluation.

    scale: (classes,), standard deviation of the noise by class; None: no noise.
    """

    def __init__(self, scale: Tensor | None) -> None:
        self.scale = scale
        self._inside = threading.local()  # DataParallel runs replicas of a mapping network in threads

    def attach(self, mapping: nn.Module) -> None:
        """Add noise to the class embedding of a mapping network from now on."""
        mapping.register_forward_pre_hook(self._enter)
        mapping.register_forward_hook(self._leave, always_call=True)
        mapping.get_submodule("embed").register_forward_hook(self._add)

    def __reduce__(self) -> tuple[type[ClassNoise], tuple[None]]:
        return ClassNoise, (None,)

    def _enter(self, mapping: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inside.active = mapping.training

    def _leave(self, mapping: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._inside.active = False

    def _add(self, embed: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self.scale is None or not getattr(self._inside, "active", False):
            return output
        # (N, classes) one-hot @ (classes,) = the scale of each image's class
        scale = inputs[0].to(output.dtype) @ self.scale.to(output)
        return output + torch.randn_like(output) * scale[:, None]


@dataclass(frozen=True)
class NoisyTwinsOptions:
    """Options of `NoisyTwins`, which explains them; OptionError for impossible values."""

    weight: float = 0.01
    sigma: float = 0.75
    beta: float | None = 0.99
    gamma: float = 0.05
    start: int = 0
    discriminator_noise: bool = False

    def __post_init__(self) -> None:
        for option in ("weight", "sigma", "gamma"):
            check_amount(option, getattr(self, option))
        if self.beta is not None and not (is_number(self.beta) and 0 <= self.beta < 1):
            raise OptionError("beta", self.beta, "a number in [0, 1), or null for equal noise in all classes")
        check_step("start", self.start)
        check_flag("discriminator_noise", self.discriminator_noise)


class NoisyEmbedding(nn.Module):
    """Adds noise to StyleGAN's class embedding in training, without twins: the ablation of NoisyTwins.

    Its role is `draw`.  `draw` changes nothing; its calls show the host that the regularizer is active.
    `NoisyTwins` documents the options.
    """

    def __init__(
        self,
        generator: nn.Module,
        class_counts: Sequence[int],
        options: NoisyTwinsOptions,
        discriminator: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.options = options
        weights = effective_number_weights(class_counts, options.beta)
        device = next(generator.parameters()).device
        self.noise = ClassNoise(options.sigma * torch.tensor(weights, dtype=torch.float32, device=device))
        mappings = _class_mappings(
            generator, len(class_counts), "StyleGAN2 and StyleGAN3 with MODEL.g_cond_mtd: cAdaIN"
        )
        if options.discriminator_noise:
            if discriminator is None:
                raise OptionError(
                    "discriminator_noise", True, "false, or the argument discriminator with the network"
                )
            mappings += _class_mappings(discriminator, len(class_counts), "StyleGAN's with MODEL.d_cond_mtd: SPD")
        for mapping in mappings:
            self.noise.attach(mapping)

    def draw(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and labels as they are: the noise is added in the mapping network."""
        return z, labels

    def scalars(self) -> dict[str, Tensor]:
        """Return nothing: there is nothing to log."""
        return {}

    def __str__(self) -> str:
        assert self.noise.scale is not None
        low, high = float(self.noise.scale.min()), float(self.noise.scale.max())
        values = ", ".join(f"{key} {value}" for key, value in vars(self.options).items())
        return f"{values}; noise on class embeddings {low:.3g} to {high:.3g}"


class NoisyTwins(NoisyEmbedding):
    """NoisyTwins, with the roles `draw` and `generator_loss`.

    class_counts: training images per class, in label order.
    weight: lambda of the twins' loss.  sigma: standard deviation of the noise at class weight 1.
    beta: of the effective number of samples, for the class weights; None gives all classes the same noise.
    gamma: weight of the off-diagonal terms.
    start: the first training step with the twins' loss, counted from 0.
    discriminator_noise: whether the discriminator's class embedding gets noise, too, as in the authors' program.
    discriminator: the network; needed with `discriminator_noise` only.
    """

    needs = ("w",)
    _last: Tensor | None = None

    def draw(self, z: Tensor, labels: Tensor, update: str = "generator") -> tuple[Tensor, Tensor]:
        """Return twins in the generator's updates: the second half of z and labels repeats the first."""
        if update != "generator":
            return z, labels
        if len(z) < 4 or len(z) % 2:
            raise RegularizerError(
                f"found a batch of {len(z)}; allowed: an even number of images, 4 or more, because twins are "
                "normalized over each half of the batch"
            )
        twins = len(z) // 2
        return z[:twins].repeat(2, 1), labels[:twins].repeat(2)

    def generator_loss(self, batch: Batch) -> Tensor:
        """Return the weighted loss of the batch's twins."""
        assert batch.w is not None
        w, other_w = torch.chunk(batch.w[:, 0], 2)
        loss = twins_loss(w, other_w, self.options.gamma)
        self._last = loss.detach()
        return (self.options.weight if batch.step >= self.options.start else 0.0) * loss

    def scalars(self) -> dict[str, Tensor]:
        """Return the last loss of the twins without its weight, a scalar on the device."""
        return {} if self._last is None else {"loss": self._last}


def noisytwins(
    generator: nn.Module,
    class_counts: Sequence[int],
    weight: float = 0.01,
    sigma: float = 0.75,
    beta: float | None = 0.99,
    gamma: float = 0.05,
    start: int = 0,
    discriminator_noise: bool = False,
    discriminator: nn.Module | None = None,
) -> Regularizer:
    """Return NoisyTwins for a StyleGAN generator; with weight 0, its noise alone.

    A `studiogan.regularizers` plug-in; `NoisyTwins` explains the options.  The defaults are those of the authors'
    configuration for CIFAR-10-LT.
    """
    options = NoisyTwinsOptions(weight, sigma, beta, gamma, start, discriminator_noise)
    return (NoisyTwins if weight else NoisyEmbedding)(generator, class_counts, options, discriminator)


def _class_mappings(network: nn.Module, classes: int, allowed: str) -> list[nn.Module]:
    """Return a network's mapping networks that embed the class.

    allowed: the networks that have one, for the message.
    Raises GeneratorError if there is none, or if one has another number of classes.
    """
    name = type(unwrapped(network)).__name__
    mappings = [module for module in unwrapped(network).modules() if is_class_mapping(module)]
    if not mappings:
        raise GeneratorError(f"{name} has no mapping network with a class embedding; allowed: {allowed}")
    for mapping in mappings:
        if mapping.c_dim != classes:
            raise GeneratorError(f"{name}'s class embedding has {mapping.c_dim} classes; the data has {classes}")
    return mappings


def _check_options(options: Mapping[str, Any]) -> None:
    NoisyTwinsOptions(**options)


noisytwins.roles = ("generator_loss", "draw")  # type: ignore[attr-defined]
noisytwins.check_options = _check_options  # type: ignore[attr-defined]
noisytwins.also_called = {  # type: ignore[attr-defined]
    **dict.fromkeys(("lambda", "lambda_", "lambd", "lam", "noisytwins_lambda"), "weight"),
    **dict.fromkeys(("emb_noise_std", "noise_std", "std"), "sigma"),
    "effective_number_samples_beta": "beta",
    "noisytwins_momentum_lambda": "gamma",
    **dict.fromkeys(("noisytwins_start_iter", "start_iter", "start_step"), "start"),
}
