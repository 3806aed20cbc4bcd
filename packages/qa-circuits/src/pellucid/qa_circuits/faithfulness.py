"""How often a model answers from its context, steered in several ways, question by question beside plain prompting."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError, OptionError, SweepError
from pellucid.core.loading import Loaded, ModelSpec, load
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean
from pellucid.core.sweeps import Context, Sweep, session

from .ablation import Means, mean_writes
from .probes import Probe, stands
from .prompts import Style
from .steering import METHODS, Method, Steering, steered_replies

BATCH = 8  # questions in one forward pass


@dataclass(frozen=True)
class Conflict:
    """A question whose context says something else than what a model may remember.

    Attributes:
        context: the text.
        question: what is asked.
        from_context: the answer that the context gives, be it as strange as "—".
        from_memory: the answer that is true of the world.
    """

    context: str
    question: str
    from_context: str
    from_memory: str


@dataclass(frozen=True)
class SteeringJob:
    """What every cell of a steering sweep shares; `reference` are contexts with questions to take means over."""

    model: ModelSpec
    style: Style
    steering: Steering
    length: int
    reference: tuple[Conflict, ...]


@dataclass(frozen=True)
class SteeringCell:
    """One question answered in one way."""

    method: Method
    conflict: Conflict


@dataclass(frozen=True)
class SteeringRow:
    """The first line of a reply, and whether it gives the context's answer or the remembered one, and not both."""

    reply: str
    context: bool
    memory: bool


@dataclass(frozen=True)
class MethodFaithfulness:
    """One method over all conflicts.

    Attributes:
        context: share of replies that give the context's answer.
        memory: share of replies that give the remembered one.
        gain: `context` minus that of plain prompting, paired question by question.
        switched: of the questions that plain prompting answers from memory, the share answered from the context
            (thesis 8.3.3: 92% with up-weighting, 68% with mean-ablated MLPs); None where there are none.
        kept: of the questions that plain prompting answers from the context, the share that still is; None likewise.
    """

    method: Method
    context: Estimate
    memory: Estimate
    gain: Estimate
    switched: Estimate | None
    kept: Estimate | None


@dataclass(frozen=True)
class Faithfulness:
    """What `faithfulness` found.

    Attributes:
        methods: plain prompting first.
        conflicts: questions that every method answered.
        from_context, from_memory: how many of them plain prompting answers so.
        replies: of each method one a conflict, in order.
        notes: what a reader should know besides, such as cells that failed.
    """

    methods: tuple[MethodFaithfulness, ...]
    conflicts: tuple[Conflict, ...]
    from_context: int
    from_memory: int
    replies: dict[Method, tuple[SteeringRow, ...]]
    notes: tuple[str, ...] = field(default=())

    def results(self) -> dict[str, Any]:
        """What `result.json` holds under `results`."""
        return {
            "conflicts": len(self.conflicts),
            "plain_from_context": self.from_context,
            "plain_from_memory": self.from_memory,
            "methods": [asdict(method) for method in self.methods],
            "notes": list(self.notes),
        }


def conflict_of(probe: Probe, stand_in: str = "—") -> Conflict:
    """The conflict in a probe.

    Of a D_copy probe it is between the swapped answer and the original one; of a D_memory probe, whose `answer` is
    the original one, between what stands in its place in the context and that.

    Raises:
        DataError: the modified context does not give the answer that it should.
    """
    given = stand_in if probe.answer == probe.original_answer else probe.answer
    if not stands(given, probe.modified_context):
        raise DataError(f"{given!r} does not stand in the modified context of {probe.question!r}: make the probe anew")
    return Conflict(probe.modified_context, probe.question, given, probe.original_answer)


def judge(reply: str, conflict: Conflict) -> SteeringRow:
    """Which answer a reply gives: whole words, any case of letters; one that gives both counts as neither."""
    context = stands(conflict.from_context, reply, any_case=True)
    memory = stands(conflict.from_memory, reply, any_case=True)
    return SteeringRow(reply, context and not memory, memory and not context)


def faithfulness(
    model: ModelSpec | str,
    conflicts: Sequence[Conflict],
    ledger: str | Path,
    *,
    steering: Steering,
    methods: Sequence[Method] = METHODS,
    reference: Sequence[Conflict] = (),
    length: int = 16,
    style: Style = "plain",
    seed: int = 0,
    workers: int = 0,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
    retry_failed: bool = False,
) -> Faithfulness:
    """Answer every question in several ways, and tell how often the answer is the context's (thesis 8.3.3, 8.5).

    Args:
        model: what to load, see `ModelSpec`; each worker loads it once.
        conflicts: none that chose the head or the circuit, nor any in `reference`.
        ledger: folder that remembers replies; a second call asks nothing twice.
        steering: the head, layers and MLPs, and how strongly each is used.
        methods: which ways; plain prompting is always among them.
        reference: questions over whose prompts `mean_ablated` takes its means.
        length: most tokens of a reply.
        style: how prompts are rendered, see `prompts.render`.
        seed: of the intervals.
        workers: Ray workers; 0 runs inline without Ray.
        cpus: processors of each worker; torch runs on as many threads, also inline.
        gpus: GPUs of each worker.
        address: a Ray cluster to connect to; None starts one here.
        retry_failed: run again the cells that failed before.

    Raises:
        DataError: no conflicts, or some also in `reference`.
        OptionError: an unknown method, or one that lacks what it needs.
        SweepError: plain prompting or a method failed on every question.
    """
    chosen = tuple(dict.fromkeys([METHODS[0], *(steering.check(method) for method in methods)]))
    conflicts = list(dict.fromkeys(conflicts))
    if not conflicts:
        raise DataError("there are no questions: give conflicts, such as `conflict_of` makes of probes")
    if "mean_ablated" in chosen:
        if not reference:
            raise OptionError("the method 'mean_ablated' needs 'reference': give questions to take means over")
        if set(reference) & set(conflicts):
            raise DataError("some questions are measured and taken means over: give others as reference")
    spec = (ModelSpec(model) if isinstance(model, str) else model).resolved()
    means = tuple(reference) if "mean_ablated" in chosen else ()
    job = SteeringJob(spec, style, steering, length, means)
    sweep = steering_sweep(job, chosen, conflicts, cpus=cpus, gpus=gpus)
    with session():
        sweep.run(str(ledger), workers=workers, address=address, retry_failed=retry_failed)
    rows = {(cell.method, cell.conflict): row for cell, row in sweep.pairs(str(ledger))}
    failures = sweep.failures(str(ledger))
    whole = [c for c in conflicts if all((method, c) in rows for method in chosen)]
    if not whole:
        last = failures[0][1].strip().splitlines()[-1] if failures else "nothing ran"
        raise SweepError(f"no question was answered by every method, the first failed with: {last}")
    notes: tuple[str, ...] = ()
    if failures:
        (cell, text), *_ = failures
        notes = (
            f"{len(conflicts) - len(whole)} questions are left out; {cell.method} failed: {text.splitlines()[-1]}",
        )
    return _summary(chosen, whole, {m: tuple(rows[m, c] for c in whole) for m in chosen}, seed, notes)


def steering_sweep(job: SteeringJob, methods: Sequence[Method], conflicts: Sequence[Conflict], **options: Any) -> Sweep:
    """A sweep that answers every question in every way (rows: SteeringRow)."""
    # Like lengths share a batch, and so do questions that are answered in one way.
    order = sorted(conflicts, key=lambda c: (len(c.context), c.question, c.context))
    cells = [SteeringCell(method, conflict) for method in methods for conflict in order]
    return Sweep(
        _answer, cells, version="1", row=SteeringRow, shared=job, setup=_prepare, batch=BATCH, **options
    )  # fmt: skip


def _prepare(shared: SteeringJob) -> tuple[Loaded, Means | None]:
    loaded = load(shared.model)
    if not shared.reference:
        return loaded, None
    asked = [(c.context, c.question) for c in shared.reference]
    components = shared.steering.mlp_components
    return loaded, mean_writes(loaded.model, loaded.tokenizer, asked, components, style=shared.style)


def _answer(cells: Sequence[SteeringCell], context: Context) -> list[SteeringRow]:
    job: SteeringJob = context.shared
    loaded, means = context.state
    rows: dict[SteeringCell, SteeringRow] = {}
    for method in dict.fromkeys(cell.method for cell in cells):
        mine = [cell for cell in cells if cell.method == method]
        asked = [(cell.conflict.context, cell.conflict.question) for cell in mine]
        replies = steered_replies(
            loaded.model, loaded.tokenizer, asked, method, job.steering, length=job.length, style=job.style, means=means
        )
        rows |= {cell: judge(reply, cell.conflict) for cell, reply in zip(mine, replies, strict=True)}
    return [rows[cell] for cell in cells]


def _summary(
    methods: Sequence[Method],
    conflicts: Sequence[Conflict],
    replies: dict[Method, tuple[SteeringRow, ...]],
    seed: int,
    notes: tuple[str, ...],
) -> Faithfulness:
    plain = replies[methods[0]]

    def share(rows: Sequence[SteeringRow]) -> Estimate | None:
        return bootstrap_mean([float(row.context) for row in rows], seed) if rows else None

    found = []
    for method in methods:
        rows = replies[method]
        hits = [float(row.context) for row in rows]
        found.append(
            MethodFaithfulness(
                method,
                bootstrap_mean(hits, seed),
                bootstrap_mean([float(row.memory) for row in rows], seed),
                bootstrap_difference(hits, [float(row.context) for row in plain], seed, paired=True),
                share([row for row, before in zip(rows, plain, strict=True) if before.memory]),
                share([row for row, before in zip(rows, plain, strict=True) if before.context]),
            )
        )
    return Faithfulness(
        tuple(found),
        tuple(conflicts),
        sum(row.context for row in plain),
        sum(row.memory for row in plain),
        replies,
        notes,
    )
