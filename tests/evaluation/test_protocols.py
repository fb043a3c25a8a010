"""The protocols of others."""

from __future__ import annotations

import pytest

from studiogan_gsr.datasets.counts import long_tailed_counts
from studiogan_gsr.errors import RequestError
from studiogan_gsr.evaluation.backbones import find_backbone
from studiogan_gsr.evaluation.choices import BATCH_NORM, SPLITS
from studiogan_gsr.evaluation.protocols import PRESETS, find_preset
from studiogan_gsr.registry import DATASETS, find_plugins


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_source_and_options_that_evaluate_takes(name: str) -> None:
    preset = PRESETS[name]
    assert preset.source
    assert preset.split in (*SPLITS, None)
    assert preset.batch_norm in (*BATCH_NORM, None)
    assert preset.backbone is not None
    find_backbone(preset.backbone)
    assert set(preset.ranks) <= {plugin.name for plugin in find_plugins(DATASETS)}
    assert all(text.endswith(".") for text in preset.differs)


def test_what_was_not_read_is_unknown() -> None:
    assert PRESETS["paper"].unknown == []
    assert PRESETS["utlo"].unknown == PRESETS["timilsina"].unknown == ["repeats", "batch_norm", "neighbours"]
    assert PRESETS["cbdm"].unknown == ["split", "repeats", "batch_norm", "neighbours"]
    assert PRESETS["noisytwins"].unknown == ["batch_norm"]


def test_utlos_few_shot_classes_are_those_of_equal_frequency() -> None:
    """Its labels 6 to 9 are the rarest four; in our `_reversed`, whose images are its, they are labels 3 to 0."""
    counts, utlo = long_tailed_counts(5000, 10, 100), PRESETS["utlo"]
    assert utlo.groups("CIFAR10_LT", counts) == {"few": [6, 7, 8, 9]}
    assert utlo.groups("CIFAR10_LT", counts[::-1]) == {"few": [0, 1, 2, 3]}
    assert utlo.groups("CIFAR100_LT", long_tailed_counts(500, 100, 100)) == {"few": list(range(70, 100))}
    assert utlo.groups("LSUN_LT", long_tailed_counts(50000, 5, 1000)) == {"few": [4]}
    assert utlo.groups("Flowers102_LT", [9] * 102) == {"few": list(range(50, 102))}
    assert utlo.groups("AnimalFaces_LT", [9] * 20) == {"few": list(range(10, 20))}
    assert utlo.groups("Digits_LT", counts) == {}


def test_an_unknown_preset_is_told_with_a_near_miss() -> None:
    with pytest.raises(RequestError, match=r"--protocol: found utol; allowed: paper, utlo, .*; did you mean utlo\?"):
        find_preset("utol")
