"""How often a method points at the right place of the context: one attention head and the baselines, side by side.

Thesis section 8.4.2. A method is right where its best span touches a sentence that gives the answer.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from pellucid.core.errors import DataError, OptionError, SweepError
from pellucid.core.loading import Loaded, ModelSpec, load
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean
from pellucid.core.sweeps import Context, Sweep, session

from .attention_rows import Head
from .attribution import attribute
from .baselines import gradient, iterative_prompt, self_attribution, sentence_similarity
from .evaluation_sets import Located
from .long_answers import LongAnswer, rel_scores
from .probes import stands
from .prompts import Style
from .sentence_encoder import SentenceEncoder
from .spans import Cut, ScoredSpan, Span, cut

Source = Literal["attention", "self", "iterative", "similarity", "gradient"]
SOURCES: tuple[Source, ...] = get_args(Source)
BATCH = 4  # questions a batch of the sweep


@dataclass(frozen=True)
class SourceJob:
    """What every cell shares.

    Attributes:
        model: what answers.
        head: (layer, head) of AttnAttrib.
        methods: which to compare, "attention" first.
        encoder: for "similarity": `zoo:minilm`, a folder or a hub id.
        spans: "sentence", or words in a window.
        style: of the prompts.
        length: of an answer, in tokens at most.
        rel: also remove the head's best span, and as many others, and read the answer's probability (eq. 11.18).
    """

    model: ModelSpec
    head: Head
    methods: tuple[Source, ...]
    encoder: str
    spans: Cut
    style: Style
    length: int
    rel: bool


@dataclass(frozen=True)
class SourceRow:
    """One question.

    Attributes:
        reply: the model's answer; `faithful`: whether it names the context's.
        right: of each method, whether its best span touches a place of the answer.
        seconds: of each method; the head's are those of generating and attributing, the others' come on top.
        chance: share of the context's spans that touch one.
        spans: how many there are.
        rel: Rel-Score without the head's best span and without a random one; None for a context of one span.
    """

    reply: str
    faithful: bool
    right: list[bool]
    seconds: list[float]
    chance: float
    spans: int
    rel: list[float] | None


@dataclass(frozen=True)
class MethodSources:
    """One method over all questions.

    Attributes:
        method: its name.
        accuracy: share of questions where its best span touches a place of the answer.
        behind: AttnAttrib's share minus its share, paired by question.
        seconds: a question, mean.
    """

    method: Source
    accuracy: Estimate
    behind: Estimate
    seconds: Estimate


@dataclass(frozen=True)
class SourceStudy:
    """What `compare_sources` found.

    Attributes:
        methods: in the order asked for.
        chance: of a random span.
        faithful: share of replies that name the context's answer.
        questions: how many.
        rel: Rel-Score with the head's best span removed; `rel_random`: with as many random ones; None if not asked for.
        notes: what a reader should know besides.
    """

    methods: tuple[MethodSources, ...]
    chance: Estimate
    faithful: Estimate
    questions: int
    rel: Estimate | None
    rel_random: Estimate | None
    notes: tuple[str, ...] = ()


def check_sources(names: Sequence[str]) -> tuple[Source, ...]:
    """Return methods that were given as text, "attention" in front.

    Raises:
        OptionError: there is no such method.
    """
    for name in names:
        if name not in SOURCES:
            raise OptionError(f"no method {name!r}: choose from {', '.join(SOURCES)}")
    return cast(tuple[Source, ...], tuple(dict.fromkeys(("attention", *names))))


def compare_sources(
    job: SourceJob,
    questions: Sequence[Located],
    ledger: str | Path,
    *,
    seed: int = 0,
    workers: int = 0,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
    retry_failed: bool = False,
) -> SourceStudy:
    """Answer questions, attribute the answers by every method, and count how often each is right.

    Args:
        job: what to do.
        questions: such as `evaluation_sets.synthetic` makes; best ones that did not choose the head.
        ledger: folder that remembers what is done.
        seed: of the intervals, which are over questions.
        workers: see `extract_circuit`; so are the rest.
        cpus: see `extract_circuit`.
        gpus: see `extract_circuit`.
        address: see `extract_circuit`.
        retry_failed: see `extract_circuit`.

    Raises:
        DataError: no questions.
        SweepError: every cell failed.
    """
    questions = list(dict.fromkeys(questions))
    if not questions:
        raise DataError("there are no questions: give probes, or a file of questions")
    order = sorted(questions, key=lambda q: (len(q.context), q.question))
    sweep = Sweep(
        _attributed, order, version="1", row=SourceRow, shared=job, setup=_prepare, batch=BATCH, cpus=cpus, gpus=gpus
    )  # fmt: skip
    with session():
        sweep.run(str(ledger), workers=workers, address=address, retry_failed=retry_failed)
    rows: list[SourceRow] = [row for _, row in sweep.pairs(str(ledger))]
    failures = sweep.failures(str(ledger))
    notes: tuple[str, ...] = ()
    if failures:
        last = failures[0][1].strip().splitlines()[-1]
        if not rows:
            raise SweepError(f"every question failed, the first with: {last}")
        notes = (f"{len(failures)} questions failed and are left out, the first with: {last}",)
    return _summary(job, rows, seed, notes)


def _summary(job: SourceJob, rows: Sequence[SourceRow], seed: int, notes: tuple[str, ...]) -> SourceStudy:
    right = np.array([row.right for row in rows], dtype=np.float64)
    seconds = np.array([row.seconds for row in rows])
    rel = np.array([row.rel for row in rows if row.rel is not None])
    methods = tuple(
        MethodSources(
            method,
            bootstrap_mean(right[:, i], seed),
            bootstrap_difference(right[:, 0], right[:, i], seed, paired=True),
            bootstrap_mean(seconds[:, i], seed),
        )
        for i, method in enumerate(job.methods)
    )
    return SourceStudy(
        methods,
        bootstrap_mean([row.chance for row in rows], seed),
        bootstrap_mean([float(row.faithful) for row in rows], seed),
        len(rows),
        bootstrap_mean(rel[:, 0], seed) if len(rel) else None,
        bootstrap_mean(rel[:, 1], seed) if len(rel) else None,
        notes,
    )


def _prepare(shared: SourceJob) -> tuple[Loaded, SentenceEncoder | None]:
    encoder = SentenceEncoder.load(shared.encoder) if "similarity" in shared.methods else None
    return load(shared.model), encoder


def _attributed(cells: Sequence[Located], context: Context) -> list[SourceRow]:
    job: SourceJob = context.shared
    loaded, encoder = context.state
    return [_row(job, loaded, encoder, cell) for cell in cells]


def _row(job: SourceJob, loaded: Loaded, encoder: SentenceEncoder | None, asked: Located) -> SourceRow:
    model, tokenizer = loaded.model, loaded.tokenizer
    options: dict[str, Any] = {"spans": job.spans, "k": 1, "style": job.style}
    text, question = asked.context, asked.question
    began = time.perf_counter()
    found = attribute(model, tokenizer, text, question, head=job.head, max_new_tokens=job.length, **options)
    seconds = [time.perf_counter() - began]
    best: list[Sequence[ScoredSpan]] = [found.spans]
    reply = found.answer or asked.answer  # a silent model's answer is attributed as if it had been right
    for method in job.methods[1:]:
        began = time.perf_counter()
        if method == "self":
            best.append(self_attribution(model, tokenizer, text, question, **options))
        elif method == "iterative":
            best.append(iterative_prompt(model, tokenizer, text, question, reply, **options))
        elif method == "gradient":
            best.append(gradient(model, tokenizer, text, question, reply, **options))
        else:
            assert encoder is not None
            best.append(sentence_similarity(encoder, text, reply, spans=job.spans, k=1))
        seconds.append(time.perf_counter() - began)
    pieces = cut(text, job.spans)
    rel = None
    if job.rel and len(pieces) > 1 and found.spans:
        answer = LongAnswer(text, question, reply, tuple(s.span for s in found.spans))
        (score,) = rel_scores(model, tokenizer, [answer], spans=job.spans, style=job.style)
        rel = [score.attributed, score.random]
    return SourceRow(
        reply=found.answer,
        faithful=stands(asked.answer, found.answer, any_case=True),
        right=[bool(spans) and _touches(spans[0].span, asked.places) for spans in best],
        seconds=seconds,
        chance=float(np.mean([_touches(piece, asked.places) for piece in pieces])),
        spans=len(pieces),
        rel=rel,
    )


def _touches(span: Span, places: Sequence[Span]) -> bool:
    return any(span.start < place.stop and place.start < span.stop for place in places)
