"""`pellucid fewshot`: hard few-shot tasks out of any pool of images."""

from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import DATA, Address, Device, Fresh, Json, Out, Seed, Workers, finish
from pellucid.core.errors import OptionError

app = typer.Typer(
    rich_help_panel=DATA,
    help="Few-shot tasks that classifiers fail on, from any images.",
    no_args_is_help=True,
)

Images = Annotated[
    str,
    typer.Option("--images", metavar="IMAGES", help="A folder with one folder a class, an .npz, digits or zoo:NAME."),
]
MaybeImages = Annotated[
    str | None,
    typer.Option("--images", metavar="IMAGES", help="A folder with one folder a class, an .npz, digits or zoo:NAME."),
]
Backbone = Annotated[
    str,
    typer.Option("--backbone", metavar="NAME", help="pixels, conv4, timm:NAME, open_clip:NAME/TAG, transformers:ID."),
]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="FILE", help="The backbone's .safetensors; or random.")
]
Pools = Annotated[
    str | None, typer.Option("--pool", metavar="FILE", help="Embeddings: .safetensors, .npz or .parquet.")
]
Count = Annotated[int, typer.Option("--tasks", "-n", min=1, help="Tasks of each kind.")]
Sampler = Annotated[str, typer.Option("--sampler", help="fixed, or meta-dataset: variable way and shots.")]
Way = Annotated[int, typer.Option("--way", min=2, help="Classes of a task.")]
Shot = Annotated[int, typer.Option("--shot", min=1, help="Support images of a class.")]
Query = Annotated[int, typer.Option("--query", min=1, help="Query images of a class.")]
MethodName = Annotated[str, typer.Option("--method", help="fastdiffsel (one step), steps, swap or greedy.")]
DistanceName = Annotated[str, typer.Option("--distance", help="euclidean or cosine.")]


@app.command()
def embed(
    out: Out,
    images: Images = "digits",
    backbone: Backbone = "pixels",
    weights: Weights = None,
    device: Device = "cpu",
    workers: Workers = 0,
    address: Address = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Embed images by a backbone, once: DIR/pool.safetensors is what `extract` and `evaluate` search.

    Finished batches are kept in DIR/ledger: the same command run again goes on.
    """
    from .commands import embed_report

    finish(
        lambda: embed_report(
            images, backbone, out, weights=weights, device=device, workers=workers, address=address
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command("meta-train")
def meta_train(
    out: Out,
    images: Images = "zoo:mnist5k",
    backbone: Backbone = "conv4:64/28",
    weights: Weights = None,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Tasks to train on, one step each.")] = 1000,
    way: Way = 5,
    shot: Shot = 5,
    query: Query = 10,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate of Adam.")] = 0.001,
    held_out: Annotated[
        str, typer.Option("--held-out", metavar="NAMES", help="Classes to test on, by commas; none: a fifth of each.")
    ] = "",
    seed: Seed = 0,
    device: Device = "cpu",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Train a backbone on few-shot tasks (prototypical networks), and test it on classes or images it never saw.

    Checkpoints are kept in DIR: the same command run again goes on. DIR/weights.safetensors is for --weights.
    """
    from .commands import meta_train_report

    finish(
        lambda: meta_train_report(
            images, backbone, out, weights=weights, episodes=episodes, way=way, shot=shot, query=query, lr=lr,
            held_out=_words(held_out), seed=seed, device=device,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def extract(
    out: Out,
    pool: Pools = None,
    images: MaybeImages = None,
    backbone: Backbone = "pixels",
    weights: Weights = None,
    tasks: Count = 200,
    sampler: Sampler = "fixed",
    way: Way = 5,
    shot: Shot = 5,
    query: Query = 15,
    method: MethodName = "fastdiffsel",
    distance: DistanceName = "euclidean",
    alpha: Annotated[float, typer.Option("--alpha", help="Learning rate of the ascent.")] = 200.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of greedy search.")] = 3,
    query_where: Annotated[
        str | None, typer.Option("--query-where", metavar="LIST", help="Annotations of query images: front,!blurred.")
    ] = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find the support sets on which few-shot classification fails, and the ones on which it does best.

    DIR/hard.parquet, easy.parquet and default.parquet hold the tasks. Give embeddings (--pool), images, or both: the
    pictures are then shown in the report.
    """
    from .commands import extraction_report

    finish(
        lambda: extraction_report(
            pool, images, backbone, weights, out, count=tasks, sampler=sampler, way=way, shot=shot, query=query,
            method=method, distance=distance, alpha=alpha, rounds=rounds, seed=seed, query_where=_where(query_where),
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def evaluate(
    out: Out,
    tasks: Annotated[str, typer.Option("--tasks", metavar="FILES", help="Task files of `extract`, by commas.")],
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="FILES", help="Pools of the same images, by commas.")
    ] = None,
    images: MaybeImages = None,
    backbones: Annotated[
        str, typer.Option("--backbones", metavar="NAMES", help="By commas; NAME=FILE.safetensors gives weights.")
    ] = "pixels",
    methods: Annotated[
        str, typer.Option("--methods", help="By commas: prototype, linear, finetune (needs images).")
    ] = "prototype,linear",
    seed: Seed = 0,
    device: Device = "cpu",
    workers: Workers = 0,
    address: Address = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Put backbones and ways of adapting them to the tasks of files: accuracy with intervals, hard beside default.

    Finished tasks are kept in DIR: the same command run again goes on.
    """
    from .commands import evaluate_report

    finish(
        lambda: evaluate_report(
            _words(tasks), _words(pool or ""), images, _words(backbones), _words(methods), out, seed=seed,
            device=device, workers=workers, address=address,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def build(
    out: Out,
    data: Annotated[
        list[str], typer.Option("--data", metavar="NAME=FOLDER", help="A local copy of a data set; repeat for more.")
    ],
    backbone: Backbone = "timm:vit_small_patch16_224.dino",
    weights: Weights = None,
    tasks: Count = 200,
    method: MethodName = "fastdiffsel",
    splits: Annotated[
        Path | None, typer.Option("--splits", metavar="DIR", help="Meta-Dataset's NAME_splits.json files.")
    ] = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=2, help="Use at most so many images of a class.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    workers: Workers = 0,
    address: Address = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Build a benchmark of hard tasks: Hard-Meta-Dataset++ from local copies, or one of your own folders.

    Finished data sets are kept in DIR: the same command run again goes on.
    """
    from .commands import build_report

    finish(
        lambda: build_report(
            _folders(data), out, backbone, count=tasks, method=method, weights=weights, splits=splits,
            per_class=per_class, seed=seed, workers=workers, address=address, device=device,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def explain(
    out: Out,
    pool: Annotated[str, typer.Option("--pool", metavar="FILE", help="The pool, with annotations.")],
    hard: Annotated[Path, typer.Option("--hard", metavar="FILE", help="Hard tasks.")],
    easy: Annotated[Path, typer.Option("--easy", metavar="FILE", help="Easy or default tasks.")],
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Show how annotated properties differ between support and query images, in hard tasks and in easy ones."""
    from .commands import explain_report

    finish(lambda: explain_report(pool, hard, easy, seed), out, fresh, as_json)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _where(text: str | None) -> dict[str, bool] | None:
    words = _words(text or "")
    return {word.removeprefix("!"): not word.startswith("!") for word in words} or None


def _folders(given: list[str]) -> dict[str, Path]:
    found = {}
    for each in given:
        name, sign, folder = each.partition("=")
        if not sign or not name or not folder:
            raise OptionError(f"--data is {each!r}: give NAME=FOLDER, such as omniglot=data/omniglot")
        found[name] = Path(folder).expanduser()
    return found
