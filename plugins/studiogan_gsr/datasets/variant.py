"""How a data set is made long-tailed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from studiogan_gsr.contract import Labelled
from studiogan_gsr.datasets.long_tailed import LongTailed, View, Whole
from studiogan_gsr.datasets.preprocessing import Preprocessing
from studiogan_gsr.errors import OptionError


class Source(Labelled, Protocol):
    """A data set that has all images."""

    @property
    def classes(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Variant:
    """The parts of a data set's name: see `names.GRAMMAR` and `LongTailed`.

    ratio: the imbalance ratio; None: the data set as it is.
    seed: of the choice of images; None: the first of each class.
    released: as the authors' program has it, where that differs.
    Raises OptionError for options of a long tail without its ratio.
    """

    ratio: float | None = None
    profile: str = "exp"
    seed: int | None = 0
    reversed: bool = False
    released: bool = False

    def __post_init__(self) -> None:
        if self.ratio is None and (self.profile, self.seed, self.reversed) != ("exp", 0, False):
            raise OptionError("ratio", self.ratio, "a ratio (_rho<ratio>), which step, reversed and seed need")

    def view(
        self,
        source: Source,
        *,
        n_max: int | None = None,
        capped: bool = False,
        preprocessing: Preprocessing | None = None,
        notes: Sequence[str] = (),
    ) -> View:
        """Return this variant of a data set that has all images; n_max, capped: as in `LongTailed`."""
        if self.ratio is None:
            return Whole(source, source.classes, preprocessing, notes)
        return LongTailed(
            source,
            self.ratio,
            self.profile,
            self.seed,
            self.reversed,
            n_max=n_max,
            capped=capped,
            preprocessing=preprocessing,
            notes=notes,
        )
