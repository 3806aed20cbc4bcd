"""`pellucid vit`: what each head and MLP of a vision transformer adds to its representation, and what it says."""

from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import LOCATE, Fresh, Json, Out, Seed, finish

from .options import Source, takes_source

app = typer.Typer(
    rich_help_panel=LOCATE, help="What each head and MLP of a vision transformer says.", no_args_is_help=True
)

Alignment = Annotated[
    Path | None,
    typer.Option("--alignment", metavar="FILE", help="What `vit align` wrote; not needed where the model is a CLIP."),
]
Features = Annotated[
    Path | None, typer.Option("--features", metavar="FILE", help="JSON of features and their texts; seven common ones.")
]
Feature = Annotated[str, typer.Option("--feature", metavar="NAME", help="One of the features.")]
Top = Annotated[int, typer.Option("--top", min=1, help="How many components.")]
Label = Annotated[str, typer.Option("--label", help="The annotation that the classifier names.")]


@app.command()
@takes_source
def decompose(
    out: Out,
    last_layers: Annotated[
        int | None, typer.Option("--last-layers", min=1, help="Layers taken apart, from the last; all if not given.")
    ] = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Take representations apart into what each head, MLP and convolution writes (RepDecompose)."""
    from .commands import decompose_report

    finish(lambda: decompose_report(source, out, seed, last_layers=last_layers), out, fresh, as_json)


@app.command()
@takes_source
def ablate(
    out: Out,
    label: Label = "label",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Set layer after layer to its mean, from the last on, and measure the classifier's accuracy."""
    from .commands import ablate_report

    finish(lambda: ablate_report(source, out, seed, label=label), out, fresh, as_json)


@app.command()
@takes_source
def align(
    out: Out,
    clip: Annotated[str, typer.Option("--clip", metavar="MODEL", help="open_clip:ARCH/PRETRAINED, zoo:NAME, ...")],
    last_layers: Annotated[
        int | None,
        typer.Option("--last-layers", min=0, help="From the last; 10, for Swin 12, for MaxViT 20; 0 for all."),
    ] = None,
    penalty: Annotated[float, typer.Option("--penalty", min=0, help="Lambda, of what is not orthogonal.")] = 1e-3,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of Adam.")] = 1500,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Its learning rate.")] = 1e-3,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Beside it one map for all, and maps without penalty (table 7.1).")
    ] = False,
    template: Annotated[
        str, typer.Option("--template", help="Of a class's name, for --ablations.")
    ] = "a photo of a {}",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Learn a map for each component from the model's space into a CLIP's (CompAlign); no labels are read."""
    from .align_report import align_report

    finish(
        lambda: align_report(
            source, out, seed, clip=clip, last_layers=last_layers, penalty=penalty, steps=steps, rate=rate,
            ablations=ablations, template=template,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
@takes_source
def describe(
    out: Out,
    alignment: Alignment = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", metavar="FILE", help="A text a line; the features' texts if not given.")
    ] = None,
    features: Features = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Texts for each component.")] = 10,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Describe each component by the texts along which it varies most (TextSpan)."""
    from .align_report import describe_report

    finish(
        lambda: describe_report(
            source, out, seed, alignment=alignment, texts=texts, features=features, count=count
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
@takes_source
def score(
    out: Out,
    alignment: Alignment = None,
    features: Features = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Score components for features (algorithm 5), and compare with retrieval by the CLIP and with annotations."""
    from .score_report import score_report

    finish(lambda: score_report(source, out, seed, alignment=alignment, features=features), out, fresh, as_json)


@app.command()
@takes_source
def retrieve(
    out: Out,
    alignment: Alignment = None,
    features: Features = None,
    feature: Annotated[str | None, typer.Option("--feature", metavar="NAME", help="One; all if not given.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="What to find, by the feature's components.")] = None,
    like: Annotated[
        Path | None, typer.Option("--like", metavar="FILE", help="A picture whose like to find, feature by feature.")
    ] = None,
    top: Top = 5,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Find pictures by a text or by another picture, through the components of one feature."""
    from .retrieval_report import retrieve_report

    finish(
        lambda: retrieve_report(
            source, out, seed, alignment=alignment, features=features, feature=feature, text=text, like=like, top=top
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
@takes_source
def heatmap(
    out: Out,
    feature: Feature,
    text: Annotated[str, typer.Option("--text", help="One of the feature's values, or any words.")],
    picture: Annotated[
        list[Path],
        typer.Option("--picture", metavar="FILE", help="Where to look; repeat it. --images score the heads."),
    ],
    alignment: Alignment = None,
    features: Features = None,
    top: Top = 3,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Show where in pictures the heads of one feature find what a text says."""
    from .place_report import heatmap_report

    finish(
        lambda: heatmap_report(
            source, out, seed, alignment=alignment, features=features, feature=feature, text=text,
            pictures=picture, top=top,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
@takes_source
def segment(
    out: Out,
    feature: Feature,
    masks: Annotated[
        Path, typer.Option("--masks", metavar="DIR", help="PNG files named as the pictures; not black is the thing.")
    ],
    alignment: Alignment = None,
    features: Features = None,
    top: Top = 5,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Cut things out by heat maps, with no training, and compare with masks; the feature's annotation says which."""
    from .place_report import segment_report

    finish(
        lambda: segment_report(
            source, out, seed, alignment=alignment, features=features, feature=feature, masks=masks, top=top
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
@takes_source
def debias(
    out: Out,
    remove: Annotated[str, typer.Option("--remove", metavar="NAME", help="The feature to take out, such as location.")],
    keep: Annotated[str, typer.Option("--keep", metavar="NAME", help="The feature of the classes.")],
    alignment: Alignment = None,
    features: Features = None,
    label: Label = "label",
    group: Annotated[str, typer.Option("--group", help="The annotation that tells groups apart.")] = "group",
    top: Top = 10,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    *,
    source: Source,
) -> None:
    """Set the components of one feature to their mean, and measure a classifier's accuracy group by group."""
    from .debias_report import debias_report

    finish(
        lambda: debias_report(
            source, out, seed, alignment=alignment, features=features, remove=remove, keep=keep, label=label,
            group=group, top=top,
        ),
        out, fresh, as_json,
    )  # fmt: skip
