"""The interfaces of plug-ins: what the factories of the three entry-point groups must return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # data sets do not need torch
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of a training step, given to `generator_loss` and `discriminator_loss`, which must not write to it.

    step: training steps completed before this one.
    z: (N, z_dim), and labels: (N,) int64, as the generator got them.  In StudioGAN z excludes InfoGAN's codes, and
    with LOSS.apply_lo it is the z before latent optimization.
    images: (N, 3, H, W), generated, before augmentation; with gradient to the generator in its own updates only.
    w: StyleGAN's intermediate latents (N, layers, w_dim); None for other generators.
    logits: (N,), the discriminator's adversarial output for `images`, after augmentation.
    real_images, real_labels, real_logits: the same for the real batch; None in a generator's update.
    """

    step: int
    z: Tensor
    labels: Tensor
    images: Tensor
    w: Tensor | None
    logits: Tensor
    real_images: Tensor | None = None
    real_labels: Tensor | None = None
    real_logits: Tensor | None = None


class Regularizer(Protocol):
    """What every factory of the entry-point group `studiogan.regularizers` returns; it also has one role or more.

    The roles are the methods of `Penalty`, `GeneratorLoss`, `DiscriminatorLoss` and `Draw`.
    A factory takes (generator, class_counts, **options); one with a parameter `discriminator` gets that network, too.

    A regularizer may also have
        needs             names of the fields of `Batch` that it cannot do without, such as ("w",)
        class_norms()     {layer: {side: (classes,)}}: its own norm of each class, for the log
        phase(step)       what its Python code depends on in training step `step` (from 0), as a hashable value that
                          changes a few times in a run at most.  While it stays equal, a host may repeat what the code
                          did on the device (a CUDA graph) without running the code.  So state on the device must
                          change in place, and nothing may wait for the device.  Without `phase`, the code always runs
    Its factory may also have
        check_options     called with the options before there are networks; raises OptionError
        also_called       {name of an option in papers and other programs: name here}
        roles             the roles that its regularizers can have; only read if the factory is not a class
    """

    def scalars(self) -> Mapping[str, float | Tensor]:
        """Return numbers to log, of the last step: plain numbers, or tensors of one number.

        Tensors on the device are better: the host reads them together with all others, so that it waits only once.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as tensors and plain data."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Restore what `state_dict` returned."""
        ...


class Penalty(Regularizer, Protocol):
    """Has the role `penalty`: it regularizes the generator's weights."""

    def penalty(self) -> Tensor:
        """Return a scalar with gradient to the generator's parameters; equal on all ranks.

        Called once per step of the generator's optimizer; its gradient is added to that of the loss.
        """
        ...


class GeneratorLoss(Regularizer, Protocol):
    """Has the role `generator_loss`."""

    def generator_loss(self, batch: Batch) -> Tensor:
        """Return a scalar with gradient to the generator's parameters; it is added to the generator's loss."""
        ...


class DiscriminatorLoss(Regularizer, Protocol):
    """Has the role `discriminator_loss`."""

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """Return a scalar with gradient to the discriminator's parameters; it is added to its loss."""
        ...


class Draw(Regularizer, Protocol):
    """Has the role `draw`; one regularizer of a run may have it."""

    def draw(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the generator gets in place of z (N, z_dim) and labels (N,), of the same shapes and types.

        Called for every generated batch of training, never in evaluation.  If it has a parameter `update`, it gets
        the name of the network that the batch updates, "generator" or "discriminator"; or "path_length" for the half
        batch of StyleGAN's path-length regularization, which has an optimizer step of its own.
        """
        ...


ROLES = ("penalty", "generator_loss", "discriminator_loss", "draw")


class MapStyle(Protocol):
    """A map-style data set of (image, label), such as torchvision's, or a PyTorch Subset or ConcatDataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


class Labelled(MapStyle, Protocol):
    """A map-style data set whose labels are known without reading images.  `targets`: the label of each image."""

    @property
    def targets(self) -> Sequence[int]: ...


class Dataset(Labelled, Protocol):
    """What a factory of the entry-point group `studiogan.datasets` returns.

    class_counts: images per class, in label order.  classes: names of the classes.

    A data set may also have
        notes             remarks to show with all results
        preprocessing     a `Preprocessing`: how its images become squares
        published_split   True for a reference that its authors published: its faults become notes, not errors
        file(i)           the file of image i
        where(i)          the path or key of image i in the data set
        read_pixels(i)    the pixels of image i, uint8 (H, W, 3); None if it is stored as a file
        stamp(i)          size (bytes) and modification time (ns) of what stores image i
        full()            of "train": the balanced training set that its images were chosen from, a `Dataset` with the
                          same classes, for `evaluate --split full`; None if there is none
    """

    @property
    def class_counts(self) -> Sequence[int]: ...

    @property
    def classes(self) -> Sequence[str]: ...


class Backbone(Protocol):
    """What a factory of the entry-point group `studiogan.backbones` returns for a device.

    column: the name of the Frechet distance in its features; only the original Inception network's is "FID".
    digest: identifies everything that determines the features: weights, resizing, layer.
    """

    column: str
    digest: str

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features (N, d) and class logits (N, k), float32, of uint8 images (N, 3, H, W) on the device.

        A network that does not classify returns None for the logits; there is no inception score then.
        """
        ...


def roles_of(regularizer: object) -> tuple[str, ...]:
    """Return the roles that an object has."""
    return tuple(role for role in ROLES if callable(getattr(regularizer, role, None)))


def roles_of_factory(factory: object) -> tuple[str, ...] | None:
    """Return the roles that a factory's regularizers can have; None if they are unknown before one is made.

    A class has the roles of its methods; any other factory has those in its attribute `roles`.
    """
    declared = roles_of(factory) if isinstance(factory, type) else getattr(factory, "roles", ())
    return ((declared,) if isinstance(declared, str) else tuple(declared)) or None


def missing_methods(regularizer: object, roles: Sequence[str] = ROLES) -> list[str]:
    """Return what an object is missing to be a regularizer that has at least one of these roles."""
    has = {role for role in roles if callable(getattr(regularizer, role, None))}
    missing = [] if has else [" or ".join(f"{role}()" for role in roles)]
    others = ("scalars", "state_dict", "load_state_dict")
    return missing + [f"{name}()" for name in others if not callable(getattr(regularizer, name, None))]
