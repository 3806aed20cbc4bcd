"""Chapter 4: hard few-shot tasks."""

from collections.abc import Mapping
from typing import Any

from ..entry import Entry, Number, Paper, Zoo, step, words
from ..picking import Found

_DINO = "timm:vit_small_patch16_224.dino"
_META = "omniglot,aircraft,cu_birds,dtd,quickdraw,fungi,vgg_flower,traffic_sign,mscoco"
_META_DATA = "Meta-Dataset's nine data sets, its splits"

DIGITS = step("fewshot-digits", "fewshot extract --images digits --tasks 200", 15)
MNIST = step("fewshot-mnist5k", "fewshot extract --images zoo:mnist5k --tasks 200", 15)
ANIMALS = step("fewshot-animals", "fewshot extract --images zoo:animals --tasks 200", 15)
GREEDY = step("fewshot-greedy", "bench fewshot -n 50 --slow 3 --many 200", 50)
JUDGED = step(
    "fewshot-judged",
    "fewshot evaluate --images zoo:mnist5k --tasks"
    " {out}/fewshot-mnist5k/default.parquet,{out}/fewshot-mnist5k/hard.parquet"
    " --backbones pixels,conv4:64/28=random --methods prototype,linear",
    20,
)
JUDGED_ANIMALS = step(
    "fewshot-judged-animals",
    "fewshot evaluate --images zoo:animals --tasks"
    " {out}/fewshot-animals/default.parquet,{out}/fewshot-animals/hard.parquet"
    " --backbones pixels,conv4:64/28=random --methods prototype,linear",
    20,
)
VIEWS = step(
    "fewshot-views", "zoo dataset views --train 0 --validation 0 --test 1600 --size 32 --out {out}/fewshot-views", 5,
    reports=False,
)  # fmt: skip
VIEWS_POOL = step("fewshot-views-pool", "fewshot embed --images {out}/fewshot-views/images/test", 5)
VIEWS_HARD = step(
    "fewshot-views-hard",
    "fewshot extract --pool {out}/fewshot-views-pool/pool.safetensors --query-where !view=left,!view=right --query 10",
    5,
)
VIEWS_WHY = step(
    "fewshot-views-why",
    "fewshot explain --pool {out}/fewshot-views-pool/pool.safetensors --hard {out}/fewshot-views-hard/hard.parquet"
    " --easy {out}/fewshot-views-hard/easy.parquet",
    5,
)


def _build(folder: str, names: str, backbone: str = _DINO) -> tuple[str, ...]:
    data = " ".join(f"--data {name}={{data}}/{name}" for name in names.split(","))
    return words(f"fewshot build {data} --backbone {backbone} --device cuda --out {{out}}/{folder}")


def _side(kind: str) -> tuple[Any, ...]:
    """Share of side views in the supports of a kind."""

    def share(results: Mapping[str, Any]) -> float:
        found = results["composition"][kind]
        sides = [found["annotations"].index(view) for view in ("view=left", "view=right")]
        return float(sum(found["support"]["value"][side] for side in sides))

    return (share,)


def _mean(judge: str, method: str, kind: str) -> tuple[Any, ...]:
    return ("means", {"judge": judge, "method": method, "kind": kind}, "estimate")


def _judges(ours: Mapping[str, Found]) -> bool:
    return all(found.number > 0 for what, found in ours.items() if "lost" in what)


def _drop(judge: str, method: str) -> tuple[Any, ...]:
    return ("drops", {"judge": judge, "method": method, "kind": "hard"}, "estimate")


_CONV = "conv4:64/28=random"

FEWSHOT = (
    Entry(
        "figure-4.1",
        "a strong classifier on default and on hard tasks, ten data sets",
        "fewshot",
        "lower on hard tasks in all ten data sets of Meta-Dataset, by up to 22 %",
        Zoo(
            (DIGITS, MNIST, ANIMALS),
            "3 pools, 200 tasks of each kind, 5-way 5-shot, raw pixels, seed 0",
            tuple(
                Number(f"{name}, {kind}", one.name, ("means", kind))
                for name, one in (("digits", DIGITS), ("MNIST-5k", MNIST), ("animals", ANIMALS))
                for kind in ("default", "hard", "easy")
            ),
            lambda ours: all(
                ours[f"{name}, hard"].number < ours[f"{name}, default"].number
                for name in ("digits", "MNIST-5k", "animals")
            ),
        ),
        Paper(
            (_build("figure-4.1", _META),),
            "timm/vit_small_patch16_224.dino, and meta-trained weights by --weights",
            _META_DATA,
            "1 GPU of 16 GB",
            "about 6",
        ),
        "prototypes of pixels, which chose the tasks, too, instead of a meta-trained ViT",
    ),
    Entry(
        "figure-4.2",
        "FastDiffSel against greedy search: how hard the tasks are, and how long they take",
        "fewshot",
        "tasks of similar accuracy, at least 20 times as fast (50 tasks a data set)",
        Zoo(
            (GREEDY,),
            "digits and MNIST-5k, 50 tasks each, greedy search the obvious way on 3 of them, seed 0",
            (),
        ),
        Paper(
            (words("bench fewshot -n 50 --slow 50 --many 1000 --out {out}/figure-4.2"), _build("figure-4.1", _META)),
            "timm/vit_small_patch16_224.dino",
            _META_DATA,
            "1 GPU of 16 GB",
            "about 6",
        ),
        "the step's report has the table of accuracies and times; in our measurements FastDiffSel is hundreds of times"
        " as fast, but its tasks are less hard than greedy search's",
    ),
    Entry(
        "figure-4.3",
        "backbones and ways of adapting on default and hard tasks of Meta-Dataset",
        "fewshot",
        "20 to 30 points lost, whatever the backbone, its pre-training or the way of adapting",
        Zoo(
            (MNIST, JUDGED),
            "MNIST-5k, 200 tasks a kind, chosen on pixels, seed 0",
            tuple(
                Number(f"{name}, {method}, accuracy lost", JUDGED.name, _drop(judge, method))
                for name, judge in (("pixels", "pixels"), ("Conv-4", _CONV))
                for method in ("prototype", "linear")
            ),
            _judges,
        ),
        Paper(
            (
                _build("figure-4.1", _META),
                words(
                    "fewshot evaluate --images {data}/aircraft --tasks {out}/figure-4.1/aircraft/hard.parquet,"
                    "{out}/figure-4.1/aircraft/default.parquet --backbones timm:resnet50.a1_in1k,"
                    f"{_DINO},open_clip:ViT-B-16/openai --methods prototype,linear,finetune --device cuda"
                    " --out {out}/figure-4.3-aircraft"
                ),
            ),
            "timm/resnet50.a1_in1k, timm/vit_small_patch16_224.dino, open_clip ViT-B-16",
            _META_DATA,
            "1 GPU of 24 GB",
            "about 40; the second command once a data set",
        ),
        "one data set, small backbones of which one has random weights",
    ),
    Entry(
        "figure-4.4",
        "classifiers on hard tasks of ObjectNet, CURE-OR and ORBIT",
        "fewshot",
        "CLIP's ViT-B is best by far on CURE-OR and ObjectNet, and close to the best on ORBIT (200 tasks each)",
        Zoo(
            (ANIMALS, JUDGED_ANIMALS),
            "animals, 200 tasks a kind, chosen on pixels, seed 0",
            tuple(
                Number(f"{name}, hard tasks, prototypes", JUDGED_ANIMALS.name, _mean(judge, "prototype", "hard"))
                for name, judge in (("pixels", "pixels"), ("Conv-4", _CONV))
            ),
        ),
        Paper(
            (
                _build("figure-4.4", "objectnet,cure_or,orbit"),
                words(
                    "fewshot evaluate --images {data}/objectnet --tasks {out}/figure-4.4/objectnet/hard.parquet"
                    f" --backbones timm:resnet50.a1_in1k,{_DINO},open_clip:ViT-B-16/openai --methods prototype"
                    " --device cuda --out {out}/figure-4.4-objectnet"
                ),
            ),
            "timm/resnet50.a1_in1k, timm/vit_small_patch16_224.dino, open_clip ViT-B-16",
            "ObjectNet, CURE-OR, ORBIT",
            "1 GPU of 24 GB",
            "about 6; the second command once a data set",
        ),
        "the zoo has no CLIP of photographs, so that the finding itself cannot be tried",
    ),
    Entry(
        "figure-4.5",
        "properties of support images in hard and in easy tasks, where queries are of front and back views",
        "fewshot",
        "CURE-OR: most support images of hard tasks are side views; ORBIT: a larger mismatch of quality issues",
        Zoo(
            (VIEWS, VIEWS_POOL, VIEWS_HARD, VIEWS_WHY),
            "1,600 renders of Tinyworld, 200 tasks a kind, queries with no side view, seed 0",
            (
                Number("side views in hard supports", VIEWS_WHY.name, _side("hard")),
                Number("side views in easy supports", VIEWS_WHY.name, _side("easy")),
            ),
            lambda ours: ours["side views in hard supports"].number > ours["side views in easy supports"].number,
        ),
        Paper(
            (
                words(
                    f"fewshot embed --images {{data}}/cure_or --backbone {_DINO} --device cuda --out {{out}}/cure-or"
                ),
                words(
                    "fewshot extract --pool {out}/cure-or/pool.safetensors --query-where !side --out {out}/cure-or-hard"
                ),
                words(
                    "fewshot explain --pool {out}/cure-or/pool.safetensors --hard {out}/cure-or-hard/hard.parquet"
                    " --easy {out}/cure-or-hard/easy.parquet --out {out}/figure-4.5"
                ),
            ),
            "timm/vit_small_patch16_224.dino",
            "CURE-OR and ORBIT, each with annotations.csv",
            "1 GPU of 16 GB",
            "about 2",
        ),
        "a drawn world, and pixels",
    ),
)
