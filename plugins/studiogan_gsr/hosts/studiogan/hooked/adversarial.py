"""The generator's adversarial loss, outside of StudioGAN's training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import FOREIGN, GeneratorError, reason
from studiogan_gsr.hosts.regularization.adversarial_gradient import AdversarialLoss
from studiogan_gsr.hosts.studiogan.types import Configurations


def adversarial_loss(cfgs: Configurations) -> AdversarialLoss:
    """Return the function from both networks, z and labels to the generator's loss, in full precision.

    It raises GeneratorError if the configuration has another loss or other inputs, or if a network fails.
    """

    def loss(generator: nn.Module, discriminator: nn.Module, z: Tensor, labels: Tensor) -> Tensor:
        if cfgs.LOSS.adv_loss == "MH":
            raise GeneratorError("LOSS.adv_loss is MH")
        if cfgs.MODEL.info_type != "N/A":
            raise GeneratorError(f"MODEL.info_type is {cfgs.MODEL.info_type}")
        if cfgs.LOSS.apply_lo:
            raise GeneratorError("LOSS.apply_lo is true")
        try:
            # `eval` switches mixed precision off, and nothing else.
            images = generator(z, labels, eval=True)
            logits = discriminator(images, labels, eval=True)["adv_output"]
            value: Tensor = cfgs.LOSS.g_loss(logits, DDP=False)
        except torch.OutOfMemoryError:
            raise
        except FOREIGN as error:  # of a changed checkout, which trains with other arguments
            raise GeneratorError(f"StudioGAN's networks failed: {reason(error)}") from error
        return value

    return loss
