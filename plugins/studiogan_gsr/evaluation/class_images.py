"""Generate images of given classes; an image is determined by seed, class and number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from studiogan_gsr.errors import OptionError, RequestError
from studiogan_gsr.evaluation.choices import BATCH_NORM
from studiogan_gsr.evaluation.generation import checked_pixels, frozen_copy, prepare_batch_norm
from studiogan_gsr.evaluation.latents import latents_of, sample_latents
from studiogan_gsr.seeds import BATCHES, STANDING, mixed
from studiogan_gsr.settings import Configured

BATCH = 32
# Batch sizes are multiples of this: on a CPU, convolutions of fewer images round differently from those of more.
_MULTIPLE = 16


class ClassImages:
    """Images of a trained generator by class and number.

    With running or standing batch-norm statistics, an image depends on seed, class and number alone, whatever else is
    generated.  The batch size makes no difference on a CPU; on a GPU another one may round differently.
    With batch statistics an image depends on the others of its batch.  Batches are then drawn as `evaluate` draws
    them, uniformly over the classes; number k of a class is the k-th that is drawn, and other batch sizes give other
    images.

    The generator itself does not change: a copy makes the images.
    seed: of the noise.  batch_norm: one of `choices.BATCH_NORM`; see `generated`.
    truncation: see `latents.draw`; None: none.
    batch_size: rounded up to a multiple of 16; default: 32.  With batch statistics it is used as it is; default: the
    configuration's.
    Raises RequestError for a truncation where there is none, and OptionError for an unknown batch_norm.
    """

    def __init__(
        self,
        generator: nn.Module,
        configuration: Configured,
        *,
        seed: int = 0,
        batch_norm: str = "running",
        truncation: float | None = None,
        batch_size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        data, model = configuration.DATA, configuration.MODEL
        stylegan = str(model.backbone).startswith("stylegan")
        if batch_norm not in BATCH_NORM:
            raise OptionError("batch_norm", batch_norm, ", ".join(BATCH_NORM))
        if truncation is not None and (model.z_prior != "gaussian" or stylegan):
            found = f"MODEL.backbone {model.backbone}" if stylegan else f"MODEL.z_prior {model.z_prior}"
            raise RequestError(
                f"truncation: found {found}; only gaussian noise that is the layers' input is truncated"
            )
        if truncation is not None and not 0 < truncation < float("inf"):
            raise RequestError(f"truncation: found {truncation}; allowed: a number above 0")
        self.seed, self.batch_norm, self.truncation = seed, batch_norm, truncation
        self.device = torch.device(device)
        self.classes, self._size = int(data.num_classes), int(data.img_size)
        self._prior, self._dimensions = str(model.z_prior), int(model.z_dim)
        own_size = int(configuration.OPTIMIZATION.batch_size)
        if stylegan:  # the noise in its layers is seeded by the whole batch
            self.batch_size = 1
        elif batch_norm == "batch":
            self.batch_size = batch_size or own_size
        else:
            self.batch_size = -(-(batch_size or BATCH) // _MULTIPLE) * _MULTIPLE
        self._generator = frozen_copy(generator, self.device)
        stream = torch.Generator().manual_seed(STANDING)  # the same for all seeds, which may follow in calls
        prepare_batch_norm(self._generator, batch_norm, lambda: self._run(*self._draw(own_size, stream)))

    def __call__(self, labels: Sequence[int], seed: int | None = None) -> Tensor:
        """Return uint8 images (N, 3, H, W), on the device: the k-th occurrence of a label is its image number k.

        seed: of the noise; None: the one given at first.
        """
        seen = Counter[int]()
        wanted = []
        for label in labels:
            wanted.append((int(label), seen[label]))
            seen[label] += 1
        if not wanted:
            return torch.empty(0, 3, self._size, self._size, dtype=torch.uint8, device=self.device)
        images: list[Tensor] = [torch.empty(0)] * len(wanted)
        for some, places in self.batches(wanted, seed):
            for image, place in zip(some, places, strict=True):
                images[place] = image
        return torch.stack(images)

    def batches(
        self, wanted: Sequence[tuple[int, int]], seed: int | None = None
    ) -> Iterator[tuple[Tensor, list[int]]]:
        """Yield uint8 images (B, 3, H, W), on the device, and their places in `wanted`, each place once.

        wanted: (label, number) of each image, none of them twice.
        seed: of the noise; None: the one given at first.
        Raises EvaluationError if an image is not finite.
        """
        seed = self.seed if seed is None else seed
        return self._mixed(wanted, seed) if self.batch_norm == "batch" else self._by_number(wanted, seed)

    def _by_number(self, wanted: Sequence[tuple[int, int]], seed: int) -> Iterator[tuple[Tensor, list[int]]]:
        for first in range(0, len(wanted), self.batch_size):
            some = wanted[first : first + self.batch_size]
            # A short last batch would round differently.
            filled = [*some, *[some[-1]] * (self.batch_size - len(some))]
            z = latents_of(filled, self._prior, self._dimensions, seed, self.truncation)
            images = self._run(z, torch.tensor([label for label, _ in filled]))
            yield checked_pixels(images[: len(some)]), list(range(first, first + len(some)))

    def _mixed(self, wanted: Sequence[tuple[int, int]], seed: int) -> Iterator[tuple[Tensor, list[int]]]:
        """Draw batches over all classes until every wanted image is found; batches without one are not run."""
        left = {key: place for place, key in enumerate(wanted)}
        seen = Counter[int]()
        stream = torch.Generator().manual_seed(mixed(seed, BATCHES))
        while left:
            z, labels = self._draw(self.batch_size, stream)
            rows, places = [], []
            for row, label in enumerate(labels.tolist()):
                place = left.pop((label, seen[label]), None)
                seen[label] += 1
                if place is not None:
                    rows.append(row)
                    places.append(place)
            if rows:
                yield checked_pixels(self._run(z, labels)[rows]), places

    def _draw(self, number: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        return sample_latents(self._prior, number, self._dimensions, self.classes, stream, self.truncation)

    @torch.no_grad()
    def _run(self, z: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self._generator(z.to(self.device), labels.to(self.device))
        return images
