"""Models by name: sizes, seeds, and derivatives that exist."""

import sys

import pytest
import torch
from pellucid.core.errors import ModelError, OptionError
from pellucid.influence.datasets import load_data
from pellucid.influence.descent import Recipe
from pellucid.influence.jobs import accuracy
from pellucid.influence.models import (
    NAMES,
    ModelChoice,
    build_loss,
    build_model,
    calibrate_batchnorm,
    count_parameters,
)
from pellucid.influence.retraining import TruthJob, train_base
from torch import nn

IMAGE = (1, 28, 28)
PAPER = ("vgg13", "vgg14", "resnet18", "resnet50")
OURS = tuple(name for name in NAMES if name not in PAPER)
COUNTS = {
    "logistic": 7850, "mlp": 3985, "small_cnn": 2616, "lenet": 44_426, "narrow_vgg": 18_370, "narrow_resnet": 19_642,
}  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_sizes_seeds_and_one_loss_a_point(name: str) -> None:
    choice = ModelChoice(name, IMAGE, 10)
    model = build_model(choice)
    assert count_parameters(model) == COUNTS[name]
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout) for module in model.modules())
    inputs = torch.rand(3, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = model(inputs)
    assert outputs.shape == (3, 10)
    torch.testing.assert_close(model(inputs[1:2]), outputs[1:2], rtol=0, atol=1e-12)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again = build_model(choice, torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.float(), other)
    other_seed = build_model(ModelChoice(name, IMAGE, 10, seed=1))
    assert not torch.equal(other_seed(inputs), outputs)


def test_the_nets_of_the_thesis() -> None:
    iris = build_model(ModelChoice("mlp", (4,), 3, options={"depth": 1, "width": 5, "activation": "relu"}))
    assert [type(module).__name__ for module in iris] == ["Flatten", "Linear", "ReLU", "Linear"]
    assert count_parameters(iris) == 43
    sigmoid = build_model(ModelChoice("mlp", IMAGE, 10, options={"depth": 2, "width": 8, "activation": "sigmoid"}))
    assert sum(isinstance(module, nn.Sigmoid) for module in sigmoid) == 2
    small = build_model(ModelChoice("small_cnn", IMAGE, 10))
    assert sum(isinstance(module, nn.Conv2d) for module in small) == 6


@pytest.mark.parametrize("name", ["small_cnn", "narrow_vgg", "narrow_resnet"])
def test_convolutions_take_small_and_coloured_images(name: str) -> None:
    for shape in ((1, 8, 8), (3, 32, 32)):
        model = build_model(ModelChoice(name, shape, 4))
        assert model(torch.rand(2, *shape, dtype=torch.float64)).shape == (2, 4)


@pytest.mark.parametrize("name", ["narrow_vgg", "narrow_resnet"])
def test_deep_networks_learn_with_weight_decay(name: str) -> None:
    """From `Conv2d`'s own initial weights decay takes the VGG's to zero, and it stays at chance (0.1)."""
    data = load_data("digits", dtype=torch.float32, limit=500)
    job = TruthJob(data, ModelChoice(name, data.shape, 10), mode="warm", l2=0.001, recipe=Recipe(150, 0.003, batch=64))
    assert (accuracy(train_base(job)[0]) or 0) > 0.6


@pytest.mark.parametrize(("name", "kind"), [("vgg13", "VGG"), ("resnet18", "ResNet")])
def test_torchvision_s_own_classes(name: str, kind: str) -> None:
    models = pytest.importorskip("torchvision.models")
    model = build_model(ModelChoice(name, IMAGE, 10), torch.float32)
    assert type(model[1]) is getattr(models, kind)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == {"vgg13": 10, "resnet18": 20}[name]
    inputs = torch.rand(4, *IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(inputs)
        assert outputs.shape == (4, 10)
        # Frozen BatchNorm, no dropout: a point's output is its own.
        torch.testing.assert_close(model(inputs[2:3]), outputs[2:3], rtol=1e-4, atol=1e-5)


def test_calibrating_batchnorm_gives_it_the_data_s_means() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).eval()
    inputs = torch.tensor([[0.0, 4.0], [2.0, 4.0], [4.0, 10.0], [6.0, 10.0]])
    assert calibrate_batchnorm(model, inputs, batch=4) == 1
    assert model[0].running_mean.tolist() == [3.0, 7.0]
    assert model[0].running_var.tolist() == pytest.approx([20 / 3, 12.0])
    assert not any(module.training for module in model.modules())
    assert model[0].momentum == 0.1


def test_losses_by_hand() -> None:
    squared, entropy = build_loss("squared"), build_loss("cross_entropy")
    assert squared(torch.tensor([[1.0], [5.0]]), torch.tensor([3.0, 5.0])).tolist() == [2.0, 0.0]
    logits = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    expected = [torch.log(torch.tensor(2.0)).item(), torch.log1p(torch.exp(torch.tensor(1.0))).item()]
    assert entropy(logits, torch.tensor([1, 0])).tolist() == pytest.approx(expected)
    assert build_loss("torch.nn.functional:mse_loss") is torch.nn.functional.mse_loss
    with pytest.raises(OptionError, match="no loss 'hinge': choose cross_entropy, squared"):
        build_loss("hinge")


def test_a_model_of_one_s_own() -> None:
    # Any function found by its module and name: here one of this package itself.
    choice = ModelChoice("pellucid.influence.models:mlp", (4,), 2, options={"width": 3})
    assert count_parameters(build_model(choice)) == 4 * 3 + 3 + 3 * 2 + 2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (ModelChoice("vgg99", IMAGE, 10), "no model 'vgg99': choose logistic, mlp"),
        (ModelChoice("absent.module:make", IMAGE, 10), "cannot be found"),
        (ModelChoice("mlp", (4,), 3, options={"deep": 2}), "does not take"),
        (ModelChoice("mlp", (4,), 3, options={"depth": 0}), "depth is 0"),
        (ModelChoice("mlp", (4,), 3, options={"activation": "step"}), "no activation 'step'"),
        (ModelChoice("small_cnn", (4,), 3), r"not points of shape \(4,\)"),
        (ModelChoice("lenet", (1, 8, 8), 3), "at least 16x16, not 8x8"),
        (ModelChoice("resnet18", (2, 32, 32), 3), "1 or 3 channels, not 2"),
        (ModelChoice("mlp", (4,), 0), "cannot be built"),
    ],
)
def test_choices_that_cannot_be_built(choice: ModelChoice, message: str) -> None:
    with pytest.raises((OptionError, ModelError), match=message):
        build_model(choice)


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ModelError, match=r'pip install "pellucid-influence\[paper\]"'):
        build_model(ModelChoice("resnet18", IMAGE, 10))
