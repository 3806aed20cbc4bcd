"""Is a circuit what answers? It is ablated, and as many random components, and answers are compared (thesis 8.3.3)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pellucid.core.errors import DataError, OptionError, SweepError
from pellucid.core.loading import Loaded, ModelSpec, load
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean
from pellucid.core.sweeps import Context, Sweep, session

from .ablation import By, ablating, check_replacement, mean_writes
from .asking import check_context, check_fits, token_ids
from .components import Component, ComponentSet, all_components, check_sets
from .probes import Probe
from .prompts import Style, check_style, complete, first_line, render
from .qa_data import QAExample
from .qa_metrics import exact_match, f1

BATCH = 8  # questions in one forward pass
Arm = Literal["nothing", "circuit", "random"]
ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass(frozen=True)
class ValidationJob:
    """What every cell of a validation shares; `reference` are contexts with questions to take means over."""

    model: ModelSpec
    style: Style
    circuit: ComponentSet
    replacement: By
    reference: tuple[tuple[str, str], ...]
    length: int
    seed: int


@dataclass(frozen=True)
class ValidationCell:
    """One question, answered with nothing ablated, the circuit, or the `draw`-th random components."""

    arm: Arm
    draw: int
    example: QAExample


@dataclass(frozen=True)
class ValidationRow:
    """The first line of a reply, its exact match and F1; `ablated` are the components that were."""

    reply: str
    exact: float
    f1: float
    ablated: list[str]


@dataclass(frozen=True)
class Score:
    """One arm over all examples: mean exact match and F1."""

    exact: Estimate
    f1: Estimate


@dataclass(frozen=True)
class Validation:
    """What `validate` found; everything is over the same examples.

    Attributes:
        circuit: what was ablated; `random`: each random draw of as many components.
        nothing, with_circuit, with_random: how well the model answers with these ablated; of the random draws each
            example's mean is taken first.
        drop: `nothing` minus `with_circuit`, paired example by example; `random_drop`: `nothing` minus `with_random`.
        difference: `with_circuit` minus `with_random`, paired; below 0 where the circuit matters more than chance.
        examples: how many every arm answered.
        replies: of each example the replies with nothing, the circuit and the first random draw ablated.
        notes: what a reader should know besides, such as cells that failed.
    """

    circuit: ComponentSet
    random: tuple[tuple[str, ...], ...]
    nothing: Score
    with_circuit: Score
    with_random: Score
    drop: Score
    random_drop: Score
    difference: Score
    examples: tuple[QAExample, ...]
    replies: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]

    def results(self) -> dict[str, Any]:
        """What `result.json` holds under `results`."""
        scores = ("nothing", "with_circuit", "with_random", "drop", "random_drop", "difference")
        return {
            "circuit": [str(component) for component in self.circuit],
            "random": [list(draw) for draw in self.random],
            "examples": len(self.examples),
            **{name: asdict(getattr(self, name)) for name in scores},
            "notes": list(self.notes),
        }


def probe_examples(probes: Sequence[Probe]) -> list[QAExample]:
    """Our own facts as examples: each probe's question over its modified context, with the swapped answer."""
    return [QAExample(p.question, p.modified_context, (p.answer,), "probes") for p in probes]


def random_like(circuit: ComponentSet, layers: int, heads: int, seed: int | Sequence[int]) -> ComponentSet:
    """Random components outside a circuit, as many of each kind as it has.

    Raises:
        OptionError: the model lacks a component of the circuit, or has too few others of a kind.
    """
    check_sets([circuit], layers, heads)
    generator = np.random.default_rng(seed)
    drawn: list[Component] = []
    # Attention layers first: no head of theirs may be drawn besides.
    for kind in ("attention", "head", "mlp"):
        members = {component for component in circuit if component.kind == kind}
        if not members:
            continue
        taken = {component.layer for component in drawn if component.kind == "attention"}
        pool = [
            component
            for component in all_components(layers, heads, (kind,))
            if component not in members and not (kind == "head" and component.layer in taken)
        ]
        if len(pool) < len(members):
            raise OptionError(
                f"the circuit holds {len(members)} components of kind {kind!r} and only {len(pool)} others are left "
                "to draw from: take the top ones of the circuit"
            )
        drawn += [pool[i] for i in sorted(generator.choice(len(pool), len(members), replace=False))]
    return tuple(drawn)


def validate(
    model: ModelSpec | str,
    circuit: Sequence[Component],
    examples: Sequence[QAExample],
    ledger: str | Path,
    *,
    draws: int = 3,
    replacement: str = "zero",
    reference: Sequence[tuple[str, str]] = (),
    length: int = 16,
    style: Style = "plain",
    seed: int = 0,
    workers: int = 0,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
    retry_failed: bool = False,
) -> Validation:
    """Answer questions with a circuit's direct edges ablated, with as many random components', and with none.

    Args:
        model: what to load, see `ModelSpec`; each worker loads it once.
        circuit: its components, of one kind or several.
        examples: none that the circuit was found on; repetitions count once.
        ledger: folder that remembers replies; a second call asks nothing twice.
        draws: how many random sets stand beside the circuit.
        replacement: "zero" or "mean", see `ablation.ablating`.
        reference: for "mean": contexts with questions to take means over, none of them among the examples.
        length: most tokens of a reply.
        style: how prompts are rendered, see `prompts.render`.
        seed: of the random components and the intervals.
        workers: Ray workers; 0 runs inline without Ray.
        cpus: processors of each worker; torch runs on as many threads, also inline.
        gpus: GPUs of each worker.
        address: a Ray cluster to connect to; None starts one here.
        retry_failed: run again the cells that failed before.

    Raises:
        DataError: no examples, one with an empty context, or some also in `reference`.
        OptionError: no circuit, less than one draw, or a replacement that cannot be.
        SweepError: an arm failed on every example, such as for a component that the model lacks.
    """
    by = check_replacement(replacement)
    examples = list(dict.fromkeys(examples))
    _check(circuit, examples, draws, by, reference)
    spec = (ModelSpec(model) if isinstance(model, str) else model).resolved()
    asked = tuple(dict.fromkeys(reference)) if by == "mean" else ()
    job = ValidationJob(spec, check_style(style), tuple(circuit), by, asked, length, seed)
    sweep = validation_sweep(job, examples, draws, cpus=cpus, gpus=gpus)
    with session():
        sweep.run(str(ledger), workers=workers, address=address, retry_failed=retry_failed)
    rows = {(cell.arm, cell.draw, cell.example): row for cell, row in sweep.pairs(str(ledger))}
    failures = sweep.failures(str(ledger))
    whole = [e for e in examples if all((arm, draw, e) in rows for arm, draw in _arms(draws))]
    if not whole:
        last = failures[0][1].strip().splitlines()[-1] if failures else "nothing ran"
        raise SweepError(f"no example was answered by every arm, the first failed with: {last}")
    notes: list[str] = []
    if failures:
        last = failures[0][1].strip().splitlines()[-1]
        notes.append(f"{len(examples) - len(whole)} examples are left out, the first cell failed with: {last}")
    table = [[rows[arm, draw, example] for arm, draw in _arms(draws)] for example in whole]
    return _summary(job.circuit, whole, table, seed, tuple(notes))


def validation_sweep(job: ValidationJob, examples: Sequence[QAExample], draws: int, **options: Any) -> Sweep:
    """A sweep that answers every example in every arm (rows: ValidationRow)."""
    # Like lengths share a batch, and so do examples of one arm.
    order = sorted(examples, key=lambda e: (len(e.context), e.question, e.context, e.answers))
    cells = [ValidationCell(arm, draw, example) for arm, draw in _arms(draws) for example in order]
    return Sweep(
        _answer, cells, version="1", row=ValidationRow, shared=job, setup=_prepare, batch=BATCH, **options
    )  # fmt: skip


def _check(
    circuit: Sequence[Component],
    examples: Sequence[QAExample],
    draws: int,
    by: By,
    reference: Sequence[tuple[str, str]],
) -> None:
    if not circuit:
        raise OptionError("the circuit has no components: give those that `extract_circuit` found")
    if draws < 1:
        raise OptionError(f"draws is {draws}: take 1 random set or more")
    if not examples:
        raise DataError("there are no examples: read some with `read_qa`, or make them of probes")
    for example in examples:
        check_context(example.context)
    if by == "mean":
        if not reference:
            raise OptionError("replacing by the mean needs 'reference': give contexts with questions to take it over")
        if {(e.context, e.question) for e in examples} & set(reference):
            raise DataError("some examples are measured and taken means over: give others as reference")


def _arms(draws: int) -> list[tuple[Arm, int]]:
    return [("nothing", 0), ("circuit", 0), *(("random", draw) for draw in range(draws))]


@dataclass
class _State:
    """A worker's model, and the means of the components that were asked for so far."""

    loaded: Loaded
    means: dict[Component, Any]


def _prepare(shared: Any) -> _State:
    return _State(load(shared.model), {})


def _answer(cells: Sequence[ValidationCell], context: Context) -> list[ValidationRow]:
    job: ValidationJob = context.shared
    state: _State = context.state
    rows: dict[ValidationCell, ValidationRow] = {}
    for arm, draw in dict.fromkeys((cell.arm, cell.draw) for cell in cells):
        mine = [cell for cell in cells if (cell.arm, cell.draw) == (arm, draw)]
        ablated = _ablated(job, state, arm, draw)
        replies = _replies(job, state, ablated, [cell.example for cell in mine])
        for cell, reply in zip(mine, replies, strict=True):
            answers = cell.example.answers
            scores = exact_match(reply, answers), f1(reply, answers)
            rows[cell] = ValidationRow(reply, *scores, [str(component) for component in ablated])
    return [rows[cell] for cell in cells]


def _ablated(job: ValidationJob, state: _State, arm: Arm, draw: int) -> ComponentSet:
    if arm == "random":
        config = state.loaded.model.config
        return random_like(job.circuit, config.num_hidden_layers, config.num_attention_heads, [job.seed, draw])
    return job.circuit if arm == "circuit" else ()


def _replies(job: ValidationJob, state: _State, ablated: ComponentSet, examples: Sequence[QAExample]) -> list[str]:
    model, tokenizer = state.loaded.model, state.loaded.tokenizer
    prompts = [token_ids(tokenizer, render(tokenizer, e.context, e.question, job.style), job.style) for e in examples]
    check_fits(model, max(map(len, prompts)) + job.length)
    missing = [component for component in ablated if component not in state.means]
    if job.replacement == "mean" and missing:
        state.means |= mean_writes(model, tokenizer, job.reference, missing, style=job.style, batch=BATCH)
    with ablating(model, ablated, job.replacement, state.means):
        replies = complete(model, tokenizer, prompts, job.length)
    return [first_line(reply) for reply in replies]


def _summary(
    circuit: ComponentSet,
    examples: Sequence[QAExample],
    table: Sequence[Sequence[ValidationRow]],
    seed: int,
    notes: tuple[str, ...],
) -> Validation:
    # (examples, arms, metrics): nothing, the circuit, then the random draws.
    scores = np.array([[(row.exact, row.f1) for row in rows] for rows in table])
    nothing, circuits, randoms = scores[:, 0], scores[:, 1], scores[:, 2:].mean(1)

    def mean(values: np.ndarray) -> Score:
        return Score(bootstrap_mean(values[:, 0], seed), bootstrap_mean(values[:, 1], seed))

    def minus(one: np.ndarray, other: np.ndarray) -> Score:
        exact, overlap = (bootstrap_difference(one[:, i], other[:, i], seed, paired=True) for i in (0, 1))
        return Score(exact, overlap)

    return Validation(
        circuit=circuit,
        random=tuple(tuple(row.ablated) for row in table[0][2:]),
        nothing=mean(nothing),
        with_circuit=mean(circuits),
        with_random=mean(randoms),
        drop=minus(nothing, circuits),
        random_drop=minus(nothing, randoms),
        difference=minus(circuits, randoms),
        examples=tuple(examples),
        replies=tuple((rows[0].reply, rows[1].reply, rows[2].reply) for rows in table),
        notes=notes,
    )
