"""`pellucid mllm`: where a multimodal language model keeps a fact, and how to correct it there."""

from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import LOCATE, Fresh, Json, Out, Seed, finish
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running, takes_model

from .edit_cli import edit, evaluate

app = typer.Typer(
    rich_help_panel=LOCATE,
    help="Where a multimodal model keeps a fact, and how to correct it.",
    no_args_is_help=True,
)

Questions = Annotated[
    Path, typer.Option("--questions", metavar="FILE", help="JSON Lines, as `pellucid zoo dataset facts` writes them.")
]
Group = Annotated[list[str] | None, typer.Option("--group", metavar="NAME", help="Of questions; repeat it.")]
Count = Annotated[int | None, typer.Option("-n", min=1, help="How many questions, spread over those there are.")]


@app.command()
@takes_model
def trace(
    questions: Questions,
    out: Out,
    group: Group = None,
    n: Count = None,
    corruption: Annotated[str, typer.Option("--corruption", metavar="KIND", help="phrase, or noise.")] = "phrase",
    window: Annotated[int, typer.Option("--window", min=0, help="Layers restored together; 0 as in the thesis.")] = 0,
    words: Annotated[bool, typer.Option("--words", help="Ask with the entity in words, too.")] = False,
    own: Annotated[bool, typer.Option("--own-answers", help="Follow the model's own answers.")] = False,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    spec: ModelSpec,
    running: Running,
) -> None:
    """Find the tokens and layers where restoring a clean run brings the answer back (MultimodalCausalTrace)."""
    from .asking_files import chosen_questions
    from .trace_report import trace_report

    asked = chosen_questions(questions, group or (), n)
    finish(
        lambda: trace_report(
            spec, asked, out, seed, corruption=corruption, window=window, words=words, own=own, running=running
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
@takes_model
def contributions(
    questions: Questions,
    out: Out,
    group: Group = None,
    n: Count = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    spec: ModelSpec,
    running: Running,
) -> None:
    """Measure what attention moves from the image to the constraint, and from it to the last token."""
    from .asking_files import chosen_questions
    from .look_report import contributions_report

    asked = chosen_questions(questions, group or (), n)
    finish(lambda: contributions_report(spec, asked, out, seed, running=running), out, fresh, as_json)


@app.command()
@takes_model
def predict(
    questions: Questions,
    out: Out,
    group: Group = None,
    n: Count = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    spec: ModelSpec,
    running: Running,
) -> None:
    """Tell wrong answers from right ones by contributions of the middle layers, beside the model's confidence."""
    from .asking_files import chosen_questions
    from .look_report import predict_report

    asked = chosen_questions(questions, group or (), n)
    finish(lambda: predict_report(spec, asked, out, seed, running=running), out, fresh, as_json)


app.command()(edit)
app.command()(evaluate)


@app.command()
@takes_model
def annotate(
    questions: Questions,
    out: Out,
    votes: Annotated[int, typer.Option("--votes", min=1, help="How often each question is asked.")] = 3,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    spec: ModelSpec,
    running: Running,
) -> None:
    """Have a chat model mark the constraints of questions; what it is unsure of goes to a review file."""
    from .annotate_report import annotate_report

    finish(lambda: annotate_report(spec, questions, out, seed, votes=votes, running=running), out, fresh, as_json)
