"""Training: Newton against closed forms and scikit-learn, gradient steps against torch's own optimizers."""

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.influence import training
from pellucid.influence.datasets import Data, load_data
from pellucid.influence.models import ModelChoice, build_loss, build_model
from pellucid.influence.objective import Objective
from pellucid.influence.training import Recipe, TrainingError, fit_convex, fit_network
from torch import Tensor
from torch.nn import functional


def objective(data: Data, convention: str = "mean", l2: float = 0.01, name: str = "logistic", **options) -> Objective:
    model = build_model(ModelChoice(name, data.shape, data.outputs, options=options), data.inputs.dtype)
    loss = build_loss("cross_entropy" if data.classes else "squared")
    return Objective(model, loss, data.inputs, data.targets, l2=l2, convention=convention)


def regression(n: int = 60) -> Data:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 4, generator=random, dtype=torch.float64)
    targets = inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0]).double() + torch.randn(n, generator=random).double()
    return Data("line", inputs, targets, inputs[:5], targets[:5], 0)


def ridge(data: Data, weights: Tensor, l2: float, convention: str) -> Tensor:
    x = torch.cat([data.inputs, torch.ones(len(data.inputs), 1).double()], dim=1)
    total = weights.sum() if convention == "mean" else 1.0
    gram = x.T @ (weights[:, None] * x) / total + l2 * torch.eye(5).double()
    return torch.linalg.solve(gram, x.T @ (weights * data.targets) / total)


def halved(data: Data) -> Tensor:
    """Weights that leave out every second point of class 0."""
    weights = torch.ones(len(data.targets), dtype=torch.float64)
    weights[(data.targets == 0).nonzero()[::2, 0]] = 0
    return weights


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_newton_solves_ridge_regression(convention: str) -> None:
    data = regression()
    problem = objective(data, convention, l2=0.3)
    for weights in (None, (torch.arange(60) % 3 > 0).double()):
        fit = fit_convex(problem, weights)
        expected = ridge(data, torch.ones(60).double() if weights is None else weights, 0.3, convention)
        torch.testing.assert_close(fit.theta, expected, rtol=0, atol=1e-10)
        assert fit.converged
        assert fit.gradient_norm < 1e-10
        assert fit.iterations <= 2  # one exact step, perhaps another for rounding


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_newton_finds_scikit_learn_s_logistic_regression(convention: str) -> None:
    from sklearn.linear_model import LogisticRegression

    data = load_data("iris")
    problem = objective(data, convention, l2=0.02, bias=False)
    weights = halved(data)
    fit = fit_convex(problem, weights)
    points = float(weights.sum()) if convention == "mean" else 1.0
    peer = LogisticRegression(C=1 / (0.02 * points), fit_intercept=False, solver="newton-cg", tol=1e-12, max_iter=1000)
    kept = (weights > 0).numpy()
    peer.fit(data.inputs.numpy()[kept], data.targets.numpy()[kept])
    np.testing.assert_allclose(fit.theta.reshape(3, 4).numpy(), peer.coef_, atol=1e-6)


def test_dense_conjugate_and_preconditioned_steps_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits", limit=300)
    problem, weights = objective(data), halved(data)
    base = fit_convex(problem)
    dense = fit_convex(problem, weights, base.theta)
    factor = torch.linalg.cholesky(problem.hessian(base.theta))
    shared = fit_convex(problem, weights, base.theta, factor=factor)
    monkeypatch.setattr(training, "DENSE", 10)
    iterative = fit_convex(problem, weights, base.theta)
    for fit in (dense, shared, iterative):
        assert fit.gradient_norm < 1e-10
        torch.testing.assert_close(fit.theta, dense.theta, rtol=0, atol=1e-7)
    assert (dense.theta - base.theta).norm() > 0.1


def test_a_softmax_without_regulariser_converges_though_its_hessian_is_singular() -> None:
    problem = objective(load_data("gaussian", limit=500), l2=0.0)
    fit = fit_convex(problem)
    assert fit.gradient_norm < 1e-10
    assert torch.linalg.eigvalsh(problem.hessian(fit.theta))[0] < 1e-12
    # The start's part in the subspace that losses do not feel stays as it was.
    assert fit.theta.norm() < 10


def test_an_unreached_optimum_is_told() -> None:
    fit = fit_convex(objective(load_data("iris"), l2=1e-4), limit=1)
    assert not fit.converged
    assert fit.gradient_norm > 1e-3
    assert fit.iterations == 1


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "gd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_steps_are_those_of_torch_s_optimizers(optimizer: str, schedule: str) -> None:
    data = load_data("iris")
    problem = objective(data, name="mlp", activation="tanh")
    weights = halved(data)
    fit = fit_network(problem, 40, 0.05, optimizer=optimizer, schedule=schedule, weights=weights)
    model = build_model(ModelChoice("mlp", (4,), 3, options={"activation": "tanh"}))
    peer = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.05),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "gd": lambda p: torch.optim.SGD(p, lr=0.05),
    }[optimizer](model.parameters())
    for step in range(40):
        if schedule == "cosine":
            peer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + np.cos(np.pi * step / 40))
        kept = weights > 0
        decay = sum(parameter.square().sum() for parameter in model.parameters())
        loss = functional.cross_entropy(model(data.inputs[kept]), data.targets[kept]) + 0.01 / 2 * decay
        peer.zero_grad()
        loss.backward()
        peer.step()
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    torch.testing.assert_close(fit.theta, flat, rtol=0, atol=1e-10)
    assert fit.gradient_norm == pytest.approx(float(problem.gradient(fit.theta, weights).norm()))


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_batches_are_seeded_and_estimate_the_whole_gradient(convention: str) -> None:
    data = load_data("iris")
    problem = objective(data, convention, name="mlp")
    recipe = (30, 0.001 if convention == "sum" else 0.05, 16, "sgd")
    one, again, other = (fit_network(problem, *recipe, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.theta, again.theta)
    assert not torch.equal(one.theta, other.theta)
    # An epoch's batches of equal size average to the whole gradient (every row once).
    recipe_of_an_epoch = Recipe(8, 1e-3, batch=15)
    slopes = training.Slopes(problem, torch.ones(1, 120).double(), recipe_of_an_epoch, 0)
    mean = torch.stack([slopes.one(problem.theta)[1] for _ in range(8)]).mean(dim=0)
    torch.testing.assert_close(mean, problem.gradient(problem.theta))


def test_a_batch_of_removed_points_alone_leaves_the_regulariser() -> None:
    problem = objective(load_data("iris"), name="mlp")
    weights = torch.zeros(1, 120).double()
    weights[0, :2] = 1
    slopes = training.Slopes(problem, weights, Recipe(60, 0.1, batch=2), 0)
    theta = problem.theta
    found = [slopes.one(theta)[1] for _ in range(60)]
    bare = [torch.allclose(slope, 0.01 * theta) for slope in found]
    assert 58 <= sum(bare) <= 59


def test_pieces_of_a_step_add_up() -> None:
    data = load_data("iris")
    whole, pieces = objective(data, name="mlp"), objective(data, name="mlp")
    pieces.chunk = 7
    fits = [fit_network(problem, 20, 0.05) for problem in (whole, pieces)]
    torch.testing.assert_close(fits[0].theta, fits[1].theta, rtol=0, atol=1e-12)


def test_training_that_explodes_says_when_and_what_to_do() -> None:
    data = regression()
    with pytest.raises(TrainingError, match=r"not finite at step \d+ of 5000: give a lower learning rate than 10,"):
        fit_network(objective(data), 5000, 10.0, optimizer="gd")
    infinite = Data("x", data.inputs * 1e200, data.targets, data.inputs, data.targets, 0)
    with pytest.raises(DataError, match="row 0 has loss inf"):
        fit_convex(objective(infinite))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"batch": 121}, "batch is 121, but there are 120"),
        ({"batch": 0}, "batch=0"),
        ({"optimizer": "lion"}, "no optimizer 'lion'"),
        ({"schedule": "step"}, "no schedule 'step'"),
        ({"seed": -1}, "seed is -1"),
        ({"weights": torch.zeros(120)}, "weights sum to 0"),
        ({"weights": torch.ones(7)}, r"weights have shape \(1, 7\)"),
        ({"start": torch.ones(7)}, r"start has shape \(7,\)"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fit_network(objective(load_data("iris"), name="mlp"), **({"steps": 2, "lr": 0.1} | arguments))


def test_newton_asks_for_float64() -> None:
    with pytest.raises(OptionError, match=r"float64.*float32"):
        fit_convex(objective(load_data("iris", dtype=torch.float32)))


def test_a_share_of_the_steps() -> None:
    assert Recipe(60_000, 0.1).share(0.125) == Recipe(7500, 0.1)
    assert Recipe(10, 0.1).share(0.01).steps == 1
    with pytest.raises(OptionError, match=r"a share of 1\.5"):
        Recipe(10, 0.1).share(1.5)
