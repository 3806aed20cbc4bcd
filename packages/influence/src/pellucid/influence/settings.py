"""The fragility study's settings (thesis 3.10): at the zoo's scale, and at the thesis's own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pellucid.core.errors import DataError, OptionError

from .descent import Recipe

TESTS = ("highest-loss", "median-loss")
"""The thesis's two test points: A, of the highest loss, and B, at the 50th percentile."""

IRIS_TOP = 1 / 6
"""Share of Iris's training points, the most influential ones, that correlations are taken over (thesis: 16.6%)."""

DECAY = 0.001
"""The thesis's factor of weight decay."""

FACTORS = (0.0001, 0.01, 0.1)
"""The other factors of fig. 3.5 c."""

CG_STEPS = 1000
"""Conjugate-gradient steps, at most: the small CNN and LeNet reach the solver's tolerance within them."""

DEEP_CG_STEPS = 100
"""The same for `DEEP` networks, where a thousand take tens of minutes a test point on one CPU thread."""

DEEP = ("narrow_vgg", "narrow_resnet")
"""Networks whose conjugate gradients stop at `DEEP_CG_STEPS`, with what residual they leave reported, and which are not
retrained without points at the 30th percentile of influence, as the thesis's deep networks are not."""

Option = tuple[str, int | str]


@dataclass(frozen=True)
class StudySetting:
    """One network on one data set with one seed: the study's unit of work. Every field enters its key.

    Attributes:
        model: see `models`; `options` are its further arguments.
        data: a name or a file, see `load_data`; `content` is the file's hash.
        l2: weight decay, as (l2 / 2) |theta|^2; 0 is without.
        seed: of split, initial weights, and order of batches.
        recipe: how the model is trained; `retraining`: how it goes on without a point.
        top: how many of the most influential training points are retrained without.
        low: how many at the 30th percentile of influence.
        damping: added to the Hessian's diagonal.
        solver: exact, cg or lissa.
        cg_steps: of conjugate gradients, at most; what they leave is the row's `residual`.
        curvature: also measure the top eigenvalue, parameter changes and (with an exact solver) the error of
            stochastic estimation.
        lissa_steps: of the stochastic estimation, in each of two repeats.
        single: compute in float32.
        limit: use only so many training points.
        tests: which test points, see `jobs.pick_test`.
    """

    model: str
    options: tuple[Option, ...]
    data: str
    l2: float
    seed: int
    recipe: Recipe
    retraining: Recipe
    top: int
    low: int
    damping: float
    solver: str = "exact"
    cg_steps: int = CG_STEPS
    curvature: bool = True
    lissa_steps: int = 1000
    single: bool = False
    limit: int | None = None
    tests: tuple[str, ...] = TESTS
    content: str = ""

    @property
    def label(self) -> str:
        """What tells it from others, whatever its seed, such as `iris mlp tanh depth 1 width 5, decay 0.001`."""
        words = [str(value) if name == "activation" else f"{name} {value}" for name, value in self.options]
        decay = f"decay {self.l2:g}" if self.l2 else "no decay"
        return " ".join([Path(self.data).stem, self.model, *words]) + f", {decay}"

    @property
    def is_convolutional(self) -> bool:
        """Whether the model takes images apart by convolutions."""
        return self.model not in ("mlp", "logistic")


def iris_settings(scale: str = "zoo", seeds: Sequence[int] = range(5)) -> list[StudySetting]:
    """Return thesis 3.10.1: feed-forward networks on Iris over depth, width, weight decay and activation.

    `paper` has the thesis's 60,000 full-batch steps of gradient descent and 7,500 of retraining. `zoo` reaches an
    optimum in 2,500 steps of Adam and retrains for 600 full-batch steps with momentum.

    Args:
        scale: zoo or paper.
        seeds: each setting is repeated with each.
    """
    check_scale(scale)
    if scale == "paper":
        recipe, retraining = Recipe(60_000, 0.05, "gd"), Recipe(7500, 0.05, "gd")
        depths, widths, steps = [1, 2, 3, 4, 5, 6, 7, 8], [5, 8, 10, 15, 20, 30, 40, 50], 2000
    else:
        recipe, retraining = Recipe(2500, 0.02, "adam", schedule="cosine"), Recipe(600, 0.05, "sgd")
        depths, widths, steps = [1, 3, 5, 8], [5, 20, 50], 600
    shapes = [("tanh", depth, 5, DECAY) for depth in depths]
    shapes += [("tanh", 1, width, DECAY) for width in widths if width != 5]
    shapes += [("tanh", 1, 5, 0.0), ("relu", 1, 5, DECAY), ("relu", 1, 5, 0.0)]
    return [
        StudySetting(
            "mlp", (("activation", activation), ("depth", depth), ("width", width)), "iris", l2, seed, recipe,
            retraining, top=round(IRIS_TOP * 120), low=20, damping=0.001, lissa_steps=steps,
        )
        for seed in seeds
        for activation, depth, width, l2 in shapes
    ]  # fmt: skip


def digits_settings(seeds: Sequence[int] = range(5)) -> list[StudySetting]:
    """Return feed-forward networks on 1,000 digits of 8x8, exact Hessian: depths 1 and 3, with decay and without."""
    recipe, retraining = Recipe(1500, 0.01, "adam", schedule="cosine"), Recipe(200, 0.05, "sgd")
    return [
        StudySetting(
            "mlp", (("activation", "tanh"), ("depth", depth), ("width", 10)), "digits", l2, seed, recipe, retraining,
            top=20, low=20, damping=0.001, lissa_steps=600, limit=1000,
        )
        for seed in seeds
        for depth in (1, 3)
        for l2 in (DECAY, 0.0)
    ]  # fmt: skip


def image_settings(
    models: Sequence[str],
    seeds: Sequence[int] = (0,),
    factors: Sequence[float] = (DECAY, 0.0),
    cg_steps: int | None = None,
) -> list[StudySetting]:
    """Return table 3.1 at the zoo's scale: small convolutional networks on MNIST-5k, with weight decay and without.

    Retraining takes 6% of the steps, as in the thesis; correlations are over 20 points at each place, where the
    thesis has 100 (small CNN) or 40. As there, deep networks have no points at the 30th percentile.

    Args:
        models: such as small_cnn, lenet, narrow_vgg and narrow_resnet.
        seeds: each setting is repeated with each.
        factors: of weight decay; `(*FACTORS, DECAY)` with the small CNN is fig. 3.5 c.
        cg_steps: instead of `CG_STEPS` and, for `DEEP` networks, `DEEP_CG_STEPS`.
    """
    recipe = Recipe(2000, 0.003, "adam", batch=128, schedule="cosine")
    return [
        StudySetting(
            model, (), "mnist5k", l2, seed, recipe, replace(recipe.share(0.06), lr=0.001), top=20,
            low=0 if model in DEEP else 20, damping=0.01, solver="cg",
            cg_steps=cg_steps or (DEEP_CG_STEPS if model in DEEP else CG_STEPS), curvature=False, single=True,
            limit=1000,
        )
        for seed in seeds
        for model in models
        for l2 in factors
    ]  # fmt: skip


def paper_settings(
    models: Sequence[str], data: str | Path, seeds: Sequence[int] = (0,), steps: int | None = None
) -> list[StudySetting]:
    """Return table 3.1 at the thesis's scale: its architectures (torchvision's own classes) on data of yours.

    The small CNN has the thesis's 500,000 steps, 30,000 of retraining, and 100 points at either place; the others
    retrain for 6% of their steps without the 40 most influential points; `imagenet` is ResNet-50 with 5% and 50.
    Weight decay is 0.001 and damping 0.01. The thesis says neither how many steps the deep networks have, nor their
    learning rates: 20,000 steps of Adam stand for them.

    Args:
        models: small_cnn, lenet, vgg13, vgg14, resnet18, resnet50, or imagenet.
        data: an .npz or .safetensors file of images, see `load_data`.
        seeds: each setting is repeated with each.
        steps: instead of those above.
    """
    content = _content(data)
    found = []
    for model in models:
        small, imagenet = model == "small_cnn", model == "imagenet"
        recipe = Recipe(steps or (500_000 if small else 20_000), 0.001, "adam", batch=128, schedule="cosine")
        share = 0.05 if imagenet else 0.06
        found += [
            StudySetting(
                "resnet50" if imagenet else model, (), str(data), l2, seed, recipe, recipe.share(share),
                top=100 if small else 50 if imagenet else 40, low=100 if small else 0, damping=0.01, solver="lissa",
                curvature=False, lissa_steps=5000, single=True, content=content,
            )
            for seed in seeds
            for l2 in (DECAY, 0.0)
        ]  # fmt: skip
    return found


def check_scale(scale: str) -> None:
    """Raise where there is no such scale."""
    if scale not in ("zoo", "paper"):
        raise OptionError(f"there is no scale {scale!r}: choose zoo or paper")


def _content(data: str | Path) -> str:
    """The file's hash, so that a study of other images under the same name starts anew."""
    try:
        with Path(data).expanduser().open("rb") as held:
            return hashlib.file_digest(held, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{data} cannot be read ({error.strerror}): give an .npz or .safetensors of images") from error
