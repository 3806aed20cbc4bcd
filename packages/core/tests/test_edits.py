import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.edits import Fingerprint, LowRankUpdate, WeightEdit, base_output, find_part, solve
from pellucid.core.errors import DataError, ModelError, OptionError, SiteError
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, bias):
        super().__init__()
        self.first = nn.Linear(inputs, outputs, bias=bias)
        self.second = nn.Linear(outputs, 5, bias=bias)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def block(seed=0, inputs=12, outputs=9, bias=True, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Block(inputs, outputs, bias).to(dtype).eval().requires_grad_(False)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edit(model, seed=1, n=3, ridge=0.5, modules=("first", "second")):
    updates = []
    for i, name in enumerate(modules):
        module = find_part(model, name)
        keys, values = draw(seed + i, n, module.in_features), draw(seed + 50 + i, n, module.out_features)
        updates.append(solve(model, name, keys, values, ridge))
    return WeightEdit.of(model, updates)


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.modules())


def delta(update):
    return update.up @ update.down


def normal_equations(weight, bias, keys, values, ridge):
    """The textbook's d x d form of eq. 5.9, with the bias taken off the values."""
    k, v = keys.T, (values - bias).T
    identity = torch.eye(k.shape[0], dtype=torch.float64)
    return (v @ k.T + ridge * weight) @ torch.linalg.inv(k @ k.T + ridge * identity)


@pytest.mark.parametrize("n", [1, 4, 9, 10, 30])  # fewer and more keys than either side of the weight
@pytest.mark.parametrize("shape", [(12, 9), (9, 12)])
@pytest.mark.parametrize("ridge", [0.01, 1.0, 100.0])
def test_solver_equals_the_normal_equations(n, shape, ridge):
    model = block(inputs=shape[0], outputs=shape[1], dtype=torch.float64)
    keys, values = draw(1, n, shape[0]), draw(2, n, shape[1])
    update = solve(model, "first", keys, values, ridge)
    expected = normal_equations(model.first.weight, model.first.bias, keys, values, ridge)
    torch.testing.assert_close(model.first.weight + delta(update), expected, atol=1e-9, rtol=1e-9)
    assert update.down.shape[0] == update.up.shape[1] == min(n, *shape)
    WeightEdit.of(model, [update]).apply(model)
    torch.testing.assert_close(model.first.weight.detach(), expected, atol=1e-9, rtol=1e-9)


def test_solver_by_hand():
    # One key (1, 0) on W0 = 0: W minimises (w - 6)^2 + 2 w^2, so w = 6 / 3.
    update = LowRankUpdate("m", torch.tensor([[1.0, 0.0]]), torch.tensor([[6.0]]), 2.0)
    torch.testing.assert_close(delta(update), torch.tensor([[2.0, 0.0]], dtype=torch.float64))


def test_the_solution_is_a_minimum():
    model = block(dtype=torch.float64)
    keys, values = draw(1, 4, 12), draw(2, 4, 9)
    base = model.first.weight

    def loss(weight):
        misfit = keys @ weight.T + model.first.bias - values
        return misfit.square().sum() + 0.3 * (weight - base).square().sum()

    weight = (base + delta(solve(model, "first", keys, values, 0.3))).requires_grad_()
    (slope,) = torch.autograd.grad(loss(weight), weight)
    assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_concept_mapped_onto_itself_changes_nothing(dtype):
    model = block(dtype=dtype)
    keys = draw(1, 4, 12)
    own = WeightEdit.of(model, [solve(model, "first", keys, base_output(model, "first", keys), 1e-4)])
    assert own.updates[0].residuals.abs().max() == 0
    # From the module's own output, only rounding is left: were the bias counted twice, it would be of order one.
    keys = keys.to(dtype)
    rounded = solve(model, "first", keys, model.first(keys), 0.1)
    assert rounded.residuals.abs().max() < 4 * torch.finfo(dtype).eps
    weight = model.first.weight.clone()
    with own.applied(model):
        assert torch.equal(model.first.weight, weight)


@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 14),
    log_ridge=st.integers(-3, 3),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    bias=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_revert_restores_to_the_bit(seed, n, log_ridge, dtype, bias):
    model = block(seed, bias=bias, dtype=dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = {name: id(value) for name, value in model.named_parameters()}
    both = [edit(model, seed + 1, n, 10.0**log_ridge), edit(model, seed + 2, n, 10.0**log_ridge)]
    for one in both:
        one.apply(model)
    assert not torch.equal(model.first.weight, before["first.weight"])
    for one in both if seed % 2 else reversed(both):
        one.revert(model)
    assert {name: id(value) for name, value in model.named_parameters()} == parameters
    for name, value in model.state_dict().items():
        assert torch.equal(value.view(torch.uint8), before[name].view(torch.uint8)), name
    assert not any("_pellucid" in key for module in model.modules() for key in module.__dict__)


def test_applied_reverts_after_an_error():
    model = block()
    weight = model.first.weight
    with pytest.raises(ZeroDivisionError), edit(model).applied(model):
        1 / (model.first.weight is weight)
    assert model.first.weight is weight


def shared_keys(model, n=8, shared=6):
    """Two problems that share most of their keys, as prompts share tokens."""
    keys, values = draw(7, 2 * n - shared, 12), draw(8, 2 * n - shared, 9)
    first, second = slice(0, n), slice(n - shared, None)
    return [(keys[part], values[part]) for part in (first, second)]


def test_a_plus_b_is_solved_at_once():
    model = block(dtype=torch.float64)
    problems = shared_keys(model)
    a, b = (WeightEdit.of(model, [solve(model, "first", *problem, 0.1)]) for problem in problems)
    keys, values = (torch.cat(part) for part in zip(*problems, strict=True))
    at_once = normal_equations(model.first.weight, model.first.bias, keys, values, 0.1)
    (together,) = (a + b).updates
    torch.testing.assert_close(model.first.weight + delta(together), at_once, atol=1e-9, rtol=1e-9)
    # The sum of the two updates is another thing, and far from it.
    wrong = delta(a.updates[0]) + delta(b.updates[0])
    assert (wrong - delta(together)).norm() > 0.3 * delta(together).norm()


def test_edits_of_different_modules_stand_side_by_side():
    model = block()
    a, b = edit(model, modules=("first",)), edit(model, modules=("second",))
    assert [u.module for u in (a + b).updates] == ["first", "second"]
    assert ((a + b) - a).updates[0].same(b.updates[0])


def test_undoing_one_of_several():
    model = block()
    a, b, c = (edit(model, seed) for seed in (1, 10, 20))
    for left, expected in [((a + b).without(b), a), ((a + b) - a, b), (a + b + c - b, a + c)]:
        assert all(x.same(y) for x, y in zip(left.updates, expected.updates, strict=True))
    with pytest.raises(OptionError, match="not part of this one"):
        (a + b).without(c)
    with pytest.raises(OptionError, match="nothing would be left"):
        a.without(a)
    with pytest.raises(OptionError, match="and this one does not"):
        edit(model, modules=("first",)).without(edit(model, modules=("second",)))


def test_two_edits_applied_are_solved_together_and_undone_one_by_one():
    model = block()
    x = draw(3, 4, 12).float()
    plain, a, b = model(x), edit(model, 1), edit(model, 10)
    with a.applied(model):
        only_a = model(x)
        # Solved while a is applied, it is the same edit: the base is the base.
        later = edit(model, 10)
        assert all(u.same(v) for u, v in zip(later.updates, b.updates, strict=True))
        with later.applied(model):
            both = model(x)
            a.revert(model)
            only_b = model(x)
            a.apply(model)
        assert torch.equal(model(x), only_a)
    with (a + b).applied(model):
        torch.testing.assert_close(model(x), both)
    with b.applied(model):
        assert torch.equal(model(x), only_b)
    assert torch.equal(model(x), plain)
    assert min((p - q).abs().max() for p, q in [(plain, both), (only_a, both), (only_a, only_b)]) > 0.05


def test_an_edit_is_carried_whole_or_not_at_all():
    model = block()
    a = edit(model, 1, modules=("second",))
    b = WeightEdit.of(
        model, [*edit(model, 10, modules=("first",)).updates, *edit(model, 11, ridge=9, modules=("second",)).updates]
    )
    weight = model.first.weight
    with a.applied(model):
        with pytest.raises(OptionError, match=r"second have ridges 0\.5 and 9"):
            b.apply(model)
        assert model.first.weight is weight
    with pytest.raises(OptionError, match="have ridges"):
        a + b


def test_applying_twice_and_reverting_what_is_not_applied():
    model = block()
    a, b = edit(model, 1), edit(model, 10)
    with pytest.raises(OptionError, match="is not applied"):
        a.revert(model)
    with a.applied(model):
        with pytest.raises(OptionError, match="applied already"):
            a.apply(model)
        with pytest.raises(OptionError, match="is not applied"):
            b.revert(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_fingerprint_knows_the_base_in_another_precision_and_no_other_base(dtype):
    base = block()
    a = edit(base)
    with a.applied(copy.deepcopy(base).to(dtype)):
        pass
    tuned = block()
    tuned.first.weight += 0.02 * torch.randn_like(tuned.first.weight)
    wider = block()
    wider.first = nn.Linear(12, 10)
    for other in (block(seed=1), tuned, tuned.to(dtype), wider):
        with pytest.raises(ModelError, match=r"another base model: here first has (other weights|weights of shape)"):
            a.apply(other)
        assert not hasattr(other.first, "_pellucid_carried")
    with pytest.raises(ModelError, match="different base models"):
        a + edit(block(seed=1), 10)


def test_fingerprint_is_of_the_base_even_if_it_carries_an_edit():
    model = block()
    a, b = edit(model, 1), edit(model, 10)
    before = Fingerprint.of(model, "first")
    with a.applied(model):
        assert torch.equal(Fingerprint.of(model, "first").sample, before.sample)
        with b.applied(model):
            pass
    # A model with the edit written into its weights for good is another base.
    a.apply(model)
    baked = block(seed=3)
    baked.load_state_dict(model.state_dict())
    with pytest.raises(ModelError, match="another base"):
        b.apply(baked)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_base(dtype):
    exact, half = block(), block(dtype=dtype)
    x = draw(3, 6, 12)
    a = edit(exact)
    with a.applied(exact), a.applied(half):
        assert half.first.weight.dtype == dtype
        difference = (half(x.to(dtype)).float() - exact(x.float())).abs().max()
    assert difference < 30 * torch.finfo(dtype).eps
    # Solved on the half-precision model, it is nearly the same edit.
    for u, v in zip(edit(half).updates, a.updates, strict=True):
        assert (delta(u) - delta(v)).norm() < 8 * torch.finfo(dtype).eps * delta(v).norm()


def test_a_model_cast_or_copied_while_edited_still_reverts():
    model = block()
    weight = model.first.weight.clone()
    a = edit(model)
    a.apply(model)
    twin = copy.deepcopy(model)
    model.to(torch.bfloat16)
    a.revert(model)
    assert torch.equal(model.first.weight, weight.bfloat16())
    a.revert(twin)
    assert torch.equal(twin.first.weight, weight)


def test_a_tied_weight_is_changed_in_the_named_module_only():
    model = block(inputs=9)
    model.tied = nn.Linear(9, 9)
    model.tied.weight = model.first.weight
    before = model.tied.weight.clone()
    a = edit(model, modules=("first",))
    with a.applied(model):
        assert torch.equal(model.tied.weight, before)
        assert not torch.equal(model.first.weight, before)
    assert model.tied.weight is model.first.weight


def offloaded(model, where, folder):
    from accelerate import cpu_offload, disk_offload, dispatch_model

    if where == "cpu":
        cpu_offload(model, execution_device="cpu")
    elif where == "disk":
        disk_offload(model, folder, execution_device="cpu")
    else:
        dispatch_model(
            model, {"first": "disk", "second": "cpu"}, main_device="cpu", offload_dir=folder, force_hooks=True
        )
    assert model.first.weight.is_meta
    return model


@pytest.mark.parametrize("where", ["cpu", "disk", "dispatched"])
def test_offloaded_modules_get_a_hook_with_the_same_effect(where, tmp_path):
    plain, away = block(), offloaded(block(), where, str(tmp_path))
    x = draw(3, 6, 12).float()
    a, b = edit(plain, 1), edit(plain, 10)
    before = away(x)
    for u, v in zip(edit(away, 1).updates, a.updates, strict=True):
        torch.testing.assert_close(u.residuals, v.residuals, atol=1e-6, rtol=0)
    with a.applied(plain), a.applied(away):
        torch.testing.assert_close(away(x), plain(x), atol=1e-6, rtol=1e-6)
        assert (away(x) - before).abs().max() > 0.05
        for u, v in zip(edit(away, 10).updates, b.updates, strict=True):
            torch.testing.assert_close(u.residuals, v.residuals, atol=1e-6, rtol=0)
        with b.applied(plain), b.applied(away):
            torch.testing.assert_close(away(x), plain(x), atol=1e-6, rtol=1e-6)
    assert torch.equal(away(x), before)
    assert hooks(away) == 0


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_modules_get_a_hook(bits):
    from pellucid.core.quiet import import_bitsandbytes

    bnb = import_bitsandbytes()
    plain, small = block(inputs=64, outputs=128), block(inputs=64, outputs=128)
    if bits == "8bit":
        small.first = bnb.nn.Linear8bitLt(64, 128, has_fp16_weights=False)
    else:
        small.first = bnb.nn.Linear4bit(64, 128, quant_type="nf4")
        small.first.support_avx512bf16_for_cpu = False
    small.first.load_state_dict(plain.first.state_dict())
    small = small.to("cpu").eval().requires_grad_(False)
    x = draw(3, 6, 64).float()
    before = small(x)
    mark = Fingerprint.of(small, "first")
    assert mark.dtype == bits
    a = edit(plain, modules=("first",))
    with a.applied(small):
        added = small.first(x) - small.first.forward(x)
        torch.testing.assert_close(added, x @ delta(a.updates[0]).float().T, atol=1e-4, rtol=1e-4)
    assert torch.equal(small(x), before)
    assert hooks(small) == 0
    other = block(seed=5, inputs=64, outputs=128)
    with pytest.raises(ModelError, match="another base"):
        edit(other, modules=("first",)).apply(small)
    # The solver sees the quantised weight through the module itself.
    keys, values = draw(1, 3, 64), draw(2, 3, 128)
    with WeightEdit.of(small, [solve(small, "first", keys, values, 1e-6)]).applied(small):
        torch.testing.assert_close(small.first(keys.float()).double(), values, atol=1e-3, rtol=1e-3)


def test_a_model_offloaded_after_the_edit_says_so(tmp_path):
    model = block()
    a = edit(model)
    a.apply(model)
    offloaded(model, "cpu", str(tmp_path))
    with pytest.raises(ModelError, match="offloaded or wrapped after"):
        a.revert(model)


def test_find_part():
    class Pipeline:
        def __init__(self):
            self.unet = block()
            self.scheduler = object()

        @property
        def components(self):
            return {"unet": self.unet, "scheduler": self.scheduler}

    pipe = Pipeline()
    assert find_part(pipe, "unet.first") is pipe.unet.first
    assert find_part(pipe, "unet") is pipe.unet
    with pytest.raises(SiteError, match=r"no part 'unett' .* near are unet"):
        find_part(pipe, "unett.first")
    with pytest.raises(SiteError, match="no part 'scheduler'"):
        find_part(pipe, "scheduler")
    with pytest.raises(SiteError, match="nearest are first"):
        find_part(pipe, "unet.frist")
    weight = pipe.unet.first.weight
    with edit(pipe, modules=("unet.first",)).applied(pipe):
        assert pipe.unet.first.weight is not weight
    assert pipe.unet.first.weight is weight


def test_bad_input():
    model = block()
    keys, values = draw(1, 3, 12), draw(2, 3, 9)
    for ridge in (0.0, -1.0, float("nan")):
        with pytest.raises(OptionError, match="give a number above 0"):
            solve(model, "first", keys, values, ridge)
    with pytest.raises(DataError, match=r"not \(3, 9\)"):
        solve(model, "first", keys, values[:2], 1.0)
    with pytest.raises(DataError, match=r"not \(3, 9\)"):
        solve(model, "first", keys, values[:, :4], 1.0)
    with pytest.raises(SiteError, match=r"not \(n, 12\)"):
        solve(model, "first", keys[:, :4], values, 1.0)
    with pytest.raises(DataError, match="give one row a key"):
        solve(model, "first", keys[:0], values[:0], 1.0)
    with pytest.raises(DataError, match="not all finite"):
        solve(model, "first", keys, values / 0, 1.0)
    with pytest.raises(DataError, match="3 keys and 2 residuals"):
        LowRankUpdate("first", keys, values[:2], 1.0)
    with pytest.raises(SiteError, match="only linear layers"):
        solve(nn.Sequential(nn.LayerNorm(12)), "0", keys, values, 1.0)
    with pytest.raises(OptionError, match="raise the ridge"):
        LowRankUpdate("first", torch.ones(2, 12) * 1e9, values[:2], 1e-9).up  # noqa: B018
    with pytest.raises(OptionError, match="one update a module"):
        WeightEdit((), {})
    with pytest.raises(OptionError, match="one update a module"):
        WeightEdit.of(model, [])
    with torch.device("meta"):
        empty = nn.Linear(12, 9)
    with pytest.raises(ModelError, match="is on no device"):
        solve(nn.Sequential(empty), "0", keys, values, 1.0)
