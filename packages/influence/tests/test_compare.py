"""Estimates beside retraining: exact where they must be, in the right order, and honest about what cannot be said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.influence.compare import Comparison, GroupRecord, compare
from pellucid.influence.datasets import Data
from pellucid.influence.groups import Group
from pellucid.influence.jobs import Problem, draw_groups, pick_test, trained, with_test
from pellucid.influence.models import ModelChoice
from pellucid.influence.retraining import TruthJob, objective_of, train_base


def line(convention: str) -> TruthJob:
    """Ridge regression: a quadratic loss, for which one Newton step is the truth for the parameters."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 3, generator=random, dtype=torch.float64)
    targets = inputs @ torch.tensor([1.0, -2.0, 0.5]).double() + torch.randn(60, generator=random).double()
    data = Data("line", inputs[:50], targets[:50], inputs[50:], targets[50:], 0)
    job = TruthJob(data, ModelChoice("logistic", (3,), 1), loss="squared", l2=0.3, convention=convention, tests=(0, 4))
    return train_base(job)[0]


def drawn(sizes: list[int], n: int, seed: int = 0) -> list[Group]:
    random = np.random.default_rng(seed)
    rows = [tuple(sorted(random.choice(n, size, replace=False).tolist())) for size in sizes]
    return [Group(members, "random", len(members) / n) for members in rows]


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_what_newton_lacks_for_ridge_regression_is_the_test_loss_s_own_curvature(
    tmp_path: Path, convention: str
) -> None:
    job = line(convention)
    found = compare(job, drawn([1, 2, 2, 3, 3, 5, 20], 50), tmp_path)
    assert len(found.records) == 14
    assert [r.test for r in found.records[:2]] == [0, 4]
    assert found.gradient_norm < 1e-8
    objective = objective_of(job)
    with torch.no_grad():
        miss = objective.forward(objective.theta, job.data.test_inputs)[:, 0] - job.data.test_targets
    for record in found.records:
        assert record.newton is not None
        # The loss is miss^2 / 2, and Newton's step is exact: the output moves by newton / miss.
        moved = record.newton / float(miss[record.test])
        assert record.truth == pytest.approx(record.newton + moved**2 / 2, rel=1e-7)
    # As predictions of the output, each order comes nearer than the one before.
    errors = [max(abs(getattr(r, m) - r.newton) for r in found.records if r.size < 20) for m in ("first", "second")]
    assert errors[1] < errors[0]


def test_coherent_groups_of_iris_in_every_part_of_the_table(tmp_path: Path) -> None:
    job, fit = trained(Problem("iris", "logistic"))
    assert fit.converged
    job = with_test(job, "highest-loss")
    groups = draw_groups(job.data, "both", [0.05, 0.2], 4, 0)
    found = compare(job, groups, tmp_path, seed=3)
    parts = {(a.kind, a.fraction) for a in found.agreements()}
    assert parts == {(None, None)} | {(k, f) for k in ("random", "class") for f in (None, 0.05, 0.2)}
    assert all(a.pairs == (16 if a.kind is None else 8 if a.fraction is None else 4) for a in found.agreements())
    results = found.results()
    assert len(results["groups"]) == 16
    assert {"size", "fraction", "kind", "first", "second", "newton", "truth"} <= set(vars(results["groups"][0]))
    again = compare(job, groups, tmp_path, seed=3)
    assert again.records == found.records
    # One after another gives what all at once gives.
    alone = [compare(job, [group], tmp_path).records[0] for group in groups[::5]]
    for a, b in zip(alone, found.records[::5], strict=True):
        assert a.truth == pytest.approx(b.truth, rel=1e-7)
        assert a.second == pytest.approx(b.second, rel=1e-9)


def test_second_order_beats_first_for_coherent_groups_of_digits(tmp_path: Path) -> None:
    """Sanity on real data at a tenth to a third of it; what was measured stands in the README."""
    job, _ = trained(Problem("digits", "logistic", limit=300), test_point="median-loss")
    found = compare(job, draw_groups(job.data, "coherent", [0.2, 0.3], 3, 0), tmp_path)
    first, second = found.agreement("first").relative_error, found.agreement("second").relative_error
    assert first is not None
    assert second is not None
    assert second < first


def test_what_has_no_number_is_none() -> None:
    def record(first: float, newton: float | None, truth: float) -> GroupRecord:
        return GroupRecord(1, 0.1, "random", 0, first, first, newton, truth)

    two = Comparison((record(1, 2, 3), record(2, 3, 4)), (0,), 0.0, 0.0, (0.0,))
    assert two.agreement("first").pearson is None
    assert two.agreement("first").relative_error == pytest.approx(np.sqrt(8) / 5)
    flat = Comparison(tuple(record(i, None, 0) for i in range(5)), (0,), 0.0, 0.0, (0.0,))
    assert flat.methods == ("first", "second")
    assert flat.agreement("second").spearman is None
    assert flat.agreement("second").relative_error is None
    with pytest.raises(DataError, match="no newton estimate"):
        flat.agreement("newton")
    with pytest.raises(DataError, match="of kind class"):
        flat.agreement("first", "class")


def test_test_points_and_groups_that_are_not_there(tmp_path: Path) -> None:
    job, _ = trained(Problem("iris", "logistic"))
    for which in ("30", "-1", "worst"):
        with pytest.raises(OptionError, match="there is no test point"):
            pick_test(job, which)
    with pytest.raises(OptionError, match="there is no test point 'worst'"):
        trained(Problem("iris", "mlp", steps=10**9), test_point="worst")  # before it is trained
    losses = objective_of(job).with_data(job.data.test_inputs, job.data.test_targets).losses(objective_of(job).theta)
    assert losses[pick_test(job, "highest-loss")] == losses.max()
    assert losses[pick_test(job, "median-loss")] == losses.median()
    with pytest.raises(OptionError, match="no groups of kind 'odd'"):
        draw_groups(job.data, "odd", [0.1], 1, 0)
    for bad, message in ((Group((), "random", 0.0), "empty"), (Group((3, 3), "random", 0.1), "twice")):
        with pytest.raises((DataError, OptionError), match=message):
            compare(with_test(job, "0"), [bad], tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is retrained for groups that cannot be"
