"""`pellucid influence`: which training data a prediction rests on, checked by retraining without it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pellucid.core.cli import DATA, Address, Fresh, Json, Out, Seed, Workers, finish
from pellucid.core.errors import OptionError

if TYPE_CHECKING:
    from .jobs import Problem

app = typer.Typer(
    rich_help_panel=DATA,
    help="Which training data a prediction rests on.",
    no_args_is_help=True,
)

Data = Annotated[
    str, typer.Option("--data", metavar="DATA", help="iris, digits, mnist5k, gaussian, blobs, or an .npz FILE.")
]
ModelName = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="logistic, mlp, small_cnn, lenet, ..., or module:function.")
]
TestPoint = Annotated[
    str, typer.Option("--test-point", metavar="POINT", help="A test point's row, highest-loss or median-loss.")
]
L2 = Annotated[float, typer.Option("--l2", min=0, help="Strength of the regulariser (l2 / 2) |theta|^2.")]
Convention = Annotated[
    str, typer.Option("--convention", help="mean: removed points take their share of the regulariser; sum: they don't.")
]
Damping = Annotated[float, typer.Option("--damping", min=0, help="Added to the Hessian's diagonal.")]
SolverName = Annotated[str, typer.Option("--solver", help="auto, exact, cg or lissa.")]
Groups = Annotated[str, typer.Option("--groups", help="random, coherent (of one class), cluster, or both.")]
Fractions = Annotated[str, typer.Option("--fractions", metavar="LIST", help="Shares of the training data, by commas.")]
Count = Annotated[int, typer.Option("--count", min=1, help="Groups of each kind and fraction.")]
Limit = Annotated[int | None, typer.Option("--limit", min=2, help="Use only so many training points.")]
Depth = Annotated[int | None, typer.Option("--depth", min=1, help="Hidden layers (mlp), or blocks a stage.")]
Width = Annotated[int | None, typer.Option("--width", min=1, help="Units in a hidden layer, or channels.")]
Activation = Annotated[str | None, typer.Option("--activation", help="relu, tanh or sigmoid.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Training steps of a network.")]
Rate = Annotated[float, typer.Option("--lr", help="Learning rate of a network.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Points a step of a network; all if not given.")]
Share = Annotated[float, typer.Option("--share", help="Part of the steps for which a network is retrained.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run again what failed, and only that.")]
FRACTIONS = "0.016,0.05,0.1,0.2,0.3,0.4,0.5,0.6"


@app.command()
def score(
    out: Out,
    data: Data = "digits",
    model: ModelName = "logistic",
    test_point: TestPoint = "highest-loss",
    order: Annotated[int, typer.Option("--order", min=1, max=2, help="1 or 2: first or second order.")] = 1,
    top: Annotated[int, typer.Option("--top", min=1, help="How many to list at either end.")] = 10,
    groups: Annotated[str, typer.Option("--groups", help="none (points), random, coherent, cluster.")] = "none",
    fractions: Fractions = "0.05",
    count: Count = 20,
    l2: L2 = 0.01,
    convention: Convention = "mean",
    damping: Damping = 0.0,
    solver: SolverName = "auto",
    limit: Limit = None,
    depth: Depth = None,
    width: Width = None,
    activation: Activation = None,
    steps: Steps = 3000,
    lr: Rate = 0.01,
    batch: Batch = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Rank training points, or groups of them, by what removing them would do to a test point's loss."""
    from .commands import score_report

    options = _options(depth, width, activation)
    problem = _problem(data, model, options, l2, convention, steps, lr, batch, 0.125, limit, seed)
    chosen = None if groups == "none" else (groups, _numbers(fractions), count)
    finish(
        lambda: score_report(problem, test_point, order=order, top=top, groups=chosen, damping=damping, solver=solver),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def truth(
    out: Out,
    data: Data = "digits",
    model: ModelName = "logistic",
    test_point: TestPoint = "highest-loss",
    groups: Groups = "both",
    fractions: Fractions = FRACTIONS,
    count: Count = 8,
    l2: L2 = 0.01,
    convention: Convention = "mean",
    damping: Damping = 0.0,
    solver: SolverName = "auto",
    limit: Limit = None,
    depth: Depth = None,
    width: Width = None,
    activation: Activation = None,
    steps: Steps = 3000,
    lr: Rate = 0.01,
    batch: Batch = None,
    share: Share = 0.125,
    seed: Seed = 0,
    workers: Workers = 0,
    address: Address = None,
    fresh: Fresh = False,
    retry_failed: Retry = False,
    as_json: Json = False,
) -> None:
    """Retrain without groups, and set first order, second order and one Newton step beside the truth.

    Finished retrainings are kept in DIR/ledger: the same command run again computes only what is missing.
    """
    from .commands import truth_report

    options = _options(depth, width, activation)
    problem = _problem(data, model, options, l2, convention, steps, lr, batch, share, limit, seed)
    numbers = _numbers(fractions)
    finish(
        lambda: truth_report(
            problem, test_point, out / "ledger", groups=groups, fractions=numbers, count=count, damping=damping,
            solver=solver, workers=workers, address=address, retry_failed=retry_failed,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def select(
    out: Out,
    data: Data = "blobs",
    model: ModelName = "logistic",
    test_point: TestPoint = "highest-loss",
    size: Annotated[int, typer.Option("--size", "-k", min=1, help="Points in the group.")] = 200,
    direction: Annotated[str, typer.Option("--direction", help="increase or decrease: the test loss.")] = "increase",
    l2: L2 = 0.01,
    convention: Convention = "mean",
    damping: Damping = 0.0,
    solver: SolverName = "auto",
    limit: Limit = None,
    depth: Depth = None,
    width: Width = None,
    activation: Activation = None,
    steps: Steps = 3000,
    lr: Rate = 0.01,
    batch: Batch = None,
    share: Share = 0.125,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Repeat with so many seeds, for an interval.")] = 1,
    seed: Seed = 0,
    workers: Workers = 0,
    address: Address = None,
    fresh: Fresh = False,
    retry_failed: Retry = False,
    as_json: Json = False,
) -> None:
    """Find the most influential group of a size, three ways, and judge each by retraining without it."""
    from .selecting import select_report

    options = _options(depth, width, activation)
    problem = _problem(data, model, options, l2, convention, steps, lr, batch, share, limit, seed)
    finish(
        lambda: select_report(
            problem, test_point, out / "ledger", size=size, direction=direction, damping=damping, solver=solver,
            seeds=seeds, workers=workers, address=address, retry_failed=retry_failed,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def study(
    out: Out,
    scale: Annotated[str, typer.Option("--scale", help="zoo (minutes on two cores) or paper.")] = "zoo",
    settings: Annotated[
        str,
        typer.Option("--settings", metavar="NAMES", help="iris, digits, mnist5k, decay, small_cnn, ... by commas."),
    ] = "iris",
    data: Annotated[str | None, typer.Option("--data", metavar="FILE", help="Images, for --scale paper.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Repeat each setting with so many seeds.")] = 5,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Instead of the thesis's, for images.")] = None,
    cg_steps: Annotated[
        int | None,
        typer.Option("--cg-steps", min=1, help="Conjugate-gradient steps at most, for MNIST-5k (1000; deep: 100)."),
    ] = None,
    seed: Seed = 0,
    workers: Workers = 0,
    address: Address = None,
    fresh: Fresh = False,
    retry_failed: Retry = False,
    as_json: Json = False,
) -> None:
    """Measure how fragile influence is on deep networks: depth, width, weight decay, solver, test point.

    Finished settings are kept in DIR, and within a setting finished retrainings: run again, it goes on.
    """
    from .commands import study_report

    names = [name.strip() for name in settings.split(",") if name.strip()]
    finish(
        lambda: study_report(
            names, out, scale=scale, data=data, seeds=seeds, steps=steps, cg_steps=cg_steps, seed=seed,
            workers=workers, address=address, retry_failed=retry_failed,
        ),
        out, fresh, as_json,
    )  # fmt: skip


def _problem(
    data: str, model: str, options: dict[str, Any], l2: float, convention: str, steps: int, lr: float,
    batch: int | None, share: float, limit: int | None, seed: int,
) -> "Problem":  # fmt: skip
    from .jobs import Problem

    if convention not in ("mean", "sum"):
        raise OptionError(f"there is no convention {convention!r}: choose mean or sum")
    return Problem(
        data, model, options, l2, convention,  # type: ignore[arg-type]
        steps=steps, lr=lr, batch=batch, share=share, limit=limit, seed=seed,
    )  # fmt: skip


def _options(depth: int | None, width: int | None, activation: str | None) -> dict[str, Any]:
    given = {"depth": depth, "width": width, "activation": activation}
    return {name: value for name, value in given.items() if value is not None}


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < 1 for number in numbers):
        raise OptionError(f"fractions are {text!r}: give numbers between 0 and 1 by commas, such as 0.1,0.2")
    return list(dict.fromkeys(numbers))
