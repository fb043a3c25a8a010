"""One training step of a GAN: the same numbers as StudioGAN's step, but faster.

A step, with the places where regularizers act:

    for each update of the discriminator, for each accumulated batch:
        x, y    <- real images and labels
        z, c    <- noise and labels                                  draw(z, c)
        loss     = L_D(D(aug x, y), D(aug G(z, c), c)) + conditional  + discriminator_loss(batch)
        accumulate its gradient
    step of the discriminator's optimizer; ADA adjusts p
    for each update of the generator, for each accumulated batch:
        z, c    <- noise and labels                                  draw(z, c)
        loss     = L_G(D(aug G(z, c), c)) + conditional              + generator_loss(batch)
        accumulate its gradient
    step of the generator's optimizer                                + penalty(), once per step
    move the averaged generator

Nothing in a step waits for the device, except for the SVD of gSR with `power_iterations: 0`: losses, LeCam's averages
and ADA's p stay there as tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from studiogan_gsr.contract import Batch
from studiogan_gsr.evaluation.latents import sample_latents
from studiogan_gsr.hosts.class_norms import ClassNorms
from studiogan_gsr.hosts.native.augmentation import ADA, augmentation
from studiogan_gsr.hosts.native.average import AveragedGenerator
from studiogan_gsr.hosts.native.captured import CapturedUpdate, CudaGraphs
from studiogan_gsr.hosts.native.compiled import compiled
from studiogan_gsr.hosts.native.configuration import Configuration, Model, Optimization
from studiogan_gsr.hosts.native.losses import conditional_loss, discriminator_loss, generator_loss
from studiogan_gsr.hosts.native.networks import Judgement, make_networks
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.hosts.regularization.method import TrainingFacts

# Makes one update of a network from the images and labels of real batches, in turns.
Update = Callable[[Sequence[Tensor]], None]


@dataclass(frozen=True)
class Speed:
    """Switches that make a step fast; apart from bfloat16's rounding they do not change what is computed.

    precision: "bfloat16" computes convolutions and linear maps in bfloat16; weights, losses, spectral norms and the
        discriminator's head stay float32.
    channels_last: use the memory order that convolutions prefer.
    folded: resample inside the 3x3 convolutions.
    fused: use the fused Adam; SGD and RMSprop ignore this.
    graphs: replay updates as CUDA graphs, where that is possible (see `Trainer.why_eager`).
    compiled: compile both networks' forward and backward passes with torch.compile; takes minutes at the start.
    """

    precision: str = "float32"
    channels_last: bool = True
    folded: bool = True
    fused: bool = True
    graphs: bool = False
    compiled: bool = False


class Trainer:
    """Both networks, and everything that changes while they train.

    batches: yields (images (B, 3, H, W) float in [-1, 1], labels (B,)) of this rank, on `device`, one batch for each
        accumulation step of each discriminator update.
    seed: seeds the networks' initial weights; seed + rank seeds all noise.
    rank, ranks: this process's rank and their number; OPTIMIZATION.batch_size counts all ranks together.
    classes: class names in label order, for messages; None: the labels are the names.
    """

    def __init__(
        self,
        configuration: Configuration,
        class_counts: list[int],
        batches: Iterator[tuple[Tensor, Tensor]],
        device: torch.device,
        seed: int,
        speed: Speed,
        rank: int = 0,
        ranks: int = 1,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.configuration, self.speed, self.class_counts, self.classes = configuration, speed, class_counts, classes
        self.batches, self.device, self.ranks = batches, device, ranks
        model, loss, optimization = configuration.MODEL, configuration.LOSS, configuration.OPTIMIZATION
        generator, discriminator = make_networks(configuration, seed, speed.folded)
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)
        if speed.channels_last:
            generator.memory_format = discriminator.memory_format = torch.channels_last
        self.average = _average(model, self.generator)
        self.g_optimizer = _optimizer(optimization, self.generator, "g", speed)
        self.d_optimizer = _optimizer(optimization, self.discriminator, "d", speed)
        self.batch_size = optimization.batch_size // ranks
        self.regularization = Regularization(configuration.all_regularizers(), self._training())
        names = classes or [str(label) for label in range(len(class_counts))]
        self.norms = ClassNorms(self.generator, names, self.regularization.read_norms)
        self.noise = torch.Generator(device).manual_seed(seed + rank)
        self.augment = augmentation(configuration.AUG, self.noise)
        self.steps = 0
        # The losses of each network's last update, and whether they were finite after every step so far.
        self.losses: dict[str, Tensor] = {}
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        # 0.0 is a placeholder: the configuration has been checked, so a conditional loss always has a weight.
        self._conditional_loss, self._class_weight = conditional_loss(model, loss), loss.cond_lambda or 0.0
        self._norms = [m for m in self.generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        networks = self.regularization.training.networks
        self._forward = {name: compiled(net) if speed.compiled else net for name, net in networks.items()}
        self._updates = self._captured_updates() if self.why_eager() is None else self._eager_updates()

    @property
    def averaged(self) -> nn.Module | None:
        """The averaged generator; None without MODEL.apply_g_ema."""
        return None if self.average is None else self.average.network

    @property
    def ada(self) -> ADA | None:
        return self.augment if isinstance(self.augment, ADA) else None

    def _training(self) -> TrainingFacts:
        optimization = self.configuration.OPTIMIZATION
        return TrainingFacts(
            generator=self.generator,
            discriminator=self.discriminator,
            optimizer=self.g_optimizer,
            class_counts=self.class_counts,
            updates={
                "generator": optimization.g_updates_per_step,
                "discriminator": optimization.d_updates_per_step,
            },
            accumulation=optimization.acml_steps,
            sizes=dict.fromkeys(("generator", "discriminator"), self.batch_size),
            z_dim=self.configuration.MODEL.z_dim,
        )

    def step(self) -> None:
        """Update the discriminator and the generator as often as the configuration says."""
        optimization = self.configuration.OPTIMIZATION
        self.generator.train()
        self.discriminator.train()
        for network in ("discriminator", "generator") if optimization.d_first else ("generator", "discriminator"):
            for _ in range(self.regularization.training.updates[network]):
                self._updates[network](self._inputs(network))
                if self.ada is not None and network == "discriminator":
                    self.ada.adjust(self.steps)
        for value in self.losses.values():
            self.finite &= value.isfinite()
        self.steps += 1

    def why_eager(self) -> str | None:
        """Return why steps do not run as CUDA graphs, "" if they are not asked to; None if they do."""
        if not self.speed.graphs:
            return ""
        fixed = [str(method.plugin) for method in self.regularization.methods if not method.has_phases]
        if fixed:
            return f"{fixed[0]} has no phase(), so it cannot be captured"
        if self.ranks > 1:
            return f"CUDA graphs train on one rank, not on {self.ranks}"
        return None if self.device.type == "cuda" else "CUDA graphs need a GPU"

    def _eager_updates(self) -> dict[str, Update]:
        return {"discriminator": self._update_discriminator, "generator": self._update_generator}

    def _captured_updates(self) -> dict[str, Update]:
        recorder = CudaGraphs([self.noise])
        return {
            network: CapturedUpdate(
                update,
                phase=partial(self._phase, network),
                replayed=partial(self.regularization.replayed, network),
                recorder=recorder,
            )
            for network, update in self._eager_updates().items()
        }

    def _phase(self, network: str) -> Hashable:
        """Return what the Python code of a network's next update depends on, as far as that changes in a run."""
        decay = self.average.decay(self.steps) if network == "generator" and self.average is not None else None
        return decay, self.regularization.phase(self.steps)

    def _inputs(self, network: str) -> list[Tensor]:
        """Return the images and labels of the real batches that a network's next update needs."""
        batches = self.configuration.OPTIMIZATION.acml_steps if network == "discriminator" else 0
        return [tensor for _ in range(batches) for tensor in next(self.batches)]

    def _update_discriminator(self, inputs: Sequence[Tensor]) -> None:
        loss, accumulation = self.configuration.LOSS, self.configuration.OPTIMIZATION.acml_steps
        self.discriminator.requires_grad_(True)
        self._track_statistics(False)
        self.d_optimizer.zero_grad()
        for images, labels in zip(inputs[::2], inputs[1::2], strict=True):
            value = self._discriminator_loss(images, labels) / accumulation
            value.backward()  # type: ignore[no-untyped-call]
        self._average_gradients(self.discriminator)
        self.d_optimizer.step()
        if loss.apply_wc:
            with torch.no_grad():
                for parameter in self.discriminator.parameters():
                    parameter.clamp_(-loss.wc_bound, loss.wc_bound)  # type: ignore[operator]
        self.losses["d_loss"] = value.detach()

    def _discriminator_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss on a real batch and on as many generated images."""
        loss = self.configuration.LOSS
        with torch.no_grad():
            z, generated_labels, generated = self._generate(len(images), "discriminator")
        real = self._judge(self.augment(images), labels)
        fake = self._judge(self.augment(generated), generated_labels)
        if self.ada is not None:
            self.ada.observe(real.logits)
        value = discriminator_loss(loss.adv_loss, real.logits, fake.logits)
        if self._conditional_loss is not None:
            conditional = self._conditional_loss(real, labels)
            value = value + self._class_weight * conditional
            self.losses["class_loss"] = conditional.detach()
        batch = Batch(
            step=self.steps,
            z=z,
            labels=generated_labels,
            images=generated,
            w=None,
            logits=fake.logits,
            real_images=images,
            real_labels=labels,
            real_logits=real.logits,
        )
        for term in self.regularization.terms("discriminator", batch):
            value = value + term
        return value

    def _update_generator(self, inputs: Sequence[Tensor] = ()) -> None:
        optimization = self.configuration.OPTIMIZATION
        self.discriminator.requires_grad_(False)
        self._track_statistics(True)
        self.g_optimizer.zero_grad()
        for _ in range(optimization.acml_steps):
            value = self._generator_loss() / optimization.acml_steps
            value.backward()  # type: ignore[no-untyped-call]
        self._average_gradients(self.generator)
        self.g_optimizer.step()  # attached penalties add their gradient here
        if self.average is not None:
            self.average.update(self.steps)
        self.losses["g_loss"] = value.detach()

    def _generator_loss(self) -> Tensor:
        """Return the loss on a batch of generated images."""
        z, labels, generated = self._generate(self.batch_size, "generator")
        fake = self._judge(self.augment(generated), labels)
        value = generator_loss(self.configuration.LOSS.adv_loss, fake.logits)
        if self._conditional_loss is not None:
            value = value + self._class_weight * self._conditional_loss(fake, labels)
        batch = Batch(step=self.steps, z=z, labels=labels, images=generated, w=None, logits=fake.logits)
        for term in self.regularization.terms("generator", batch):
            value = value + term
        return value

    def _generate(self, number: int, update: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return noise, labels and the images generated from them, for a batch that updates one network."""
        model, data = self.configuration.MODEL, self.configuration.DATA
        z, labels = sample_latents(model.z_prior, number, model.z_dim, data.num_classes, self.noise)
        z, labels = self.regularization.draw(z, labels, update)
        with self._autocast():
            return z, labels, self._forward["generator"](z, labels)

    def _judge(self, images: Tensor, labels: Tensor) -> Judgement:
        with self._autocast():
            judgement: Judgement = self._forward["discriminator"](images, labels)
        return judgement

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.speed.precision == "bfloat16")

    def _track_statistics(self, tracked: bool) -> None:
        """Let only the generator's own updates change its running statistics, as StudioGAN does."""
        for norm in self._norms:
            norm.track_running_stats = tracked

    def _average_gradients(self, network: nn.Module) -> None:
        """Average the gradients over ranks with one all-reduce, after all backward passes."""
        if self.ranks == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.ranks
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))


def _average(model: Model, generator: nn.Module) -> AveragedGenerator | None:
    if not model.apply_g_ema:
        return None
    assert model.g_ema_decay is not None
    assert model.g_ema_start is not None
    return AveragedGenerator(generator, model.g_ema_decay, model.g_ema_start)


def _optimizer(optimization: Optimization, network: nn.Module, side: str, speed: Speed) -> torch.optim.Optimizer:
    """Return the optimizer of the generator (side "g") or the discriminator ("d")."""
    parameters = list(network.parameters())
    rate, decay = getattr(optimization, f"{side}_lr"), getattr(optimization, f"{side}_weight_decay")
    capturable = speed.graphs and parameters[0].is_cuda  # counts its steps on the device
    if optimization.type_ == "Adam":
        return torch.optim.Adam(
            parameters,
            lr=rate,
            weight_decay=decay,
            betas=(optimization.beta1, optimization.beta2),
            eps=1e-6,
            fused=speed.fused or None,
            capturable=capturable,
        )
    assert optimization.momentum is not None
    if optimization.type_ == "SGD":
        return torch.optim.SGD(
            parameters,
            lr=rate,
            weight_decay=decay,
            momentum=optimization.momentum,
            nesterov=bool(optimization.nesterov),
        )
    return torch.optim.RMSprop(
        parameters,
        lr=rate,
        weight_decay=decay,
        momentum=optimization.momentum,
        alpha=optimization.alpha or 0.0,
        capturable=capturable,
    )
