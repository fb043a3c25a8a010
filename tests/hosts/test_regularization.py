"""What the ranks of both hosts check together: that all are regularized in the same way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from studiogan_gsr.errors import RegularizerError
from studiogan_gsr.hosts.regularization import ranks
from studiogan_gsr.hosts.regularization.ranks import check_ranks, synchronise_ranks


def mine(
    penalty: float = 0.5, active: int = 3, calls: int = 6, identity: str = "gsr", active_here: int | None = None
) -> Any:
    """This rank's regularizers: one.  active_here: in this process; default: as over all restarts."""
    method = SimpleNamespace(
        identity=identity,
        penalty=penalty,
        active=active,
        active_here=active if active_here is None else active_here,
        calls=lambda network: {"generator_loss": calls} if network == "generator" else {},
    )
    return SimpleNamespace(methods=[method])


def report(penalty: float = 0.5, active: int = 3, calls: int = 6, identity: str = "gsr") -> Any:
    """The same, as another rank reports it."""
    return ranks._Report(identity, active, (calls,), penalty)


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
        monkeypatch.setattr(ranks.dist, name, value)
    return message


def test_equal_ranks_are_counted_and_rounding_is_no_difference(others: list[Any]) -> None:
    others += [[report()], [report(0.5000001)]]
    assert check_ranks(mine(), 4) == 3
    others[:] = [[]]
    assert check_ranks(None, 4) == 2


def test_a_penalty_that_is_nowhere_finite_is_no_difference(others: list[Any]) -> None:
    """The next line says that it is not finite."""
    others.append([report(float("nan"))])
    assert check_ranks(mine(float("nan")), 4) == 2


def test_penalties_are_not_compared_before_the_first_active_update(others: list[Any]) -> None:
    """A scaler may skip the first step: until then weights may differ."""
    others.append([report(0.0, active=0)])
    assert check_ranks(mine(0.7, active=0), 0) == 2


def test_a_resumed_run_does_not_compare_the_penalties_of_trials(others: list[Any]) -> None:
    """They are of the weights before the checkpoint was loaded, which differ from rank to rank."""
    others.append([report(0.0)])
    assert check_ranks(mine(0.7, active_here=0), 0) == 2


@pytest.mark.parametrize(
    ("step", "other", "message"),
    [
        (4, [], "step 4: rank 0 has one regularizer, rank 1 has no regularizer; the run is stopped"),
        (0, [], "before the first step: rank 0 has one regularizer, rank 1 has no regularizer"),
        (4, [report(), report(identity="lecam")], "rank 0 has one regularizer, rank 1 has 2 regularizers"),
        (4, [report(active=2)], "step 4: rank 0 and rank 1 .* active updates 3 and 2"),
        (4, [report(calls=5)], r"rank 0 and rank 1 .* calls \(6,\) and \(5,\)"),
        (4, [report(0.5001)], "penalty 0.5 and 0.5001"),
        (4, [report(identity="other")], "differently: gsr and other"),
    ],
)
def test_unlike_ranks_end_the_run(step: int, other: Any, message: str, others: list[Any]) -> None:
    others.append(other)
    with pytest.raises(RegularizerError, match=message):
        check_ranks(mine(), step)


def test_a_difference_in_the_second_of_a_list_is_seen(others: list[Any]) -> None:
    both = SimpleNamespace(methods=[*mine().methods, *mine(identity="lecam").methods])
    others.append([report(), report(identity="lecam")])
    assert check_ranks(both, 4) == 2
    others[:] = [[report(), report(identity="lecam", calls=7)]]
    with pytest.raises(RegularizerError, match=r"calls \(6,\) and \(7,\)"):
        check_ranks(both, 4)


def test_buffers_become_rank_0s_only_where_a_regularizer_reads_them(
    others: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = torch.nn.BatchNorm1d(3)
    monkeypatch.setattr(ranks.dist, "broadcast", lambda tensor, source: tensor.fill_(7 + source))
    others.append([])
    synchronise_ranks(None, norm)
    assert not norm.running_mean.any()
    synchronise_ranks(SimpleNamespace(methods=[]), norm)
    assert not norm.running_mean.any()
    others[:] = [[report(0.0, active=0)]]
    synchronise_ranks(mine(active=0), norm)
    assert norm.running_mean.eq(7).all()
    assert norm.num_batches_tracked == 7
    assert not norm.weight.eq(7).any()
