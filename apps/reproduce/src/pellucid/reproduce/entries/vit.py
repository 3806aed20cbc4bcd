"""Chapter 7 and 11.6: vision transformers."""

from collections.abc import Mapping
from typing import Any

from ..entry import Entry, Number, Paper, Zoo, step, words
from ..picking import Found

_VIT, _SWIN, _MAXVIT = "zoo:tinyworld-vit", "zoo:tinyworld-swin", "zoo:tinyworld-maxvit"
_FEATURES = "--features {out}/vit-views/features.json"
_STORE = "--store {out}/vit-store"

VIEWS = step(
    "vit-views", "zoo dataset views --train 1000 --validation 200 --test 600 --out {out}/vit-views", 5, reports=False
)
GROUPS = step("vit-groups", "zoo dataset groups --train 200 --validation 200 --test 800 --out {out}/vit-groups", 5,
              reports=False)  # fmt: skip
ABLATE = {
    name: step(
        f"vit-ablate-{name}",
        f"vit ablate --model {model} --images {{out}}/vit-views --split test -n 300 --label object",
        25,
    )
    for name, model in (("ViT", _VIT), ("Swin", _SWIN), ("MaxViT", _MAXVIT))
}
ALIGN = step(
    "vit-align",
    f"vit align --model {_VIT} --images {{out}}/vit-views --split train --clip zoo:tinyworld-clip --last-layers 0"
    f" --ablations {_STORE}",
    55,
)
ALIGN_SWIN = step(
    "vit-align-swin",
    f"vit align --model {_SWIN} --images {{out}}/vit-views --split train --clip"
    f" zoo:tinyworld-clip --last-layers 0 {_STORE}",
    55,
)
ALIGN_SPURIOUS = step(
    "vit-align-spurious",
    "vit align --model zoo:tinyworld-spurious --images {out}/vit-views --split train --clip zoo:tinyworld-clip"
    f" --last-layers 0 {_STORE}",
    30,
)
_ALIGNED = f"--images {{out}}/vit-views --split test {_FEATURES} {_STORE}"
_OF_VIT = f"--model {_VIT} {_ALIGNED} --alignment {{out}}/vit-align/alignment.safetensors"
SCORE = step("vit-score", f"vit score {_OF_VIT}", 25)
SCORE_SWIN = step(
    "vit-score-swin",
    f"vit score --model {_SWIN} {_ALIGNED} --alignment {{out}}/vit-align-swin/alignment.safetensors",
    25,
)
BEACH = step("vit-retrieve", f"vit retrieve {_OF_VIT} --feature place --text snow --top 3", 15)
CUT = step("vit-segment", f"vit segment {_OF_VIT} -n 200 --feature colour --masks {{out}}/vit-views/masks", 20)
DEBIAS = step(
    "vit-debias",
    "vit debias --model zoo:tinyworld-spurious --images {out}/vit-groups --split test"
    " --alignment {out}/vit-align-spurious/alignment.safetensors --features {out}/vit-groups/features.json"
    " --remove place --keep object --label object",
    20,
)

_MODELS = {
    "deit": "timm:deit_base_patch16_224.fb_in1k",
    "dino": "timm:vit_base_patch16_224.dino",
    "dinov2": "timm:vit_base_patch14_dinov2.lvd142m",
    "swin": "timm:swin_base_patch4_window7_224.ms_in1k",
    "maxvit": "timm:maxvit_small_tf_224.in1k",
}
_LAYERS = {"swin": 12, "maxvit": 20}
_NAMES = ", ".join(_MODELS.values())
_CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
_GPU = "1 GPU of 24 GB"


def _align(name: str, more: str = "") -> tuple[str, ...]:
    return words(
        f"vit align --model {_MODELS[name]} --images {{data}}/imagenet --split train -n 50000 --clip {_CLIP}"
        f" --last-layers {_LAYERS.get(name, 10)} --device cuda --batch 64{more} --out {{out}}/align-{name}"
    )


def _with(command: str, name: str, images: str, more: str) -> tuple[str, ...]:
    return words(
        f"vit {command} --model {_MODELS[name]} --images {{data}}/{images} --alignment"
        f" {{out}}/align-{name}/alignment.safetensors --device cuda {more} --out {{out}}/{command}-{name}"
    )


def _all(command: str, images: str, more: str) -> tuple[tuple[str, ...], ...]:
    return tuple(line for name in _MODELS for line in (_align(name), _with(command, name, images, more)))


def _without(layers: int) -> tuple[Any, ...]:
    return ("ablation", {"layers": layers}, "accuracy")


def _top(by: str, feature: str) -> tuple[Any, ...]:
    return ("truth", {"feature": feature}, by)


def _kept(ours: Mapping[str, Found]) -> bool:
    """Whether most accuracy is still there without the last two layers."""
    return all(ours[f"{name}, last 2 layers"].number > 0.6 * ours[f"{name}, all layers"].number for name in ABLATE)


def _ordered(ours: Mapping[str, Found]) -> bool:
    return all(found.low is not None and found.low > 0 for what, found in ours.items() if "components" in what)


_WORLD = "Tinyworld's pictures and CLIP; small models"
_TESTED = "600 test pictures, 1,000 training pictures, seed 0"

VIT = (
    Entry(
        "figure-7.2",
        "accuracy as layers are set to their mean, from the last on",
        "vit",
        "models keep most of their accuracy without the last layers (curves without numbers)",
        Zoo(
            (VIEWS, *ABLATE.values()),
            "300 pictures, 3 models, seed 0",
            tuple(
                Number(f"{name}, {what}", one.name, _without(layers))
                for name, one in ABLATE.items()
                for what, layers in (("all layers", 0), ("last 1 layer", 1), ("last 2 layers", 2))
            ),
            _kept,
        ),
        Paper(
            tuple(
                words(
                    f"vit ablate --model {model} --images {{data}}/imagenet --split val"
                    f" --device cuda --out {{out}}/ablate-{name}"
                )
                for name, model in _MODELS.items()
            ),
            _NAMES,
            "ImageNet's validation pictures",
            _GPU,
            "about 10",
        ),
        _WORLD,
    ),
    Entry(
        "table-7.1",
        "ways of mapping a model's space into CLIP's: CompAlign, without its regulariser, one map",
        "vit",
        "cosine distance 0.17 (CompAlign), 0.18 (lambda 0), 0.23 (one map); match rate 0.185, 0.155, 0.08",
        Zoo(
            (VIEWS, ALIGN),
            _TESTED,
            tuple(
                Number(f"{name}, {what}", ALIGN.name, (key, field))
                for what, field in (("cosine distance", "cosine_distance"), ("match rate", "match_rate"))
                for name, key in (("CompAlign", "compalign"), ("lambda 0", "free"), ("one map", "one"))
            ),
            lambda ours: (
                ours["CompAlign, cosine distance"].number
                < min(ours["lambda 0, cosine distance"].number, ours["one map, cosine distance"].number)
            ),
        ),
        Paper(
            (_align("deit", " --ablations"),),
            f"{_MODELS['deit']}, {_CLIP}",
            "50,000 pictures of ImageNet",
            _GPU,
            "about 3",
        ),
        f"{_WORLD}; the verdict is on the distance",
    ),
    Entry(
        "table-7.2",
        "Spearman between orderings by the CLIP's score and by component scores, over models",
        "vit",
        "over features / components: DeiT .531 / .684, DINO .714 / .723, DINOv2 .716 / .703,"
        " Swin .628 / .801, MaxViT .681 / .849",
        Zoo(
            (VIEWS, ALIGN, SCORE, ALIGN_SWIN, SCORE_SWIN),
            _TESTED,
            tuple(
                Number(f"{name}, over {what}", one.name, (key,))
                for name, one in (("ViT", SCORE), ("Swin", SCORE_SWIN))
                for what, key in (("features", "feature_ordering"), ("components", "component_ordering"))
            ),
            _ordered,
        ),
        Paper(_all("score", "imagenet", "--split val"), f"{_NAMES}, {_CLIP}", "ImageNet", _GPU, "about 20"),
        f"{_WORLD}; carries over where the intervals over components lie above 0",
    ),
    Entry(
        "table-11.4",
        "Spearman between retrieval by the CLIP and by components, by feature",
        "vit",
        "DeiT: color .679, texture .563, animal .774, person .596, location .818, pattern .597, shape .764",
        Zoo(
            (VIEWS, ALIGN, SCORE),
            _TESTED,
            tuple(
                Number(name, SCORE.name, ("features", name))
                for name in ("object", "colour", "texture", "place", "style")
            ),
            lambda ours: all(found.low is not None and found.low > 0 for found in ours.values()),
        ),
        Paper(
            _all("score", "imagenet", "--split val"),
            f"{_NAMES}, {_CLIP}",
            "ImageNet",
            _GPU,
            "about 20, shared with table-7.2",
        ),
        f"{_WORLD} with other features",
    ),
    Entry(
        "figure-7.3",
        "pictures that components find for a text, in the order of their scores",
        "vit",
        "components of high score for location find forests and beaches; for the eye",
        Zoo(
            (VIEWS, ALIGN, SCORE, BEACH),
            _TESTED,
            (
                Number("precision@10 by text, place", SCORE.name, _top("by_text", "place")),
                Number("AUROC of the top component, place", SCORE.name, _top("auroc", "place")),
                Number("AUROC of the median component, place", SCORE.name, _top("median", "place")),
            ),
        ),
        Paper(
            (
                _align("deit"),
                _with("retrieve", "deit", "imagenet", "--split val --feature location --text forest --top 3"),
            ),
            f"{_MODELS['deit']}, {_CLIP}",
            "ImageNet",
            _GPU,
            "about 4",
        ),
        _WORLD,
    ),
    Entry(
        "figure-7.4",
        "pictures like another in one feature, by the feature's components",
        "vit",
        "each feature's components find pictures like the reference in that feature; for the eye",
        Zoo(
            (VIEWS, ALIGN, SCORE),
            _TESTED,
            tuple(
                Number(f"precision@10 by picture, {feature}, {what}", SCORE.name, _top(by, feature))
                for feature in ("colour", "place")
                for what, by in (("components", "by_picture"), ("whole representation", "whole"))
            ),
            lambda ours: all(
                ours[f"precision@10 by picture, {f}, components"].number
                > ours[f"precision@10 by picture, {f}, whole representation"].number
                for f in ("colour", "place")
            ),
        ),
        Paper(
            tuple(
                line
                for name in ("dino", "deit", "swin")
                for line in (
                    _align(name),
                    _with("retrieve", name, "imagenet", "--split val --like {data}/reference.jpg --top 3"),
                )
            ),
            f"{_MODELS['dino']}, {_MODELS['deit']}, {_MODELS['swin']}, {_CLIP}",
            "ImageNet and a reference picture",
            _GPU,
            "about 10",
        ),
        f"{_WORLD}; annotations judge in place of the eye",
    ),
    Entry(
        "figure-7.5",
        "heat maps of token contributions, and segmentation by them",
        "vit",
        "regions that show the feature are red; for the eye",
        Zoo(
            (VIEWS, ALIGN, SCORE, CUT),
            "200 test pictures, 5 heads of colour, seed 0",
            tuple(
                Number(what.replace("_", " "), CUT.name, ("segmentation", what))
                for what in ("pixel_accuracy", "mean_iou", "mean_precision")
            ),
        ),
        Paper(
            (
                _align("deit"),
                _with(
                    "heatmap",
                    "deit",
                    "imagenet",
                    "--split val --feature location --text beach --picture {data}/beach.jpg",
                ),
            ),
            f"{_MODELS['deit']}, {_CLIP}",
            "ImageNet and two pictures",
            _GPU,
            "about 4",
        ),
        f"{_WORLD}; masks judge in place of the eye",
    ),
    Entry(
        "table-7.3",
        "Waterbirds: accuracy of the worst group and of all, before and after components are removed",
        "vit",
        "worst / average: DeiT .733 to .815 / .874 to .913; CLIP .507 to .744 / .727 to .790; DINO .800 to .911;"
        " DINOv2 .967 to .978; Swin .834 to .871; MaxViT .777 to .814",
        Zoo(
            (VIEWS, ALIGN_SPURIOUS, GROUPS, DEBIAS),
            "800 test pictures, ten components, seed 0",
            tuple(
                Number(f"{what} group {when}".replace("average group", "average"), DEBIAS.name, (what, key))
                for what in ("worst", "average")
                for when, key in (("before", "before"), ("after", "after"), ("without ten random ones", "random"))
            ),
            lambda ours: (
                ours["worst group after"].number
                > max(ours["worst group before"].number, ours["worst group without ten random ones"].number)
            ),
        ),
        Paper(
            tuple(
                line
                for name in _MODELS
                for line in (
                    _align(name),
                    _with("debias", name, "waterbirds", "--split test --remove location --keep animal"),
                )
            ),
            f"{_NAMES}, {_CLIP}",
            "ImageNet, Waterbirds with classifiers' labels",
            _GPU,
            "about 20",
        ),
        "boats and cars on beaches and in cities, with a model trained to mistake the one for the other",
    ),
)
