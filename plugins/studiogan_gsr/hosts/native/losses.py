"""Adversarial and class-conditional losses; numerically equal to StudioGAN's.

Contrastive losses see the images of all ranks, so the ranks together make the same step as one process on the whole
batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from studiogan_gsr.hosts.native.configuration import Loss, Model
from studiogan_gsr.hosts.native.networks import Judgement
from studiogan_gsr.hosts.regularization.adversarial_gradient import AdversarialLoss

ConditionalLoss = Callable[[Judgement, Tensor], Tensor]


def discriminator_loss(name: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss, a scalar.

    name: LOSS.adv_loss.  real, fake: the discriminator's logits of real and generated images, (N,).
    """
    if name in ("vanilla", "logistic"):
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if name == "least_square":
        return 0.5 * ((real - 1).square() + fake.square()).mean()
    if name == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return (fake - real).mean()  # wasserstein


def generator_loss(name: str, fake: Tensor) -> Tensor:
    """Return the generator's loss, a scalar.  name: LOSS.adv_loss.  fake: the logits of generated images, (N,)."""
    if name in ("vanilla", "logistic"):
        return F.softplus(-fake).mean()
    if name == "least_square":
        return 0.5 * (fake - 1).square().mean()
    return -fake.mean()  # hinge, wasserstein


def adversarial_loss(name: str) -> AdversarialLoss:
    """Return the function from both networks, z and labels to the generator's loss.  name: LOSS.adv_loss."""
    return lambda generator, discriminator, z, labels: generator_loss(
        name, discriminator(generator(z, labels), labels).logits
    )


def conditional_loss(model: Model, loss: Loss) -> ConditionalLoss | None:
    """Return the function for MODEL.d_cond_mtd's classification or contrastive loss; None for PD and W/O."""
    if model.d_cond_mtd == "AC":
        return _cross_entropy
    if model.d_cond_mtd == "2C":
        temperature = loss.temperature or 1.0
        return lambda judgement, label: contrastive_loss(*_gathered(judgement, label), temperature)
    if model.d_cond_mtd == "D2DCE":
        temperature, margin = loss.temperature or 1.0, loss.m_p or 0.0
        return lambda judgement, label: data_to_data_loss(*_gathered(judgement, label), temperature, margin)
    return None


def _cross_entropy(judgement: Judgement, label: Tensor) -> Tensor:
    assert judgement.class_logits is not None
    return F.cross_entropy(judgement.class_logits, label)


def contrastive_loss(embed: Tensor, proxy: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Return the conditional contrastive loss of ContraGAN ("2C").  embed, proxy: (N, D).  label: (N,)."""
    similarity = torch.exp(_cosines(embed) / temperature) * _off_diagonal(label)
    to_proxy = torch.exp(F.cosine_similarity(embed, proxy) / temperature)
    same = label[:, None] == label
    attracted = to_proxy + (similarity * same).sum(1)
    return -torch.log(attracted / (to_proxy + similarity.sum(1))).mean()


def data_to_data_loss(embed: Tensor, proxy: Tensor, label: Tensor, temperature: float, margin: float) -> Tensor:
    """Return the data-to-data cross-entropy of ReACGAN ("D2DCE").  embed, proxy: (N, D).  label: (N,)."""
    others = _off_diagonal(label)
    similarity = (_cosines(embed) + margin - 1) / temperature
    largest = similarity.masked_fill(~others, -torch.inf).amax(1, keepdim=True).detach()
    negatives = others & (label[:, None] != label)
    repelled = (torch.exp(F.relu(similarity) - largest) * negatives).sum(1)
    attracted = F.relu((margin - F.cosine_similarity(embed, proxy)) / temperature)
    return (attracted + torch.log(torch.exp(-attracted) + repelled)).mean()


def _cosines(embed: Tensor) -> Tensor:
    """Return the cosine similarity of every pair, (N, N)."""
    unit = F.normalize(embed, eps=1e-8)
    return unit @ unit.T


def _off_diagonal(label: Tensor) -> Tensor:
    return ~torch.eye(len(label), dtype=torch.bool, device=label.device)


def _gathered(judgement: Judgement, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    embed, proxy = judgement.embed, judgement.proxy
    assert embed is not None
    assert proxy is not None
    if not dist.is_initialized():
        return embed, proxy, label
    return _of_all_ranks(embed), _of_all_ranks(proxy), _of_all_ranks(label)


def _of_all_ranks(tensor: Tensor) -> Tensor:
    """Return the tensors of all ranks, concatenated."""
    ranks = dist.get_world_size()
    parts = [torch.empty_like(tensor) for _ in range(ranks)]
    dist.all_gather(parts, tensor.detach().contiguous())
    if tensor.requires_grad:
        # Every rank computes the loss of all images, but its gradient reaches only its own images.  Multiplied by
        # `ranks`, these gradients average to the gradient of a single process.
        parts[dist.get_rank()] = tensor.detach() + ranks * (tensor - tensor.detach())
    return torch.cat(parts)
