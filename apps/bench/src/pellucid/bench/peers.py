"""One leave-one-out problem, how each peer library is asked for its scores, and how scores are judged and timed.

Every peer gets the whole training set as one batch (some average what they find in batches, which costs accuracy),
float64 as far as it goes, and the l2 of the problem as its own regularisation of the Hessian. Each is imported inside
its own function: none is a requirement of this package.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from pellucid.core.statistics import Estimate, bootstrap_mean
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

_PATIENCE = 20.0
"""Seconds of timing after which a tool is not timed again."""


@dataclass(frozen=True)
class Problem:
    """What every tool is asked: how the loss of each test point changes when a training point is removed.

    Attributes:
        model: trained to the optimum of sum_i loss_i + (n l2 / 2) |theta|^2, in float64.
        inputs: shape (n, ...).
        targets: classes, shape (n,).
        test_inputs: shape (q, ...).
        test_targets: shape (q,).
        rows: training points that are removed, one at a time.
        l2: a training point.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    rows: tuple[int, ...]
    l2: float

    def fresh_model(self) -> nn.Module:
        """Return a copy of the model: some peers wrap or freeze what they are given."""
        return deepcopy(self.model)

    def loader(self, which: str) -> "DataLoader[Any]":
        """Return the `train`, `removed` or `test` points as one batch."""
        points = self.dataset(which)
        return DataLoader(points, batch_size=len(points))

    def dataset(self, which: str) -> TensorDataset:
        """Return the `train`, `removed` or `test` points."""
        if which == "test":
            return TensorDataset(self.test_inputs, self.test_targets)
        chosen = list(self.rows) if which == "removed" else slice(None)
        return TensorDataset(self.inputs[chosen], self.targets[chosen])


@dataclass(frozen=True)
class Peer:
    """One way to ask one peer.

    Attributes:
        name: of the library, which is also its distribution's and its module's.
        method: which of its methods.
        used: the settings, in words.
        scores: problem -> (removals, tests); only their ranks are used, and more means that the loss rises more.
    """

    name: str
    method: str
    used: str
    scores: Callable[[Problem], Tensor]


def rank_agreement(scores: ArrayLike, truth: ArrayLike, seed: int) -> tuple[Estimate, float]:
    """Return Spearman's correlation of scores with the truth, both (removals, tests): per test point, and pooled.

    Per test point it is over the removals, then averaged, with an interval over test points: pairs of one test point
    share its gradient, so that resampling single pairs would claim too much.
    """
    from scipy.stats import rankdata

    guess, target = (np.asarray(values, dtype=np.float64) for values in (scores, truth))
    if guess.shape != target.shape or not np.isfinite(guess).all():
        raise ValueError(f"the scores, of shape {guess.shape}, are not {target.shape} finite numbers")
    a, b = (rankdata(values, axis=0) for values in (guess, target))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    each = (a * b).sum(axis=0) / np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    pooled = np.corrcoef(rankdata(guess), rankdata(target))[0, 1]
    return bootstrap_mean(each, seed), float(pooled)


def timed(work: Callable[[], Any], repeats: int, warm_up: bool = True) -> tuple[Any, list[float]]:
    """Do some work `repeats` times, after once without the clock; stop early once enough time has gone by."""
    if warm_up:
        work()
    taken: list[float] = []
    while len(taken) < repeats and sum(taken) < _PATIENCE:
        started = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - started)
    return result, taken


@contextmanager
def _double() -> Iterator[None]:
    """Make float64 the default type, for libraries that allocate their results without asking for one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _dattri(problem: Problem, attributor: str, **options: Any) -> Tensor:
    from dattri.algorithm import influence_function
    from dattri.task import AttributionTask

    model = problem.fresh_model()

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = data
        return functional.cross_entropy(torch.func.functional_call(model, params, (inputs,)), targets)

    with _double():
        task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
        # l2 goes in as regularisation and not into the loss: the loss also gives a removed point's gradient, and here
        # the regulariser does not leave with the point.
        tool = getattr(influence_function, attributor)(task, regularization=problem.l2, **options)
        tool.cache(problem.loader("train"))
        found: Tensor = tool.attribute(problem.loader("removed"), problem.loader("test"))
    return found.detach()


def _dattri_explicit(problem: Problem) -> Tensor:
    return _dattri(problem, "IFAttributorExplicit")


def _dattri_cg(problem: Problem) -> Tensor:
    # It takes all iterations it is allowed, whatever its tolerance; its default of 10 is too few here.
    return _dattri(problem, "IFAttributorCG", max_iter=100)


def _captum(problem: Problem) -> Tensor:
    from captum.influence._core.influence_function import NaiveInfluenceFunction

    model = problem.fresh_model()
    tool = NaiveInfluenceFunction(
        model,
        problem.loader("removed"),
        checkpoint="",
        checkpoints_load_func=lambda model, path: 0.0,  # the model is loaded already
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        hessian_dataset=problem.loader("train"),
        sample_wise_grads_per_batch=True,
        projection_dim=sum(p.numel() for p in model.parameters()),
        hessian_reg=problem.l2 * len(problem.inputs),  # its Hessian is a sum over the points
    )
    found: Tensor = tool.influence((problem.test_inputs, problem.test_targets))
    return found.detach().T


def _kronfluence(problem: Problem) -> Tensor:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classify(Task):  # type: ignore[misc, unused-ignore]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            inputs, targets = batch
            logits = model(inputs)
            if sample:
                with torch.no_grad():
                    targets = torch.multinomial(logits.softmax(dim=-1), 1).flatten()
            return functional.cross_entropy(logits, targets, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    exact = torch.float64
    factors = FactorArguments(
        strategy="ekfac",
        activation_covariance_dtype=exact,
        gradient_covariance_dtype=exact,
        per_sample_gradient_dtype=exact,
        lambda_dtype=exact,
    )
    scores = ScoreArguments(
        damping_factor=problem.l2, per_sample_gradient_dtype=exact, precondition_dtype=exact, score_dtype=exact
    )
    task = Classify()
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = prepare_model(problem.fresh_model(), task)
        tool = Analyzer("bench", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
        tool.fit_all_factors("factors", problem.dataset("train"), len(problem.inputs), factor_args=factors)
        tool.compute_pairwise_scores(
            "scores",
            "factors",
            query_dataset=problem.dataset("test"),
            train_dataset=problem.dataset("removed"),
            per_device_query_batch_size=len(problem.test_inputs),
            per_device_train_batch_size=len(problem.rows),
            score_args=scores,
        )
        held = tool.load_pairwise_scores("scores")
    found: Tensor = held["all_modules"]
    return found.T


def _pydvl_direct(problem: Problem) -> Tensor:
    from pydvl.influence.torch import DirectInfluence

    return _pydvl(problem, DirectInfluence)


def _pydvl_cg(problem: Problem) -> Tensor:
    from pydvl.influence.torch import CgInfluence

    return _pydvl(problem, CgInfluence, solve_simultaneously=True, rtol=1e-8, atol=1e-12)


def _pydvl(problem: Problem, influence: Callable[..., Any], **options: Any) -> Tensor:
    tool = influence(problem.fresh_model(), functional.cross_entropy, regularization=problem.l2, **options)
    tool = tool.fit(problem.loader("train"))
    removed = problem.dataset("removed").tensors
    found: Tensor = tool.influences(problem.test_inputs, problem.test_targets, *removed)
    return found.detach().T


PEERS = (
    Peer("dattri", "explicit", "IFAttributorExplicit, full batch, float64", _dattri_explicit),
    Peer("dattri", "CG", "IFAttributorCG, full batch, float64, 100 iterations", _dattri_cg),
    Peer("captum", "naive", "NaiveInfluenceFunction, full batch, full rank, float64", _captum),
    Peer("kronfluence", "EK-FAC", "ekfac, full batch, float64, damping l2, factors kept in files", _kronfluence),
    Peer("pydvl", "direct", "DirectInfluence, full batch, float64", _pydvl_direct),
    Peer("pydvl", "block CG", "CgInfluence, simultaneous, full batch, float64, rtol 1e-8", _pydvl_cg),
)
