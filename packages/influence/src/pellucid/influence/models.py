"""The thesis's model families by name, small enough to retrain, and torchvision's own where there is room for them."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, cast

import torch
from pellucid.core.errors import ModelError, OptionError
from torch import Tensor, nn
from torch.nn import functional

from .objective import LossFunction

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}

Nonlinearity = Literal["relu", "tanh", "sigmoid"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelChoice:
    """Which model, for points of which shape: enough to build the same one again in another process.

    Attributes:
        name: one of `NAMES`, or `module:function` of an installed module, called as `function(shape, classes,
            **options)`, for a model of one's own.
        shape: of one point, such as (4,) or (1, 28, 28).
        classes: number of outputs; 1 for a regression.
        seed: of the initial weights.
        options: further arguments of the model, such as `{"depth": 2, "width": 5}`.
    """

    name: str
    shape: Shape
    classes: int
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


def build_model(
    choice: ModelChoice, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
) -> nn.Module:
    """Build a model in `eval` mode; the same choice gives the same weights, whatever else drew random numbers.

    Every model takes a batch (n, *shape) and returns logits (n, classes).

    Raises:
        OptionError: there is no such model, or its options do not fit.
        ModelError: a library is missing, or the points are too small for the model.
    """
    if choice.classes < 1 or not choice.shape or min(choice.shape) < 1:
        raise OptionError(f"a model for points of shape {choice.shape} and {choice.classes} classes cannot be built")
    factory = _FACTORIES.get(choice.name) or _own(choice.name, "model", _FACTORIES)
    # Drawn in float32 and then widened, so that a float32 and a float64 model start alike.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(choice.seed)
        try:
            model = factory(choice.shape, choice.classes, **choice.options)
        except TypeError as error:
            raise OptionError(f"model {choice.name!r} does not take {choice.options}: {error}") from error
    return model.to(device=device, dtype=dtype).eval()


def build_loss(name: str) -> LossFunction:
    """Return a loss by name: from outputs (n, classes) and targets (n,) to one number a point, (n,).

    `cross_entropy` takes classes; `squared` is half the squared error, of one output or summed over several.
    `module:function` names a function of one's own.

    Raises:
        OptionError: there is no such loss.
    """
    return _LOSSES.get(name) or _own(name, "loss", _LOSSES)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets.reshape(len(targets), -1)).square().sum(dim=1)


_LOSSES: dict[str, LossFunction] = {"cross_entropy": _cross_entropy, "squared": _squared}


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def logistic(shape: Shape, classes: int, bias: bool = True) -> nn.Module:
    """Multinomial logistic regression: one linear layer over the flattened point, for a softmax.

    A softmax does not change when one vector is added to all classes' weights, so that without a regulariser the
    optimum is a subspace and the Hessian is singular along it (dimension features + 1). Any l2 > 0 on all parameters,
    the bias included, singles out the one of least norm; with l2 = 0, damp inverse-Hessian products (losses do not
    feel the direction). With `classes=1` it is linear regression.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes, bias=bias))


def mlp(shape: Shape, classes: int, depth: int = 1, width: int = 5, activation: str = "relu") -> nn.Module:
    """A feed-forward network with `depth` hidden layers of one width.

    Thesis 3.10.1 has depth 1, width 5 and ReLU on Iris, and varies all three; 3.5 has two hidden layers of sigmoids.
    """
    _at_least(1, depth=depth, width=width)
    layers: list[nn.Module] = [nn.Flatten()]
    before = prod(shape)
    for _ in range(depth):
        layers += [nn.Linear(before, width), _activation(activation)]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, classes))


def small_cnn(shape: Shape, classes: int, width: int = 8, activation: str = "tanh") -> nn.Module:
    """The all-convolutional network of Koh and Liang (2017), six convolutions deep (thesis 3.10.2).

    Two 3x3 convolutions a stage, every second of stride 2, then a 1x1 convolution to the classes, the mean over
    places, and a linear layer: 2,616 parameters for ten classes of one-channel images.
    """
    _at_least(1, width=width)
    channels, _, _ = _image(shape)
    layers: list[nn.Module] = []
    for stride in (1, 2, 1, 2, 1):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1), _activation(activation)]
        channels = width
    layers += [nn.Conv2d(width, classes, 1), _activation(activation), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(classes, classes))


def lenet(shape: Shape, classes: int, activation: str = "relu") -> nn.Module:
    """LeNet-5 on unpadded images: 44,426 parameters for ten classes of 1x28x28 (thesis table 3.1: 44k).

    Pooling takes means, as in LeCun et al. (1998), which has second derivatives everywhere.
    """
    channels, height, width = _image(shape)
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    if min(rows, columns) < 1:
        raise ModelError(f"lenet needs images of at least 16x16, not {height}x{width}: choose small_cnn")
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5), _activation(activation), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), _activation(activation), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(16 * rows * columns, 120), _activation(activation),
        nn.Linear(120, 84), _activation(activation), nn.Linear(84, classes),
    )  # fmt: skip


def narrow_vgg(shape: Shape, classes: int, width: int = 8, depth: int = 2, activation: str = "relu") -> nn.Module:
    """A VGG with few channels: three stages of `depth` 3x3 convolutions (width, 2 width, 4 width), means between them.

    No batch normalisation, so that each point has a loss of its own: 18,370 parameters as it stands for ten classes
    of one channel. Convolutions start as torchvision's VGG has them (He et al., 2015, by outputs; biases 0): from
    `Conv2d`'s own, smaller weights signals fade over the depth, the loss's gradient in the first three layers is 4 to
    14 % of weight decay's (of 0.001, on MNIST), and decay takes all weights to zero before anything is learnt.
    """
    _at_least(1, width=width, depth=depth)
    channels, height, columns = _image(shape)
    layers: list[nn.Module] = []
    for stage in range(3):
        for _ in range(depth):
            bend = _activation(activation)
            layers += [_kaiming(nn.Conv2d(channels, width << stage, 3, padding=1), activation), bend]
            channels = width << stage
        if stage < 2 and min(height, columns) >= 2 << stage:
            layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class _Residual(nn.Module):
    """Two 3x3 convolutions added to their input; a 1x1 convolution where sizes change; no normalisation."""

    def __init__(self, before: int, after: int, stride: int, activation: str, scale: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.short = nn.Identity() if before == after and stride == 1 else nn.Conv2d(before, after, 1, stride)
        self.middle, self.last, self.scale = _activation(activation), _activation(activation), scale

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, after, h / stride, w / stride)."""
        return self.last(self.short(x) + self.scale * self.second(self.middle(self.first(x))))


def narrow_resnet(shape: Shape, classes: int, width: int = 8, depth: int = 1, activation: str = "relu") -> nn.Module:
    """A residual network with few channels: three stages of `depth` blocks (width, 2 width, 4 width).

    No batch normalisation, so that each point has a loss of its own; branches are scaled by 1 / sqrt(blocks) instead,
    which keeps activations of one size over the depth. 19,642 parameters as it stands for ten classes of one channel.
    """
    _at_least(1, width=width, depth=depth)
    channels, _, _ = _image(shape)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), _activation(activation)]
    before, scale = width, (3 * depth) ** -0.5
    for stage in range(3):
        for place in range(depth):
            stride = 2 if stage and not place else 1
            layers.append(_Residual(before, width << stage, stride, activation, scale))
            before = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class _ThreeChannels(nn.Module):
    """Repeats a single channel three times and pads small images with zeros; it has no parameters."""

    def __init__(self, channels: int, height: int, width: int, least: int) -> None:
        super().__init__()
        self.repeat = 3 if channels == 1 else 1
        down, across = max(0, least - height), max(0, least - width)
        self.pad = nn.ZeroPad2d((across // 2, across - across // 2, down // 2, down - down // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1 or 3, h, w) to (n, 3, at least `least`, at least `least`)."""
        return self.pad(x.repeat(1, self.repeat, 1, 1))


def torchvision_model(shape: Shape, classes: int, architecture: str) -> nn.Module:
    """Torchvision's own VGG or ResNet (thesis table 3.1), its class untouched, behind a front without parameters.

    The front repeats a single channel three times and pads images to 32x32, the least that five halvings leave
    something of. Dropout is 0. `vgg14` is not in torchvision's list: its VGG class with one convolution more than
    `vgg13` in the last stage.

    BatchNorm is FROZEN: the model is in `eval` mode, where it is a fixed affine map, since in training mode a point's
    loss would depend on its batch and have no influence of its own. A new model's BatchNorm passes its input on;
    `calibrate_batchnorm` gives it the data's means and variances.
    """
    channels, height, width = _image(shape)
    if channels not in (1, 3):
        raise ModelError(f"{architecture} takes images of 1 or 3 channels, not {channels}")
    try:
        models = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ModelError(f'{architecture} is torchvision\'s: pip install "pellucid-influence[paper]"') from error
    front = _ThreeChannels(channels, height, width, 32)
    if architecture.startswith("resnet"):
        return nn.Sequential(front, getattr(models, architecture)(weights=None, num_classes=classes))
    plan = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]
    if architecture == "vgg14":
        plan.insert(-1, 512)
    features = models.vgg.make_layers(plan, batch_norm=False)
    return nn.Sequential(front, models.VGG(features, num_classes=classes, dropout=0.0))


def calibrate_batchnorm(model: nn.Module, inputs: Tensor, batch: int = 256) -> int:
    """Set every BatchNorm's mean and variance to the data's, as one pass in training mode finds them; freeze them.

    Args:
        model: changed in place, and left in `eval` mode.
        inputs: (n, ...).
        batch: points a forward pass.

    Returns:
        How many layers were set.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over the batches
        layer.train()
    with torch.no_grad():
        for part in inputs.split(batch) if layers else ():
            model(part)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum
    model.eval()
    return len(layers)


def _vision(architecture: str) -> Callable[..., nn.Module]:
    return lambda shape, classes: torchvision_model(shape, classes, architecture)


_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "small_cnn": small_cnn,
    "lenet": lenet,
    "narrow_vgg": narrow_vgg,
    "narrow_resnet": narrow_resnet,
    **{name: _vision(name) for name in ("vgg13", "vgg14", "resnet18", "resnet50")},
}
NAMES = tuple(_FACTORIES)
"""What `build_model` knows by name."""


def _own(name: str, what: str, known: Iterable[str]) -> Callable[..., Any]:
    module, colon, function = name.partition(":")
    if not colon:
        raise OptionError(f"there is no {what} {name!r}: choose {', '.join(known)}, or write module:function")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"{what} {name!r} cannot be found ({error}): install its module, check its name") from error
    return found


def _kaiming(layer: nn.Conv2d, activation: str) -> nn.Conv2d:
    """Draw a convolution's weights with variance gain^2 / fan out, so that gradients keep their size; biases are 0."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity=cast(Nonlinearity, activation))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise OptionError(f"there is no activation {name!r}: choose {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ModelError(f"a convolutional model takes images (channels, height, width), not points of shape {shape}")
    return shape[0], shape[1], shape[2]


def _at_least(least: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < least:
            raise OptionError(f"{name} is {value}: it must be {least} or more")
