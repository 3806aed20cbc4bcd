"""What a vision transformer's components say, and the place taken out of one that learnt it for the object."""

from dataclasses import replace
from pathlib import Path

from pellucid.core.report import Figure, Section
from pellucid.vit_components.align_report import FILE, align_report
from pellucid.vit_components.debias_report import debias_report
from pellucid.vit_components.options import Source
from pellucid.vit_components.retrieval_report import retrieve_report
from pellucid.vit_components.score_report import score_report
from pellucid.zoo.world_datasets import write_dataset

from ..chapter import Chapter, Setting

MODEL, SPURIOUS, CLIP = "zoo:tinyworld-vit", "zoo:tinyworld-spurious", "zoo:tinyworld-clip"
STEPS = (500, 1500)  # of CompAlign: in the tour, and with --full
LEARNT, JUDGED, GROUPED = (800, 2000), (400, 1000), (800, 1200)  # pictures


def run(setting: Setting) -> Chapter:
    """Align two models with a CLIP, score one's components, find pictures by them; debias the other."""
    views = _drawn("views", {"train": setting.of(LEARNT), "validation": 0, "test": setting.of(JUDGED)}, setting)
    groups = _drawn("groups", {"train": 0, "validation": 0, "test": setting.of(GROUPED)}, setting)
    words = views / "features.json"

    def source(model: str, images: Path, split: str) -> Source:
        store = setting.out / model.partition(":")[2]
        return Source(model, images, split=split, store=store, batch=50, workers=setting.workers)

    learnt = align_report(
        source(MODEL, views, "train"),
        setting.out / "vit",
        setting.seed,
        clip=CLIP,
        last_layers=0,
        steps=setting.of(STEPS),
    )
    seen, maps = source(MODEL, views, "test"), setting.out / "vit" / FILE
    scored = score_report(seen, setting.out, setting.seed, alignment=maps, features=words)
    beach = retrieve_report(
        seen, setting.out, setting.seed, alignment=maps, feature="place", text="beach", features=words
    )
    like = sorted((views / "images/test/mug").iterdir())[0]
    alike = retrieve_report(seen, setting.out, setting.seed, alignment=maps, like=like, features=words)

    align_report(
        source(SPURIOUS, views, "train"),
        setting.out / "spurious",
        setting.seed,
        clip=CLIP,
        last_layers=0,
        steps=setting.of(STEPS),
    )
    cleaned = debias_report(
        source(SPURIOUS, groups, "test"), setting.out, setting.seed, alignment=setting.out / "spurious" / FILE,
        features=groups / "features.json", remove="place", keep="object", label="object",
    )  # fmt: skip
    figures = [
        *_named(scored.sections[0], "scores"),
        *_named(beach.sections[0], "beach"),
        *_named(alike.sections[0], "alike"),
        *_named(cleaned.sections[0], "groups"),
    ]
    worst = cleaned.results["worst"]
    finding = (
        f"A vision transformer that learnt the place for the object names its worst group right in {worst['before']}; "
        f"with the ten components that carry the place at their mean, and no training, in {worst['after']}."
    )
    section = Section(
        "Vision: what does each head say?",
        [
            finding,
            f"{MODEL} tells objects apart, and no text was ever near it. Its representation is the exact sum of what "
            "each head and MLP adds (thesis, algorithm 3); a map for each, learnt without labels, takes these parts "
            f"into the space of a small CLIP (7.2), whose words then describe them. {learnt.summary}",
            scored.summary,
            "Below: scores of components for features; pictures of the beach found by the components of place, from "
            "the highest score down; pictures that are like one picture in one feature at a time; and the groups of "
            f"{SPURIOUS}, which was trained where boats are on the beach and cars in the city.",
        ],
        figures,
        [scored.sections[0].tables[-1], cleaned.sections[0].tables[0]],
    )
    results = {
        "aligned": learnt.results["compalign"],
        "truth": scored.results["truth"],
        "worst": worst,
        "average": cleaned.results["average"],
        "gain": cleaned.results["gain"],
    }
    return Chapter(finding, section, results)


def _drawn(name: str, sizes: dict[str, int], setting: Setting) -> Path:
    """A data set of the drawn world, drawn once."""
    out = setting.out / f"{name}-{setting.seed}"
    return out if (out / "annotations.parquet").is_file() else write_dataset(name, out, sizes, seed=setting.seed)


def _named(section: Section, name: str) -> list[Figure]:
    return [replace(figure, name=name) for figure in section.figures]
