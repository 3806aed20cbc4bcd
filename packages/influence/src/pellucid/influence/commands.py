"""What the commands do: each returns the report that it writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pellucid.core.errors import OptionError
from pellucid.core.report import Report, Section, Table

from .compare import compare, test_gradients
from .datasets import Data
from .figures import comparison_section, is_image, pictures, summary
from .jobs import Problem, accuracy, draw_groups, predictions, trained
from .models import build_loss
from .retraining import TruthJob, objective_of
from .scores import group_influence, point_influence
from .settings import (
    FACTORS,
    StudySetting,
    check_scale,
    digits_settings,
    image_settings,
    iris_settings,
    paper_settings,
)
from .study import run_study
from .study_figures import study_results, study_section, study_summary

CNNS = ("small_cnn", "lenet", "narrow_vgg", "narrow_resnet")
PAPER = ("small_cnn", "lenet", "vgg13", "vgg14", "resnet18", "resnet50", "imagenet")


def score_report(
    problem: Problem,
    test_point: str,
    *,
    order: Literal[1, 2] | int = 1,
    top: int = 10,
    groups: tuple[str, Sequence[float], int] | None = None,
    damping: float = 0.0,
    solver: str = "auto",
) -> Report:
    """Rank training points or groups by the predicted change of a test point's loss on removal.

    Args:
        problem: data and model.
        test_point: see `jobs.pick_test`.
        order: 1 or 2.
        top: how many to list at either end.
        groups: kind, fractions and count for `jobs.draw_groups`; None for single points.
        damping: added to the Hessian's diagonal.
        solver: see `solvers.resolve`.

    Raises:
        PellucidError: what is wrong with the data, the model, the options or the Hessian.
    """
    if order not in (1, 2):
        raise OptionError(f"order is {order}: choose 1 or 2")
    data = data_of(problem)
    drawn = None if groups is None else draw_groups(data, *groups, problem.seed)
    job, fit = trained(problem, data, test_point)
    objective = objective_of(job)
    theta, quantities = objective.theta, test_gradients(job, objective, objective.theta)
    if drawn is None and order == 1:
        found: Any = point_influence(objective, theta, quantities, solver=solver, damping=damping)
        changes = found.change[:, 0]
    else:
        rows = [[i] for i in range(objective.n)] if drawn is None else [group.indices for group in drawn]
        found = group_influence(objective, theta, rows, quantities, solver=solver, damping=damping, newton=False)
        changes = (found.first if order == 1 else found.second)[:, 0]
    ranked = changes.argsort(descending=True, stable=True).tolist()
    listed = list(dict.fromkeys([*ranked[:top], *ranked[-top:]]))
    test = test_of(job)
    figures = []
    if drawn is None and is_image(data) and data.classes:
        figures = [pictures(data, test, int(predictions(job)[test]), ranked, changes, min(5, top))]
    what = "point" if drawn is None else "group"
    rank = {row: place + 1 for place, row in enumerate(ranked)}

    def entry(row: int) -> dict[str, Any]:
        if drawn is None:
            label = data.targets[row].item()
            return {"rank": rank[row], "point": row, "label": label, "change": float(changes[row])}
        group = drawn[row]
        return {
            "rank": rank[row], "group": row, "size": len(group.indices), "fraction": group.fraction,
            "kind": group.kind, "change": float(changes[row]), "points": group.indices,
        }  # fmt: skip

    entries = [entry(row) for row in listed]
    columns = [name for name in entries[0] if name != "points"]
    table = Table(
        "ranking", columns, [[e[name] for name in columns] for e in entries],
        f"Training {what}s by the change of the test point's loss that removing them would bring, to order {order}: "
        f"the {top} largest, then the {top} smallest.",
    )  # fmt: skip
    most = entries[0]
    sentence = (
        f"Removing training {what} {most[what]} would change the loss of test point {test} by {most['change']:+.3g}, "
        f"more than any other of {len(ranked)} {what}s (order {order}; gradient norm {fit.gradient_norm:.2g})."
    )
    text = [
        sentence,
        f"{described(problem, job)} Influence is exact for removals that change little; `pellucid influence truth` "
        "checks it by retraining.",
    ]
    results = {
        "test": test, "order": order, "ranking": entries, "changes": changes,
        "gradient_norm": fit.gradient_norm, "residual": found.residual, "accuracy": accuracy(job),
    }  # fmt: skip
    if drawn is not None:
        results["groups"] = [
            {
                "size": len(group.indices), "fraction": group.fraction, "kind": group.kind,
                "first": float(found.first[i, 0]), "second": float(found.second[i, 0]), "newton": None, "truth": None,
            }
            for i, group in enumerate(drawn)
        ]  # fmt: skip
    config = config_of(
        problem, test_point=test_point, order=order, top=top, groups=groups, damping=damping, solver=solver
    )
    title = "Influential training data"
    return report_of("score", title, config, problem, [Section(title, text, figures, [table])], results, sentence)


def truth_report(
    problem: Problem,
    test_point: str,
    ledger: Path,
    *,
    groups: str = "both",
    fractions: Sequence[float] = (0.1, 0.2, 0.4),
    count: int = 8,
    damping: float = 0.0,
    solver: str = "auto",
    **options: Any,
) -> Report:
    """Retrain without groups and compare: thesis figures 3.1 and 3.2.

    Args:
        problem: data and model.
        test_point: see `jobs.pick_test`.
        ledger: where finished retrainings are kept.
        groups: see `jobs.draw_groups`, also for `fractions` and `count`.
        fractions: shares of the training data.
        count: groups of each kind and fraction.
        damping: added to the Hessian's diagonal.
        solver: see `solvers.resolve`.
        options: of `leave_out`, such as `workers`.

    Raises:
        PellucidError: what is wrong with the data, the model, the options or the Hessian.
    """
    data = data_of(problem)
    drawn = draw_groups(data, groups, fractions, count, problem.seed)
    job, _ = trained(problem, data, test_point)
    found = compare(job, drawn, ledger, solver=solver, damping=damping, seed=problem.seed, **options)
    section = comparison_section(found)
    section = Section(section.title, [described(problem, job), *section.text], section.figures, section.tables)
    config = config_of(
        problem, test_point=test_point, groups=groups, fractions=fractions, count=count, damping=damping, solver=solver,
        workers=options.get("workers", 0),
    )  # fmt: skip
    results = found.results() | {"accuracy": accuracy(job)}
    return report_of(
        "truth", "Influence against retraining", config, problem, [section], results, summary(found), found.notes
    )


def study_report(
    names: Sequence[str],
    out: Path,
    *,
    scale: str = "zoo",
    data: str | None = None,
    seeds: int = 5,
    steps: int | None = None,
    cg_steps: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Report:
    """Run the fragility study.

    Args:
        names: which settings, see `study_settings`, also for `scale`, `data`, `seeds` and `steps`.
        out: folder of the report and of the ledgers.
        scale: zoo or paper.
        data: images, for `paper`.
        seeds: how many, from `seed` on.
        steps: of training, for images at `paper`.
        cg_steps: of conjugate gradients at most, for images at `zoo`.
        seed: the first, and that of the intervals.
        options: of `run_study`, such as `workers`.

    Raises:
        PellucidError: a setting cannot be, or all failed.
    """
    settings = study_settings(names, scale, data, range(seed, seed + seeds), steps, cg_steps)
    study = run_study(settings, out, **options)
    config = {
        "scale": scale, "settings": list(names), "data": data, "seeds": seeds, "steps": steps,
        "cg_steps": cg_steps, "workers": options.get("workers", 0),
    }  # fmt: skip
    return Report(
        title="How fragile influence is",
        command="influence study",
        config=config,
        seed=seed,
        device="cpu",
        sections=[study_section(study, seed)],
        results=study_results(study, seed),
        summary=study_summary(study, seed),
        notes=study.notes,
    )


def study_settings(
    names: Sequence[str],
    scale: str,
    data: str | None,
    seeds: Sequence[int],
    steps: int | None = None,
    cg_steps: int | None = None,
) -> list[StudySetting]:
    """Return the settings of the names: iris; at the zoo's scale digits, mnist5k (all of `CNNS`), one of these, or
    decay (fig. 3.5 c); at the thesis's one of `PAPER`, with data of yours.

    Raises:
        OptionError: there are no such settings, or data, steps or cg_steps are asked for where they have no place.
        DataError: the data cannot be read.
    """  # noqa: D205
    check_scale(scale)
    known = ("iris", "digits", "mnist5k", *CNNS, "decay") if scale == "zoo" else ("iris", *PAPER)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise OptionError(f"there are no settings {', '.join(unknown)!r} at scale {scale}: choose {', '.join(known)}")
    images = [name for name in names if name != "iris"]
    if scale == "paper" and images and data is None:
        raise OptionError(f"{images[0]} at scale paper needs images: give them with --data FILE")
    if (data is not None or steps is not None) and not (scale == "paper" and images):
        raise OptionError("--data and --steps are for images at --scale paper: leave them out, or add such settings")
    if cg_steps is not None and not (scale == "zoo" and {"mnist5k", "decay", *CNNS} & set(names)):
        raise OptionError("--cg-steps is for MNIST-5k at --scale zoo: leave it out, or add such settings")
    settings = iris_settings(scale, seeds) if "iris" in names else []
    if scale == "zoo":
        models = [name for name in CNNS if name in images or "mnist5k" in images]
        settings += digits_settings(seeds) if "digits" in names else []
        settings += image_settings(models, seeds, cg_steps=cg_steps)
        return settings + (image_settings(["small_cnn"], seeds, FACTORS, cg_steps) if "decay" in names else [])
    return settings + (paper_settings(images, data, seeds, steps) if images and data is not None else [])


def data_of(problem: Problem) -> Data:
    """The problem's data, loaded."""
    from .datasets import load_data

    return load_data(problem.data, seed=problem.seed, limit=problem.limit)


def test_of(job: TruthJob) -> int:
    """Row of the job's one test point."""
    assert job.tests is not None
    return job.tests[0]


def described(problem: Problem, job: TruthJob) -> str:
    """Model, data and test point in two sentences."""
    right = accuracy(job)
    test = test_of(job)
    loss = build_loss(job.loss)
    objective = objective_of(job)
    with torch.no_grad():
        out = objective.forward(objective.theta, job.data.test_inputs[test : test + 1])
        value = float(loss(out, job.data.test_targets[test : test + 1]))
    accurate = (
        f", right on {100 * right:.1f} % of its {len(job.data.test_inputs)} test points" if right is not None else ""
    )
    return (
        f"The model is {problem.model} with {objective.dim} parameters, trained on {objective.n} points of "
        f"{job.data.name} (l2 {problem.l2:g}, convention {problem.convention}){accurate}. The test point is number "
        f"{test}, whose loss is {value:.3g}."
    )


def config_of(problem: Problem, **more: Any) -> dict[str, Any]:
    """What a report says of how it was made."""
    return vars(problem) | more


def report_of(
    command: str, title: str, config: dict[str, Any], problem: Problem, sections: list[Section], results: Any,
    sentence: str, notes: Sequence[str] = (),
) -> Report:  # fmt: skip
    """A report in the form that all these commands share."""
    return Report(
        title=title, command=f"influence {command}", config=config, seed=problem.seed, device="cpu", sections=sections,
        results=results, summary=sentence, notes=notes,
    )  # fmt: skip
