"""`pellucid bench`: measurements as ratios, each in one run."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pellucid.core.cli import TRY, Fresh, Json, Model, Out, Seed, Workers, show
from pellucid.core.errors import OptionError

app = typer.Typer(
    rich_help_panel=TRY,
    help="Measure the fast way against the obvious way, and our peers.",
    invoke_without_command=True,
)


@app.callback()
def bench(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Run every comparison, one after the other.")] = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="With --all: the runs.")] = Path(
        "runs/bench"
    ),
    page: Annotated[
        Path | None, typer.Option("--results", metavar="FILE", dir_okay=False, help="DIR/RESULTS.md if not given.")
    ] = None,
) -> None:
    """Measure the fast way against the obvious way, and our peers.

    With --all, what went well in DIR is kept; what fails is told on the page of results, and the rest goes on.
    """
    if context.invoked_subcommand is not None:
        return
    if not everything:
        typer.echo(context.get_help())
        return
    from pellucid.core.outfolder import write_file

    from .everything import results_page, run_all

    well = run_all(out.absolute(), typer.echo)
    page = out / "RESULTS.md" if page is None else page
    write_file(page, results_page(out).encode())
    typer.echo(f"\nResults: {page}")
    if not well:
        raise typer.Exit(1)


@app.command()
def circuits(
    out: Out = Path("runs/bench-circuits"),
    model: Model = "zoo:smollm2",
    probes: Annotated[int, typer.Option("-n", min=1, help="How many probes are timed each way.")] = 3,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")] = 2,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Time direct effects in two passes against one forward pass a component."""
    from .circuits import measure

    def run() -> tuple[dict[str, Any], str]:
        found = measure(model, probes, seed, threads)
        fast, slow = found["two_pass_seconds"], found["one_forward_a_component_seconds"]
        return found, (
            f"Two passes score all {found['components']} components {found['ratio']} times as fast as one forward "
            f"pass a component ({fast} s a probe against {slow} s), with scores that differ by at most "
            f"{found['largest_difference']:.1e}."
        )

    _write("circuits", run, out, {"model": model, "probes": probes, "threads": threads}, seed, fresh, as_json)


@app.command()
def sweeps(
    out: Out = Path("runs/bench-sweeps"),
    cells: Annotated[int, typer.Option("-n", min=1, help="How many trivial cells.")] = 10_000,
    workers: Workers = 2,
    nodes: Annotated[
        str | None, typer.Option("--nodes", metavar="LIST", help="Clusters of so many nodes instead, such as 1,2.")
    ] = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Time what a sweep adds to each cell, inline and on Ray, or what is left of more machines."""
    from .nodes import measure_nodes
    from .sweeps import measure

    def run() -> tuple[dict[str, Any], str]:
        if nodes is not None:
            rows = measure_nodes(_counts(nodes))
            worst = min(rows, key=lambda row: float(row["efficiency"]))
            return {"nodes": rows}, (
                f"Cells of {worst['cell_seconds']:g} s on {worst['nodes']} nodes lose most: {worst['efficiency']:.0%} "
                f"of the time is theirs. {_shares(rows)}"
            )
        found = measure(cells, workers)
        return found, (
            f"A trivial cell costs {found['inline_ms']:.3f} ms inline and {found['ray_ms']:.3f} ms on {workers} Ray "
            f"workers, or {found['ray_with_start_ms']:.3f} ms with Ray's start counted in."
        )

    _write(
        "sweeps",
        run,
        out,
        {"cells": cells, "workers": workers, "nodes": nodes},
        0,
        fresh,
        as_json,
        _nodes_table if nodes else None,
    )


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(f"--nodes {text!r}: write numbers by commas, such as 1,2") from error
    if min(counts) < 1:
        raise OptionError(f"--nodes {text!r}: give 1 or more")
    return counts


def _nodes_table(found: dict[str, Any]) -> list[Any]:
    from pellucid.core.report import Table

    columns = ["nodes", "cell_seconds", "cells", "seconds", "cells_per_second", "efficiency"]
    rows = [[row[name] for name in columns] for row in found["nodes"]]
    return [
        Table(
            "nodes",
            columns,
            rows,
            "Clusters of one CPU a node; seconds from the first cell's beginning to the last one's end.",
        )
    ]


def _shares(rows: list[dict[str, Any]]) -> str:
    told = (f"{row['nodes']} x {row['cell_seconds']:g} s {row['efficiency']:.0%}" for row in rows)
    return "Efficiency: " + ", ".join(told) + "."


@app.command()
def influence(
    out: Out = Path("runs/bench-influence"),
    removals: Annotated[int, typer.Option("--removals", min=3, help="Training points left out, one at a time.")] = 60,
    tests: Annotated[int, typer.Option("--tests", min=3, help="Test points whose losses are followed.")] = 50,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Hold influence functions, ours and other libraries', against retraining, and time them."""
    from .influence import measure, summary, tables

    def run() -> tuple[dict[str, Any], str]:
        found = measure(removals, tests, seed)
        return found, summary(found)

    config = {"removals": removals, "tests": tests}
    _write("influence", run, out, config, seed, fresh, as_json, tables)


@app.command()
def fewshot(
    out: Out = Path("runs/bench-fewshot"),
    tasks: Annotated[int, typer.Option("-n", min=2, help="Tasks of each pool and number of shots.")] = 200,
    slow: Annotated[int, typer.Option("--slow", min=1, help="Of those, greedily searched the obvious way.")] = 10,
    many: Annotated[int, typer.Option("--many", min=2, help="Tasks of the large pool.")] = 1000,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Hold the selectors of hard few-shot tasks against greedy search: accuracy reached, and time."""
    from .fewshot import figures, measure, summary, tables

    def run() -> tuple[dict[str, Any], str]:
        found = measure(tasks, slow, many, seed)
        return found, summary(found)

    _write("fewshot", run, out, {"tasks": tasks, "slow": slow, "many": many}, seed, fresh, as_json, tables, figures)


@app.command()
def edits(
    out: Out = Path("runs/bench-edits"),
    prompts: Annotated[int, typer.Option("-n", min=1, help="Prompts of each edit.")] = 16,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")] = 2,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Time closed-form edits against the d x d inverse, and tracing against repeating the clean run."""
    from .edits import measure, summary

    def run() -> tuple[dict[str, Any], str]:
        found = measure(prompts, threads, seed)
        return found, summary(found)

    _write("edits", run, out, {"prompts": prompts, "threads": threads}, seed, fresh, as_json)


@app.command()
def attribution(
    out: Out = Path("runs/bench-attribution"),
    model: Model = "zoo:smollm2",
    head: Annotated[str, typer.Option("--head", metavar="LAYER.HEAD", help="Which head attributes.")] = "23.2",
    documents: Annotated[int, typer.Option("-n", min=4, help="Documents of 1 to 30 sentences.")] = 40,
    encoder: Annotated[str, typer.Option("--encoder", metavar="MODEL", help="Sentence encoder.")] = "zoo:minilm",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")] = 2,
    seed: Seed = 1,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Hold attribution by one head against plain generation, and against other ways of finding an answer's source."""
    from pellucid.qa_circuits.source_cli import head_of

    from .attribution import measure, summary, tables

    def run() -> tuple[dict[str, Any], str]:
        found = measure(out, model, head_of(head, None), documents, encoder, seed, threads)
        return found, summary(found)

    config = {"model": model, "head": head, "documents": documents, "encoder": encoder, "threads": threads}
    _write("attribution", run, out, config, seed, fresh, as_json, tables)


@app.command()
def vit(
    out: Out = Path("runs/bench-vit"),
    batch: Annotated[int, typer.Option("--batch", min=2, help="Pictures at a time.")] = 4,
    repeats: Annotated[int, typer.Option("-n", min=2, help="How often each is run.")] = 5,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")] = 2,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Hold the decomposition of vision transformers against their plain forward pass, in time and in memory."""
    from .vit import measure, summary, tables

    def run() -> tuple[dict[str, Any], str]:
        found = measure(batch, repeats, seed, threads)
        return found, summary(found)

    config = {"batch": batch, "repeats": repeats, "threads": threads}
    _write("vit", run, out, config, seed, fresh, as_json, tables)


@app.command()
def mllm(
    out: Out = Path("runs/bench-mllm"),
    model: Model = "zoo:tinyworld-llava",
    inner: Annotated[int, typer.Option("--inner", min=2, help="Channels that the edited map reads.")] = 11008,
    width: Annotated[int, typer.Option("--width", min=1, help="Channels that it writes.")] = 4096,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")] = 2,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Time a multimodal trace in batches against one window at a time, and an edit against the d x d inverse."""
    from .mllm import measure, summary

    def run() -> tuple[dict[str, Any], str]:
        found = measure(model, inner, width, threads, seed)
        return found, summary(found)

    config = {"model": model, "inner": inner, "width": width, "threads": threads}
    _write("mllm", run, out, config, seed, fresh, as_json)


@app.command()
def compose(
    out: Out = Path("runs/bench-compose"),
    model: Model = "zoo:tinyworld-sd",
    pictures: Annotated[int, typer.Option("-n", min=2, help="Pictures that are scored.")] = 16,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Of training.")] = 60,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")] = 2,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Hold training from kept latents against encoding each batch, and diffusion scores against the plain loop."""
    from .compose import measure, summary, tables

    def run() -> tuple[dict[str, Any], str]:
        found = measure(model, pictures, steps, 8, threads, seed)
        return found, summary(found)

    config = {"model": model, "pictures": pictures, "steps": steps, "threads": threads}
    _write("compose", run, out, config, seed, fresh, as_json, tables)


def _write(
    name: str,
    run: Any,
    out: Path,
    config: dict[str, Any],
    seed: int,
    fresh: bool,
    as_json: bool,
    tables: Any = None,
    figures: Any = None,
) -> None:
    from pellucid.core.outfolder import prepare_out
    from pellucid.core.report import Report, Section, Table

    prepare_out(out, fresh)
    started = time.monotonic()
    found, finding = run()
    if tables is None:
        rows = [[key, str(value)] for key, value in found.items()]
        shown = [Table("measured", ["quantity", "value"], rows, "What was measured in this run.")]
    else:
        shown = tables(found)
    report = Report(
        title=f"Measured: {name}",
        command=f"bench {name}",
        config=config,
        seed=seed,
        device="cpu",
        sections=[Section("Measurements", [finding], [] if figures is None else figures(found), shown)],
        results=found,
        summary=finding,
    )
    report.write(out, time.monotonic() - started)
    show(report, out, as_json)
