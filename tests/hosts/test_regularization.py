"""What both hosts see to while a regularizer is at work: that all ranks are alike, and what restarts go on with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from studiogan_gsr.errors import RegularizerError
from studiogan_gsr.hosts import regularization
from studiogan_gsr.hosts.regularization import check_ranks, synchronise_ranks


def mine(penalty: float = 0.5, steps: int = 3, terms: str = "gsr") -> Any:
    return SimpleNamespace(_terms=terms, penalty=penalty, attachment=SimpleNamespace(steps=steps))


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the ranks after this one say."""
    message: list[Any] = []

    def gather(everyone: list[Any], own: Any) -> None:
        everyone[:] = [own, *message]

    for name, value in (
        ("is_initialized", lambda: True),
        ("get_world_size", lambda: 1 + len(message)),
        ("all_gather_object", gather),
    ):
        monkeypatch.setattr(regularization.dist, name, value)
    return message


def test_equal_ranks_are_counted_and_rounding_is_no_difference(others: list[Any]) -> None:
    others += [("gsr", 3, 0.5), ("gsr", 3, 0.5000001)]
    assert check_ranks(mine(), 4) == 3
    others[:] = [None]
    assert check_ranks(None, 4) == 2


def test_a_penalty_that_is_nowhere_finite_is_no_difference(others: list[Any]) -> None:
    """The next line says that it is not finite."""
    others.append(("gsr", 3, float("nan")))
    assert check_ranks(mine(float("nan")), 4) == 2


@pytest.mark.parametrize(
    ("step", "other", "message"),
    [
        (4, None, "step 4: rank 1 has no regularizer, rank 0 has"),
        (0, None, "before the first step: rank 1 has no regularizer"),
        (4, ("gsr", 2, 0.5), "step 4: rank 0 and rank 1 .* active steps 3 and 2"),
        (4, ("gsr", 3, 0.5001), "penalty 0.5 and 0.5001"),
        (4, ("other", 3, 0.5), "differently: gsr and other"),
    ],
)
def test_unlike_ranks_end_the_run(step: int, other: Any, message: str, others: list[Any]) -> None:
    others.append(other)
    with pytest.raises(RegularizerError, match=message):
        check_ranks(mine(), step)


def test_buffers_become_rank_0s_only_where_a_regularizer_reads_them(
    others: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = torch.nn.BatchNorm1d(3)
    monkeypatch.setattr(regularization.dist, "broadcast", lambda tensor, source: tensor.fill_(7 + source))
    others.append(None)
    synchronise_ranks(None, norm)
    assert not norm.running_mean.any()
    others[:] = [("gsr", 0, 0.0)]
    synchronise_ranks(mine(steps=0), norm)
    assert norm.running_mean.eq(7).all()
    assert norm.num_batches_tracked == 7
    assert not norm.weight.eq(7).any()
