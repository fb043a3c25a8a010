"""Hooks on a batch in a training step: what the generator gets, and what regularizers add to the losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from studiogan_gsr.contract import Batch
from studiogan_gsr.errors import ConfigurationError, HostError
from studiogan_gsr.hosts.regularization.combined import Regularization
from studiogan_gsr.hosts.studiogan.checkout import UNSUPPORTED
from studiogan_gsr.hosts.studiogan.hooked.state import HookedRun, Update
from studiogan_gsr.hosts.studiogan.hooked.surface import Surface
from studiogan_gsr.hosts.studiogan.types import Configurations, Original, Worker

# StudioGAN's names of its losses, and of the logits that they get, by network.
_LOSSES = {"generator": "g_loss", "discriminator": "d_loss"}
_LOGITS = {"generator": ("d_logit_fake",), "discriminator": ("d_logit_real", "d_logit_fake")}


class BatchHooks:
    """Hooks on generated and real batches and on the losses; active only in updates of a run with regularizers."""

    def __init__(self, run: HookedRun) -> None:
        self.run = run

    def surfaces(self) -> list[Surface]:
        """Return the functions to wrap, with their hooks."""
        return [
            Surface("utils.sample", "generate_images", ("batch_size", "is_train"), self.generate),
            Surface("utils.sample", "sample_zy", ("batch_size", "z_dim"), self.draw),
            Surface("worker", "WORKER.sample_data_basket", ("self",), self.sample_real),
            Surface("config", "Configurations.define_losses", ("self",), self.define_losses),
        ]

    def generate(self, original: Original, **arguments: Any) -> Any:
        """Generate images; store the batch in the current update."""
        run, update = self.run, self.run.update
        if run.regularization is None or update is None or not arguments["is_train"]:
            return original(**arguments)
        whole = arguments["batch_size"] == run.regularization.training.sizes["generator"]
        # Path-length regularization generates half a batch, for a step of its own.
        update.generating = update.network if whole else "path_length"
        try:
            generated = original(**arguments)
        finally:
            update.generating = None
        update.images, update.labels, update.w = generated[0], generated[1], generated[4]
        return generated

    def draw(self, original: Original, **arguments: Any) -> Any:
        """Let the regularizer with the role `draw` replace z and labels in an update."""
        z, labels, near_z = original(**arguments)
        run, update = self.run, self.run.update
        if run.regularization is None or update is None or update.generating is None:
            return z, labels, near_z
        drawn_z, labels = run.regularization.draw(z, labels, update.generating)
        if near_z is not None and drawn_z is not z:  # consistency regularization compares z with a z near it
            near_z = drawn_z + (near_z - z)
        update.z = drawn_z
        return drawn_z, labels, near_z

    def sample_real(self, original: Original, worker: Worker) -> Any:
        """Sample real batches; store those of the discriminator's updates in the current update."""
        images, labels = original(worker)
        update = self.run.update
        if update is not None and update.network == "discriminator":
            update.real = list(zip(images, labels, strict=True))
        return images, labels

    def define_losses(self, original: Original, cfgs: Configurations) -> None:
        """Add the regularizers' terms to StudioGAN's losses."""
        original(cfgs)
        regularization = self.run.regularization
        for network, key in _LOSSES.items():
            if regularization is not None and regularization.sees(network):
                setattr(cfgs.LOSS, key, LossWithTerms(getattr(cfgs.LOSS, key), network, self.run))


class LossWithTerms:
    """A loss of StudioGAN, to which the terms of the regularizers are added in the updates of its network."""

    def __init__(self, original: Callable[..., Tensor], network: str, run: HookedRun) -> None:
        self._original, self._network, self._run = original, network, run
        self._signature = inspect.signature(original)
        if not set(_LOGITS[network]) <= set(self._signature.parameters):
            raise HostError(
                f"StudioGAN's loss of the {network} takes {self._signature}; expected: "
                f"{', '.join(_LOGITS[network])}: {UNSUPPORTED}"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch, with the terms."""
        value = self._original(*args, **kwargs)
        update, regularization = self._run.update, self._run.regularization
        if update is None or regularization is None or update.network != self._network:
            return value
        given = self._signature.bind(*args, **kwargs).arguments
        for term in regularization.terms(self._network, self._batch(update, given)):
            value = value + term
        return value

    def _batch(self, update: Update, given: dict[str, Any]) -> Batch:
        if update.z is None or update.labels is None or update.images is None:
            raise HostError(f"StudioGAN computed a loss without utils.sample.generate_images: {UNSUPPORTED}")
        real: dict[str, Tensor] = {}
        if self._network == "discriminator":
            images, labels = update.real.pop(0)
            device = update.images.device
            real = {
                "real_images": images.to(device, non_blocking=True),
                "real_labels": labels.to(device, non_blocking=True),
                "real_logits": given["d_logit_real"].reshape(-1),  # some StyleGANs return (N, 1)
            }
        return Batch(
            step=update.step,
            z=update.z,
            labels=update.labels,
            images=update.images,
            w=update.w,
            logits=given["d_logit_fake"].reshape(-1),
            **real,
        )


def check_losses(cfgs: Configurations, regularization: Regularization) -> None:
    """Raise ConfigurationError if StudioGAN's losses do not see what the regularizers' terms need."""
    adding = [method.name for method in regularization.methods if method.terms]
    if adding and cfgs.LOSS.adv_loss == "MH":
        allowed = f"{' and '.join(adding)} cannot add to the adversarial loss MH; allowed: another adv_loss"
        raise ConfigurationError("LOSS.adv_loss", "MH", allowed)
    seeing = [method.name for method in regularization.methods if "generator_loss" in method.terms]
    if seeing and cfgs.LOSS.apply_topk:
        allowed = f"{' and '.join(seeing)} would not see the logits that top-k drops; allowed: false"
        raise ConfigurationError("LOSS.apply_topk", "True", allowed)
