"""Copies from host memory to the training device.  On a GPU, the CPU does not wait for them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from studiogan_gsr.hosts.native.pixels import Arrays

Batch = tuple[Tensor, Tensor]  # images and labels


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; work on the current stream sees the copy complete."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Only copies from pinned memory do not wait.  PyTorch reuses the pinned buffer after the copy, not earlier.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True)
class Sent:
    """A batch on its way to the device.  copied: recorded after its copies; None if there is nothing to wait for."""

    batch: Batch
    copied: torch.cuda.Event | None


class Transfer:
    """Copies batches to the device, on a GPU while it does other work.  One thread may send, another receive."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def send(self, batch: Arrays) -> Sent:
        """Start to copy a batch: images and labels."""
        images, labels = map(torch.from_numpy, batch)
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            sent = to_device(images, self.device), to_device(labels, self.device)
            return Sent(sent, self._stream.record_event() if self._stream else None)

    def receive(self, sent: Sent) -> Batch:
        """Return the batch; work on the current stream sees its copies complete."""
        if sent.copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(sent.copied)
            for tensor in sent.batch:
                tensor.record_stream(stream)  # its memory is not reused before this stream has used it
        return sent.batch
