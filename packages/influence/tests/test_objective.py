from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.influence import objective as module
from pellucid.influence.objective import Objective
from torch import nn

N = 12
cross_entropy = partial(F.cross_entropy, reduction="none")


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def data(n=N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (n,), generator=generator)


def objective(**options):
    return Objective(network(), cross_entropy, *data(), l2=0.1, **options)


def risk(o, weights):
    """The definition, written out."""

    def value(theta):
        losses = cross_entropy(o.forward(theta, o.inputs), o.targets)
        total = weights.sum() if o.convention == "mean" else 1
        return (weights * losses).sum() / total + 0.05 * (theta**2).sum()

    return value


@pytest.mark.parametrize("convention", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_gradient_and_hessian_follow_the_definition(convention, weighted):
    o = objective(convention=convention)
    weights = torch.rand(N, dtype=torch.float64) if weighted else torch.ones(N, dtype=torch.float64)
    given_weights = weights if weighted else None
    theta = o.theta.requires_grad_()
    value = risk(o, weights)(theta)
    (gradient,) = torch.autograd.grad(value, theta)
    hessian = torch.autograd.functional.hessian(risk(o, weights), o.theta)
    vectors = torch.randn(o.dim, 5, dtype=torch.float64)
    torch.testing.assert_close(o.value(o.theta, given_weights), value.detach())
    torch.testing.assert_close(o.gradient(o.theta, given_weights), gradient)
    torch.testing.assert_close(o.hessian(o.theta, given_weights), hessian)
    torch.testing.assert_close(o.hvp(o.theta, vectors, given_weights), hessian @ vectors)


def test_derivatives_agree_with_finite_differences():
    o, step = objective(), 1e-5
    theta, direction = o.theta, torch.randn(objective().dim, dtype=torch.float64)
    slope = (o.value(theta + step * direction) - o.value(theta - step * direction)) / (2 * step)
    bend = (o.gradient(theta + step * direction) - o.gradient(theta - step * direction)) / (2 * step)
    torch.testing.assert_close(o.gradient(theta) @ direction, slope, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(o.hvp(theta, direction[:, None])[:, 0], bend, rtol=1e-6, atol=1e-8)


def test_sum_and_mean_remove_a_group_as_the_docstring_says():
    weights = torch.ones(N, dtype=torch.float64)
    weights[[2, 5]] = 0
    mean, total = objective(convention="mean"), objective(convention="sum")
    theta = mean.theta
    group = mean.per_example_gradients(theta, [2, 5]).sum(dim=0)
    torch.testing.assert_close(total.gradient(theta) - total.gradient(theta, weights), group)
    taken = N * mean.gradient(theta) - (N - 2) * mean.gradient(theta, weights)
    torch.testing.assert_close(taken, group + 2 * 0.1 * theta)


def test_per_example_derivatives_equal_a_loop():
    o = objective()
    theta, vector = o.theta, torch.randn(objective().dim, dtype=torch.float64)
    rows = [7, 0, 3]
    gradients, products = o.per_example_gradients(theta, rows), o.per_example_hvp(theta, vector, rows)
    for place, row in enumerate(rows):

        def loss(t, row=row):
            return F.cross_entropy(o.forward(t, o.inputs[[row]]), o.targets[[row]])

        t = theta.clone().requires_grad_()
        torch.testing.assert_close(gradients[place], torch.autograd.grad(loss(t), t)[0])
        torch.testing.assert_close(products[place], torch.autograd.functional.hessian(loss, theta) @ vector)
        torch.testing.assert_close(o.losses(theta, rows)[place], loss(theta).detach())


def test_a_weighting_for_each_vector():
    o = objective()
    vectors, weights = torch.randn(o.dim, 4, dtype=torch.float64), torch.rand(N, 4, dtype=torch.float64)
    weights[:3] = 0
    together = o.hvp(o.theta, vectors, weights)
    for j in range(4):
        torch.testing.assert_close(together[:, j], o.hessian(o.theta, weights[:, j]) @ vectors[:, j])
    gradients = o.summed_gradient(o.theta, weights)
    torch.testing.assert_close(gradients, o.per_example_gradients(o.theta).T @ weights)
    some = torch.tensor([9, 4])
    torch.testing.assert_close(
        o.summed_hvp(o.theta, vectors, weights[some], some),
        o.summed_hvp(o.theta, vectors, weights * torch.zeros(N, 1, dtype=torch.float64).index_fill(0, some, 1)),
    )


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(N)), st.integers(1, 20), st.sampled_from([20, 200, 1 << 25]))
def test_results_depend_on_neither_order_nor_blocks(order, chunk, budget):
    inputs, targets = data()
    whole = objective()
    theta = whole.theta
    vectors = torch.randn(whole.dim, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BUDGET", budget)
        shuffled = Objective(network(), cross_entropy, inputs[order], targets[order], l2=0.1, chunk=chunk)
        torch.testing.assert_close(shuffled.hvp(theta, vectors), whole.hvp(theta, vectors), rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(shuffled.gradient(theta), whole.gradient(theta), rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(shuffled.per_example_gradients(theta), whole.per_example_gradients(theta)[order])


def test_selected_parameters_and_the_rest_as_constants():
    last = objective(parameters="last")
    assert last.dim == 15
    assert objective(parameters="2").dim == 15
    assert objective(parameters=["2.bias", "0"]).dim == 3 + 16
    whole = objective()
    torch.testing.assert_close(last.gradient(last.theta), whole.gradient(whole.theta)[-15:])
    model = network()
    model[0].requires_grad_(False)
    assert Objective(model, cross_entropy, *data()).dim == 15
    with pytest.raises(OptionError, match=r"no parameter 'wieght'.*nearest are .*0\.weight"):
        objective(parameters="wieght")
    with pytest.raises(OptionError, match="unfreeze"):
        Objective(network().requires_grad_(False), cross_entropy, *data())


def test_install_writes_theta_and_theta_is_a_copy():
    o = objective()
    theta = o.theta
    theta += 1
    assert not torch.equal(o.theta, theta)
    o.install(theta)
    assert torch.equal(o.theta, theta)
    torch.testing.assert_close(o.losses(theta), cross_entropy(o.model(o.inputs), o.targets).detach())
    with pytest.raises(OptionError, match=r"theta has shape \(3,\)"):
        o.install(theta[:3])


def test_other_data_keep_the_options():
    o = objective(convention="sum", parameters="last", chunk=5)
    test = o.with_data(*data(4, seed=9))
    assert (test.n, test.dim, test.l2, test.convention, test.chunk) == (4, o.dim, 0.1, "sum", 5)


def test_a_float32_model_takes_float64_data():
    o = Objective(network(dtype=torch.float32), cross_entropy, *data())
    assert o.gradient(o.theta).dtype == torch.float32


def test_a_loss_that_is_not_finite_names_its_row():
    inputs, targets = data()
    inputs[7, 1] = float("nan")
    o = Objective(network(), cross_entropy, inputs, targets, chunk=5)
    for call in (o.losses, o.gradient, o.per_example_gradients, o.hessian):
        with pytest.raises(DataError, match="row 7 has loss nan"):
            call(o.theta)


def test_a_derivative_that_is_not_finite_though_the_loss_is():
    o = Objective(nn.Linear(3, 1).double(), lambda out, _: (out[:, 0] * 0).abs().sqrt(), *data())
    with pytest.raises(DataError, match="every loss is"):
        o.gradient(o.theta)


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(4)])
def test_chance_and_batch_statistics_are_refused_until_eval(layer):
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 3)).double()
    with pytest.raises(OptionError, match=r"1 \(.*eval\(\)"):
        Objective(model, cross_entropy, *data())
    o = Objective(model.eval(), cross_entropy, *data())
    assert o.per_example_gradients(o.theta).shape == (N, o.dim)
    torch.testing.assert_close(o.per_example_gradients(o.theta).mean(dim=0), o.gradient(o.theta))


def test_options_and_data_that_cannot_work():
    inputs, targets = data()
    with pytest.raises(OptionError, match="convention is 'average'"):
        objective(convention="average")
    with pytest.raises(OptionError, match="chunk is 0"):
        objective(chunk=0)
    with pytest.raises(OptionError, match="l2 is -1"):
        Objective(network(), cross_entropy, inputs, targets, l2=-1)
    with pytest.raises(DataError, match="12 inputs and 3 targets"):
        Objective(network(), cross_entropy, inputs, targets[:3])
    with pytest.raises(DataError, match="no examples"):
        Objective(network(), cross_entropy, inputs[:0], targets[:0])
    o = Objective(network(), F.cross_entropy, inputs, targets)
    with pytest.raises(OptionError, match='reduction="none"'):
        o.losses(o.theta)
    with pytest.raises(OptionError, match="weights have shape"):
        objective().gradient(objective().theta, torch.ones(3, dtype=torch.float64))
    with pytest.raises(OptionError, match="positive total weight"):
        objective().gradient(objective().theta, torch.zeros(N, dtype=torch.float64))
    mixed = network()
    mixed[0].float()
    with pytest.raises(OptionError, match="dtypes"):
        Objective(mixed, cross_entropy, inputs, targets)
