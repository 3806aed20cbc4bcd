"""`pellucid circuits compare`, `parts`, `validate`, `steer`: circuits beside each other, cut off, and put to use."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import Fresh, Json, Out, Seed, finish
from pellucid.core.errors import OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running, takes_model

from .source_cli import Count, Data, Form, HeadFile, OneHead, Probes, Retry, Style, head_of


def compare(
    circuits: Annotated[
        list[Path], typer.Option("--circuit", metavar="DIR", help="A folder of `extract`; give two or more.")
    ],
    out: Out,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Compare circuits of one model, such as those of context and of memory (thesis 8.3.3)."""
    from .compare_report import folders_report

    finish(lambda: folders_report(circuits), out, fresh, as_json)


@takes_model
def parts(
    spec: ModelSpec,
    running: Running,
    probes: Probes,
    out: Out,
    by: Annotated[
        str, typer.Option("--by", help="relation: a circuit for each kind of fact; size: for growing parts.")
    ] = "relation",
    kinds: Annotated[str, typer.Option("--kinds", help="Which components, by commas.")] = "head,attention,mlp",
    delta: Annotated[float, typer.Option("--delta", help="Score that a circuit should reach, in (0, 1].")] = 0.95,
    style: Style = "plain",
    seed: Seed = 0,
    fresh: Fresh = False,
    retry_failed: Retry = False,
    as_json: Json = False,
) -> None:
    """Extract a circuit from each part of the probes, and compare them (thesis 8.3.3, 11.7.7)."""
    from .compare_report import parts_report
    from .components import check_kinds
    from .probes import read_probes
    from .prompts import check_style

    chosen = check_kinds([name.strip() for name in kinds.split(",") if name.strip()])
    known, wanted = read_probes(probes), check_style(style)
    options = {**asdict(running), "retry_failed": retry_failed}
    finish(lambda: parts_report(spec, known, by, chosen, delta, wanted, seed, out, options), out, fresh, as_json)


@takes_model
def validate(
    spec: ModelSpec,
    running: Running,
    circuit: Annotated[Path, typer.Option("--circuit", metavar="DIR", help="A folder of `extract`.")],
    out: Out,
    kind: Annotated[str, typer.Option("--kind", help="Which of its circuits: head, attention or mlp.")] = "head",
    probes: Annotated[Path | None, typer.Option("--probes", metavar="FILE", help="JSON Lines file of probes.")] = None,
    data: Data = None,
    form: Form = "nq",
    n: Count = None,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Random sets of as many components.")] = 3,
    style: Style = "plain",
    seed: Seed = 0,
    fresh: Fresh = False,
    retry_failed: Retry = False,
    as_json: Json = False,
) -> None:
    """Cut a circuit off from the logits while the model answers, and count right answers (thesis 8.3.3)."""
    from .probes import read_probes
    from .prompts import check_style
    from .qa_data import read_qa
    from .validate import probe_examples
    from .validation_report import members_of, validation_report

    if (probes is None) == (data is None):
        raise OptionError("give --probes FILE, or --data FILE with --format, and not both")
    members, wanted = members_of(circuit, kind), check_style(style)
    examples = probe_examples(read_probes(probes)[:n]) if probes else read_qa(str(data), form, n)
    options = {**asdict(running), "retry_failed": retry_failed}
    file = str(data or probes)
    finish(
        lambda: validation_report(spec, members, examples, file, draws, wanted, seed, out, options),
        out,
        fresh,
        as_json,
    )


@takes_model
def steer(
    spec: ModelSpec,
    running: Running,
    probes: Probes,
    out: Out,
    head: OneHead = None,
    heads: HeadFile = None,
    circuit: Annotated[
        Path | None, typer.Option("--circuit", metavar="DIR", help="`extract`'s folder for the context's circuit.")
    ] = None,
    memory: Annotated[
        Path | None,
        typer.Option("--memory-circuit", metavar="DIR", help="`extract`'s folder for the memory's circuit."),
    ] = None,
    mlps: Annotated[int, typer.Option("--mlps", min=1, help="How many of the memory circuit's MLPs to ablate.")] = 5,
    beta: Annotated[float, typer.Option("--beta", min=1, help="Factor of up-weighting.")] = 10.0,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="By commas: attributed, upweighted, zeroed, mean_ablated, context_aware."),
    ] = None,
    style: Style = "plain",
    seed: Seed = 0,
    fresh: Fresh = False,
    retry_failed: Retry = False,
    as_json: Json = False,
) -> None:
    """Steer answers towards the context in several ways, and count (thesis 8.3.3, 8.5, 11.7.2).

    Without --methods: all of those whose head or circuits are given, and context-aware decoding.
    """
    from .probes import read_probes
    from .prompts import check_style
    from .steering_report import steering_of, steering_report

    reading = None if head is None and heads is None else head_of(head, heads)
    steering = steering_of(reading, circuit, memory, mlps, beta)
    if methods is not None:
        named = [name.strip() for name in methods.split(",") if name.strip()]
    else:
        given: dict[str, object] = {"attributed": reading, "upweighted": steering.layers, "zeroed": steering.mlps}
        given |= {"mean_ablated": steering.mlps, "context_aware": True}
        named = [name for name, what in given.items() if what]
    chosen = [steering.check(name) for name in named]
    known, wanted = read_probes(probes), check_style(style)
    options = {**asdict(running), "retry_failed": retry_failed}
    finish(lambda: steering_report(spec, known, steering, chosen, wanted, seed, out, options), out, fresh, as_json)
