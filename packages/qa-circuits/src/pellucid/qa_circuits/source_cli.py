"""`pellucid circuits heads`, `attribute` and `evaluate`: where in a document an answer comes from."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pellucid.core.cli import Fresh, Json, Out, Seed, finish
from pellucid.core.errors import OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running, takes_model

if TYPE_CHECKING:
    from .attention_rows import Head
    from .evaluation_sets import EvaluationSet
    from .spans import Cut

Style = Annotated[str, typer.Option("--style", metavar="STYLE", help="How prompts are rendered: plain text, or chat.")]
Probes = Annotated[Path, typer.Option("--probes", metavar="FILE", help="JSON Lines file of probes.")]
OneHead = Annotated[str | None, typer.Option("--head", metavar="LAYER.HEAD", help="Which head to read, such as 23.1.")]
HeadFile = Annotated[
    Path | None, typer.Option("--heads", metavar="FILE", help="heads.json of `pellucid circuits heads`, instead.")
]
Spans = Annotated[
    str, typer.Option("--spans", metavar="CUT", help="What is pointed at: sentence, or a number of words.")
]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help="Questions as they were published, such as NQ-Swap.")
]
Form = Annotated[
    str, typer.Option("--format", help="Of --data: nq, nq-long, nq-swap-1, nq-swap-2, hotpotqa, cnn-dailymail.")
]
Count = Annotated[int | None, typer.Option("-n", min=1, help="No more questions than these.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Run again what failed, and only that.")]


@takes_model
def heads(
    spec: ModelSpec,
    probes: Probes,
    out: Out,
    circuit: Annotated[
        Path | None, typer.Option("--circuit", metavar="DIR", help="Choose among this circuit's heads (of `extract`).")
    ] = None,
    by: Annotated[str, typer.Option("--by", help="entropy (the thesis's way) or accuracy.")] = "entropy",
    style: Style = "plain",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Choose the head to attribute with: on half of the probes' subjects, reported on the other half.

    Among a circuit's heads, or among all. DIR/heads.json is what `attribute` and `evaluate` take.
    """
    from .head_report import heads_report
    from .prompts import check_style

    chosen = check_style(style)
    finish(lambda: heads_report(spec, probes, circuit, by, chosen, seed, out), out, fresh, as_json)


@takes_model
def attribute(
    spec: ModelSpec,
    document: Annotated[Path, typer.Option("--document", metavar="FILE", help="A text file.")],
    question: Annotated[str, typer.Option("--question", metavar="TEXT", help="What to answer from it.")],
    out: Out,
    head: OneHead = None,
    heads: HeadFile = None,
    spans: Spans = "sentence",
    k: Annotated[int, typer.Option("-k", min=1, help="How many places to name.")] = 3,
    longest: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 64,
    window: Annotated[
        bool, typer.Option("--window", help="Read a document that is too long for the model in overlapping pieces.")
    ] = False,
    style: Style = "plain",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Answer a question from a document, and name the sentences that the answer comes from (thesis 8.4.1)."""
    from pellucid.core.loading import load

    from . import attribution
    from .prompts import check_style
    from .source_report import read_document, source_report

    chosen, kind = check_style(style), cut_of(spans)
    text, reading = read_document(document), head_of(head, heads)

    def make():  # type: ignore[no-untyped-def]
        loaded = load(spec)
        found = attribution.attribute(
            loaded.model,
            loaded.tokenizer,
            text,
            question,
            head=reading,
            spans=kind,
            k=k,
            style=chosen,
            max_new_tokens=longest,
            window=window,
        )
        return source_report(found, spec, str(document), text, question, reading, kind)

    finish(make, out, fresh, as_json)


@takes_model
def evaluate(
    spec: ModelSpec,
    running: Running,
    out: Out,
    probes: Annotated[Path | None, typer.Option("--probes", metavar="FILE", help="JSON Lines file of probes.")] = None,
    true: Annotated[
        bool, typer.Option("--true/--swapped", help="Probes' contexts: the true ones (Synthetic 1) or swapped (2).")
    ] = False,
    data: Data = None,
    form: Form = "nq",
    n: Count = None,
    head: OneHead = None,
    heads: HeadFile = None,
    methods: Annotated[
        str, typer.Option("--methods", help="By commas: self, iterative, similarity, gradient.")
    ] = "self,iterative,similarity,gradient",
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="MODEL", help="Sentence encoder: zoo:minilm, a folder or a hub id.")
    ] = "sentence-transformers/all-mpnet-base-v2",
    rel: Annotated[bool, typer.Option("--rel-score", help="Also remove the found places (eq. 11.18).")] = False,
    longest: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 16,
    spans: Spans = "sentence",
    style: Style = "plain",
    seed: Seed = 0,
    fresh: Fresh = False,
    retry_failed: Retry = False,
    as_json: Json = False,
) -> None:
    """Compare one head's attributions with other ways of finding an answer's source (thesis 8.4.2)."""
    from .attribution_study import SourceJob, check_sources
    from .head_report import evaluation_report
    from .prompts import check_style

    names = check_sources([name.strip() for name in methods.split(",") if name.strip()])
    job = SourceJob(spec, head_of(head, heads), names, encoder, cut_of(spans), check_style(style), longest, rel)
    asked = _questions(probes, true, data, form, n)
    options = {**asdict(running), "retry_failed": retry_failed}
    finish(lambda: evaluation_report(job, asked, str(data or probes), seed, out, options), out, fresh, as_json)


def _questions(probes: Path | None, true: bool, data: Path | None, form: str, n: int | None) -> "EvaluationSet":
    from .evaluation_sets import evaluation_set, synthetic
    from .probes import read_probes
    from .qa_data import read_qa

    if (probes is None) == (data is None):
        raise OptionError("give --probes FILE, or --data FILE with --format, and not both")
    if probes is not None:
        return synthetic(read_probes(probes)[:n], 1 if true else 2)
    assert data is not None
    return evaluation_set(read_qa(data, form, n))


def head_of(head: str | None, heads: Path | None) -> "Head":
    """The head that is named, or that a file names.

    Raises:
        OptionError: neither or both are given, or the text is no head.
        DataError: the file cannot be read, or names none.
    """
    from .registry import read_heads

    if (head is None) == (heads is None):
        raise OptionError("give --head LAYER.HEAD, or --heads FILE of `pellucid circuits heads`, and not both")
    if heads is not None:
        found = read_heads(heads).attribution_head
        if found is None:
            raise OptionError(f"{heads} names no head to attribute with: choose one of its heads by --head")
        return found
    assert head is not None
    layer, dot, index = head.partition(".")
    if not (dot and layer.isdigit() and index.isdigit()):
        raise OptionError(f"--head {head!r} is no head: write LAYER.HEAD, such as 23.1, counted from 0")
    return int(layer), int(index)


def cut_of(spans: str) -> "Cut":
    """What `--spans` means: "sentence" or a number of words.

    Raises:
        OptionError: it is neither.
    """
    if spans == "sentence":
        return "sentence"
    if not spans.isdigit() or int(spans) < 1:
        raise OptionError(f"--spans {spans!r}: give sentence, or a number of words")
    return int(spans)
