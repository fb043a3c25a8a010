"""A small generator to attach a regularizer to, and the training of one rank, which spawned processes import."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from studiogan_gsr import GroupSpectralRegularizer, attach
from support.generators import Generator, Shared

COUNTS = [8, 4, 2, 1]


def make_generator(device: torch.device | str = "cpu") -> Generator:
    torch.manual_seed(0)
    return Shared(4, [12, 16, 12]).to(device)


def loss_of(generator: nn.Module, step: int) -> Tensor:
    source = torch.Generator().manual_seed(step)
    x, y = torch.randn(6, 16, 2, 2, generator=source), torch.randint(4, (6,), generator=source)
    device = next(generator.parameters()).device
    return generator(x.to(device), y.to(device)).square().sum() * 10


def train_rank(rank: int, world: int, folder: str, seeds: list[list[int]]) -> None:
    """Train one rank for one step per entry of `seeds`; save its parameters and the regularizer's buffers.

    seeds: of the batches, [step][rank].
    """
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", world)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    generator = make_generator()
    if rank:  # DDP broadcasts the parameters of rank 0
        for p in generator.parameters():
            p.data.zero_()
    wrapped = nn.parallel.DistributedDataParallel(generator)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=1e-2, betas=(0.5, 0.999), eps=1e-6)
    regularizer = GroupSpectralRegularizer(wrapped, COUNTS)
    attach(regularizer, optimizer)
    for step in seeds:
        optimizer.zero_grad()
        loss_of(wrapped, step[rank]).backward()
        optimizer.step()
    torch.save([*generator.parameters(), *regularizer.buffers()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
