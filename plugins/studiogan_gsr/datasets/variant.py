"""The variant of a data set that the parts of its name select: ratio, profile, seed, ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from studiogan_gsr.contract import Labelled
from studiogan_gsr.datasets.long_tailed import LongTailed, View, Whole
from studiogan_gsr.datasets.preprocessing import Preprocessing
from studiogan_gsr.errors import OptionError


class Source(Labelled, Protocol):
    """A complete data set to choose images from."""

    @property
    def classes(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Variant:
    """Options that select a variant of a data set; see `names.GRAMMAR` and `LongTailed`.

    ratio: the imbalance ratio; None: all images.
    seed: seeds the choice of images; None: the first of each class.
    released: follow the authors' program where it differs from the default.
    Raises OptionError if profile, seed or reversed is set without a ratio.
    """

    ratio: float | None = None
    profile: str = "exp"
    seed: int | None = 0
    reversed: bool = False
    released: bool = False

    def __post_init__(self) -> None:
        if self.ratio is None and (self.profile, self.seed, self.reversed) != ("exp", 0, False):
            raise OptionError("ratio", self.ratio, "a ratio (_rho<ratio>), as step, reversed and seed need one")

    def view(
        self,
        source: Source,
        *,
        n_max: int | None = None,
        capped: bool = False,
        preprocessing: Preprocessing | None = None,
        notes: Sequence[str] = (),
    ) -> View:
        """Return this variant of a complete data set; n_max, capped: see `LongTailed`."""
        if self.ratio is None:
            return Whole(source, source.classes, preprocessing, notes)
        return LongTailed(
            source,
            ratio=self.ratio,
            profile=self.profile,
            seed=self.seed,
            reversed=self.reversed,
            n_max=n_max,
            capped=capped,
            preprocessing=preprocessing,
            notes=notes,
        )
