"""`pellucid mllm edit` and `evaluate`: new answers in a model's weights, and what they do to the rest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pellucid.core.cli import Fresh, Json, Out, Seed, finish
from pellucid.core.errors import OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running, takes_model

from .questions import VisualQuestion

if TYPE_CHECKING:
    from .values import Search

Group = Annotated[list[str] | None, typer.Option("--group", metavar="NAME", help="Of questions; repeat it.")]
Count = Annotated[int | None, typer.Option("-n", min=1, help="How many questions, spread over those there are.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Of the search for values.")]
Token = Annotated[
    str, typer.Option("--token", metavar="WHERE", help="constraint (the thesis), or answer: where the answer is said.")
]
Rate = Annotated[float, typer.Option("--rate", min=0, help="Adam's, of the search for values.")]
UnrelatedGroup = Annotated[
    list[str] | None, typer.Option("--unrelated-group", metavar="NAME", help="Of the unrelated ones; repeat it.")
]
UnrelatedCount = Annotated[int, typer.Option("--unrelated-n", min=1, help="How many of them.")]


@takes_model
def edit(
    out: Out,
    image: Annotated[Path | None, typer.Option("--image", metavar="FILE", help="A picture.")] = None,
    question: Annotated[str | None, typer.Option("--question", help="About it.")] = None,
    constraint: Annotated[str, typer.Option("--constraint", help="Its words for what the picture shows.")] = "",
    answer: Annotated[str | None, typer.Option("--answer", help="The one that is wanted.")] = None,
    paraphrase: Annotated[list[str] | None, typer.Option("--paraphrase", help="To ask after it; repeat it.")] = None,
    questions: Annotated[
        Path | None, typer.Option("--questions", metavar="FILE", help="JSON Lines, for many edits at once.")
    ] = None,
    group: Group = None,
    n: Count = None,
    layer: Annotated[int | None, typer.Option("--layer", min=0, help="Whose MLP; an early one if not given.")] = None,
    ridge: Annotated[float, typer.Option("--ridge", min=0, help="Lambda: large ones keep the weights.")] = 0.01,
    steps: Steps = 25,
    rate: Rate = 0.1,
    token: Token = "constraint",
    lora: Annotated[bool, typer.Option("--lora", help="Also write it as PEFT reads it.")] = False,
    before: Annotated[
        Path | None, typer.Option("--edit", metavar="FILE", help="An earlier edit, to which this one is added.")
    ] = None,
    unrelated: Annotated[
        Path | None, typer.Option("--unrelated", metavar="FILE", help="Questions that should stay as they are.")
    ] = None,
    unrelated_group: UnrelatedGroup = None,
    unrelated_n: UnrelatedCount = 100,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    spec: ModelSpec,
) -> None:
    """Give a model new answers in closed form (MultEdit); the edit is a file, with --lora one for other tools, too."""
    from .asking_files import chosen_questions
    from .edit_report import edit_report

    if (question is None) == (questions is None):
        raise OptionError("give --image, --question, --constraint and --answer, or --questions")
    if questions is not None:
        wanted = chosen_questions(questions, group or (), n, visual=token == "constraint")
    else:
        if image is None or answer is None or not constraint or question is None:
            raise OptionError("--question needs --image, --constraint and --answer, too")
        wanted = [VisualQuestion(str(image), question, constraint, (), (answer,), tuple(paraphrase or ()))]
    others = chosen_questions(unrelated, unrelated_group or (), unrelated_n, visual=False) if unrelated else []
    finish(
        lambda: edit_report(
            spec, wanted, out, seed, layer=layer, ridge=ridge, search=_search(steps, rate, token), lora=lora,
            before=before, unrelated=others,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@takes_model
def evaluate(
    questions: Annotated[Path, typer.Option("--questions", metavar="FILE", help="Facts to teach, as JSON Lines.")],
    unrelated: Annotated[
        Path, typer.Option("--unrelated", metavar="FILE", help="Questions that should stay as they are.")
    ],
    out: Out,
    group: Group = None,
    n: Count = None,
    unrelated_group: UnrelatedGroup = None,
    unrelated_n: UnrelatedCount = 100,
    layers: Annotated[str, typer.Option("--layers", help="early, middle, late, or numbers, by commas.")] = "early",
    ridges: Annotated[str, typer.Option("--ridges", help="Lambdas of MultEdit, by commas.")] = "0.01",
    rates: Annotated[str, typer.Option("--rates", help="Of fine-tuning; none leaves it out.")] = "",
    bounds: Annotated[str, typer.Option("--bounds", help="Of fine-tuning with a norm constraint.")] = "",
    wrong: Annotated[bool, typer.Option("--wrong", help="Only what the model answers wrongly.")] = False,
    sizes: Annotated[str, typer.Option("--sizes", help="Facts taught to one model, by commas.")] = "1",
    order: Annotated[str, typer.Option("--order", help="together, or 'one by one'.")] = "together",
    steps: Steps = 25,
    rate: Rate = 0.1,
    token: Token = "constraint",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    spec: ModelSpec,
    running: Running,
) -> None:
    """Compare MultEdit and fine-tuning: efficacy, generalisation, and what unrelated questions lose."""
    from .asking_files import chosen_questions
    from .edit_report import evaluate_report

    facts = chosen_questions(questions, group or (), n, visual=token == "constraint")
    others = chosen_questions(unrelated, unrelated_group or (), unrelated_n, visual=False)
    finish(
        lambda: evaluate_report(
            spec, facts, others, out, seed, layers=[one.strip() for one in layers.split(",")],
            ridges=_numbers("--ridges", ridges), rates=_numbers("--rates", rates),
            bounds=_numbers("--bounds", bounds), sizes=[int(one) for one in _numbers("--sizes", sizes)], order=order,
            wrong=wrong, search=_search(steps, rate, token), running=running,
        ),
        out, fresh, as_json,
    )  # fmt: skip


def _search(steps: int, rate: float, token: str) -> "Search":
    from .values import Search

    return Search(steps=steps, rate=rate, token=token)  # type: ignore[arg-type]  # Search refuses what it does not know


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(one) for one in text.split(",") if one.strip()]
    except ValueError as error:
        raise OptionError(f"{option} {text!r}: give numbers, by commas") from error
    if any(not 0 < one < float("inf") for one in found):
        raise OptionError(f"{option} {text!r}: give numbers above 0")
    return found
