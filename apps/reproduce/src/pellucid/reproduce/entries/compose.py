"""Chapter 9 and 11.8, 11.9: composition in CLIP and in text-to-image models."""

from collections.abc import Mapping
from typing import Any

from ..entry import Entry, Number, Paper, Step, Zoo, step, words
from ..picking import Found

_SD, _CLIP = "zoo:tinyworld-sd", "zoo:tinyworld-clip"
_DRAW = "--guidance 4 --sampling-steps 10"
_SETS = "{out}/compose-sets"
_PROMPT = "a yellow star and a purple moon"  # the first of prompts.txt

SETS = step(
    "compose-sets", f"zoo dataset compositions --train 800 --validation 200 --test 200 --out {_SETS}", 5, reports=False
)
SCORE = step(
    "compose-score",
    f"compose score --cases {_SETS}/cases.jsonl --clip {_CLIP} --model {_SD} --classes"
    f" {_SETS}/classes --samples 10 -n 60",
    25,
)


def _distil(name: str, method: str) -> Step:
    return step(
        f"compose-{name}",
        f"compose distill --clip {_CLIP} --model {_SD} --captions {_SETS}/train --method {method} --steps 150"
        f" --cases {_SETS}/cases.jsonl --classes {_SETS}/classes",
        50,
    )


SDS, PLAIN = _distil("sds", "sds"), _distil("contrastive", "contrastive")
LOOKS = step("compose-looks", f"compose contributions --model {_SD} --prompts {_SETS}/prompts.txt -n 100", 20)


def _project(name: str, method: str) -> Step:
    return step(
        f"compose-{name}",
        f"compose train-projection --model {_SD} --captions {_SETS}/train --method {method} --steps 300 --rate 1e-4",
        30,
    )


WICLP, CLP = _project("wiclp", "wiclp"), _project("clp", "clp")


def _draw(name: str, taus: str) -> Step:
    return step(
        f"compose-drawn-{name}",
        f"compose generate --model {_SD} --projection {{out}}/compose-{name} --prompts {_SETS}/prompts.txt -n 16"
        f" --seeds 2 --taus {taus} {_DRAW}",
        20,
    )


DRAWN, DRAWN_CLP = _draw("wiclp", "0.2,0.5,0.8"), _draw("clp", "0.2")
OWN = step(
    "compose-own",
    f"compose curate --model {_SD} --prompts {_SETS}/prompts.txt -n 1 --seeds 40 --keep 10"
    f" --scorer tinyworld {_DRAW}", 20,
)  # fmt: skip
EMBEDDING = step(
    "compose-embedding",
    f'compose optimise-embedding --model {_SD} --captions {{out}}/compose-own/kept --caption "{_PROMPT}"'
    f" --scorer tinyworld --steps 100 --seeds 8 {_DRAW}",
    25,
)

_SD14, _SD15 = "CompVis/stable-diffusion-v1-4", "stable-diffusion-v1-5/stable-diffusion-v1-5"
_CLIPS = ("open_clip:ViT-B-16/openai", "open_clip:ViT-B-32/openai", "open_clip:ViT-L-14/openai",
          "open_clip:ViT-L-14-336/openai", "open_clip:RN50/openai")  # fmt: skip
_GPU = "1 GPU of 48 GB"
_COCO = "MS-COCO's captions with their pictures; Winoground; ARO"


def _paper_distil(folder: str, clip: str) -> tuple[str, ...]:
    return words(
        f"compose distill --clip {clip} --model {_SD14} --captions {{data}}/coco/captions_train2017.json --method sds"
        f" --cases {{data}}/winoground --classes {{data}}/imagenet/val --device cuda --out {{out}}/{folder}"
    )


_DISTILLED = tuple(_paper_distil(f"sds-{number}", clip) for number, clip in enumerate(_CLIPS))
_PAPER_SCORE = words(
    "compose score --cases {data}/winoground " + " ".join(f"--clip {clip}" for clip in _CLIPS)
    + f" --model {_SD14} --samples 50 --device cuda --out {{out}}/winoground"
)  # fmt: skip
_COMPBENCH = "{data}/compbench/color_val.txt"


def _wiclp(name: str, model: str, way: str = "wiclp") -> tuple[tuple[str, ...], ...]:
    return (
        words(
            f"compose train-projection --model {model} --captions {{data}}/curated --method {way} --device cuda"
            f" --out {{out}}/{way}-{name}"
        ),
        words(
            f"compose generate --model {model} --projection {{out}}/{way}-{name} --prompts {_COMPBENCH} --seeds 10"
            f" --taus 0.2,0.5,0.8 --device cuda --out {{out}}/drawn-{way}-{name}"
        ),
    )


def _said(model: str) -> tuple[Any, ...]:
    """The text score of a matcher, over all records."""

    def find(results: Mapping[str, Any]) -> Any:
        [rows] = (
            [rows for name, rows in results["matching"].items() if name.startswith(model) and "diffusion" not in name]
            if model != "diffusion"
            else [rows for name, rows in results["matching"].items() if "diffusion" in name]
        )
        return rows[0]["text"]

    return (find,)


def _gains(one: Step, name: str) -> tuple[Number, ...]:
    return (
        Number(f"{name}, text score before", one.name, ("before", "text")),
        Number(f"{name}, text score after", one.name, ("after", "text")),
        Number(f"{name}, gain", one.name, ("gains", "text")),
    )


def _gained(what: str) -> Any:
    def told(ours: Mapping[str, Found]) -> bool | None:
        found = ours[what]
        if found.low is not None and found.high is not None and found.low <= 0 <= found.high:
            return None
        return found.number > 0

    return told


def _judged(name: str, drawn: Step, arm: str) -> Step:
    return step(
        f"compose-judged-{name}",
        f"compose evaluate --pictures {{out}}/{drawn.name}/pictures/{arm} --against"
        f" {{out}}/{drawn.name}/pictures/{_BASE}"
        f" --scorer tinyworld --reference {_SETS}/train --features {_CLIP}",
        15,
    )


_BASE = "base"
_ARM = "tau-{}"
JUDGED = {tau: _judged(f"wiclp-{tau}", DRAWN, _ARM.format(tau)) for tau in ("0.2", "0.5", "0.8")}
JUDGED_CLP = _judged("clp", DRAWN_CLP, _ARM.format("0.2"))
_DRAWN_STEPS = (SETS, WICLP, DRAWN, *JUDGED.values())

_PAIRS = "60 records of two pictures and two captions, 10 noises, seed 0"
_TUNED = "200 records, 800 captioned pictures, 150 steps, seed 0"
_WORLD = "Tinyworld's models and records, whose captions differ as Winoground's do"


def _entry(name: str, shows: str, thesis: str, zoo: Zoo, paper: Paper, differs: str = _WORLD) -> Entry:
    return Entry(name, shows, "compose", thesis, zoo, paper, differs)


_SDS_NUMBERS = (*_gains(SDS, "SDS-CLIP"), *_gains(PLAIN, "contrastive tuning alone"))
_BETTER = _gained("SDS-CLIP, gain")
_VOTES = tuple(
    number
    for tau, one in JUDGED.items()
    for number in (
        Number(f"WiCLP, tau {tau}, score", one.name, ("tinyworld", "mean")),
        Number(f"WiCLP, tau {tau}, gain over the base model", one.name, ("tinyworld", "gain")),
    )
)

COMPOSE = (
    _entry(
        "figure-9.1",
        "Winoground: CLIPs and the diffusion score",
        "the diffusion score is ahead of every CLIP (0.35 against 0.24 to 0.31), at 18 times the time (50 samplings)",
        Zoo(
            (SETS, SCORE),
            _PAIRS,
            (
                Number("CLIP, text score", SCORE.name, _said(_CLIP)),
                Number("diffusion score, text score", SCORE.name, _said("diffusion")),
            ),
            lambda ours: ours["diffusion score, text score"].number > ours["CLIP, text score"].number,
        ),
        Paper((_PAPER_SCORE,), f"{', '.join(_CLIPS)}, {_SD14}", "Winoground", _GPU, "about 12"),
    ),
    _entry(
        "figure-9.2",
        "zero-shot accuracy before and after distillation",
        "no drop; ViT-B/16 gains 1 to 8 % on ImageNet, CIFAR-10, MNIST and Aircraft",
        Zoo(
            (SETS, SDS),
            "200 pictures of single things, 150 steps, seed 0",
            (
                Number("before", SDS.name, ("before", "zero-shot")),
                Number("after", SDS.name, ("after", "zero-shot")),
                Number("gain", SDS.name, ("gains", "zero-shot")),
            ),
            lambda ours: (ours["gain"].high if ours["gain"].high is not None else ours["gain"].number) >= 0,
        ),
        Paper(
            _DISTILLED,
            f"{', '.join(_CLIPS)}, {_SD14}",
            f"{_COCO}; data sets of classes",
            _GPU,
            "about 6 a CLIP, the thesis's",
        ),
        f"{_WORLD}; carries over where the loss is not told from none",
    ),
    _entry(
        "table-9.1",
        "Winoground and ARO: CLIPs, fine-tuned without and with the distillation loss",
        "Winoground, ViT-B/16: 0.24, 0.23 (contrastive), 0.31 (with L_SDS); ViT-L/14 0.28,"
        " 0.26, 0.295; RN50 0.25, 0.24, 0.265",
        Zoo((SETS, SDS, PLAIN), _TUNED, _SDS_NUMBERS, _BETTER),
        Paper(
            (
                *_DISTILLED,
                *(
                    words(
                        f"compose distill --clip {clip} --captions"
                        f" {{data}}/coco/captions_train2017.json --method contrastive --cases"
                        f" {{data}}/winoground --device cuda --out {{out}}/plain-{number}"
                    )
                    for number, clip in enumerate(_CLIPS)
                ),
            ),
            f"{', '.join(_CLIPS)}, {_SD14}",
            _COCO,
            _GPU,
            "about 6 a CLIP, the thesis's",
        ),
    ),
    _entry(
        "figure-9.4",
        "attention contributions among the words of one prompt, CLIP and T5",
        "CLIP's “car” looks at “green” of the bench; T5's does not",
        Zoo(
            (SETS, LOOKS),
            "100 prompts, one text encoder, seed 0",
            (Number("share of looks at the other thing's attribute", LOOKS.name, ("unintended", ...)),),
        ),
        Paper(
            (
                words(
                    f"compose contributions --model {_SD14} --prompts {_COMPBENCH} --device"
                    f" cuda --out {{out}}/contributions-clip"
                ),
                words(
                    "compose contributions --model DeepFloyd/IF-I-XL-v1.0 --prompts"
                    " {data}/compbench/color_val.txt --device cuda --out"
                    " {out}/contributions-t5"
                ),
            ),
            f"{_SD14}, DeepFloyd/IF-I-XL-v1.0",
            "T2I-CompBench's prompts",
            _GPU,
            "about 1",
        ),
        "the zoo has no T5: one encoder alone, so nothing is decided",
    ),
    _entry(
        "figure-9.5",
        "how often layers contribute by mistake, CLIP and T5",
        "CLIP far more often than T5, over 780 prompts of colour and 582 of texture",
        Zoo(
            (SETS, LOOKS),
            "100 prompts, one text encoder, seed 0",
            (Number("share of looks at the other thing's attribute", LOOKS.name, ("unintended", ...)),),
        ),
        Paper(
            (
                words(
                    f"compose contributions --model {_SD14} --prompts {_COMPBENCH} --device"
                    f" cuda --out {{out}}/contributions-clip"
                ),
                words(
                    "compose contributions --model DeepFloyd/IF-I-XL-v1.0 --prompts"
                    " {data}/compbench/color_val.txt --device cuda --out"
                    " {out}/contributions-t5"
                ),
            ),
            f"{_SD14}, DeepFloyd/IF-I-XL-v1.0",
            "T2I-CompBench's prompts",
            _GPU,
            "about 1, shared with figure-9.4",
        ),
        "the zoo has no T5: one encoder alone, so nothing is decided",
    ),
    _entry(
        "figure-9.6",
        "pictures from an optimised text embedding, the UNet frozen",
        "the UNet can draw what CLIP's embedding does not make it draw",
        Zoo(
            (SETS, OWN, EMBEDDING),
            "one prompt, 10 pictures to learn from, 8 noises, seed 0",
            (Number("gain of the optimised embedding", EMBEDDING.name, ("gain",)),),
            _gained("gain of the optimised embedding"),
        ),
        Paper(
            (
                words(
                    f"compose optimise-embedding --model {_SD14} --captions {{data}}/curated"
                    ' --caption "a red book and a yellow table" --scorer'
                    f" vqa:Salesforce/blip-vqa-base --device cuda --out {{out}}/embedding"
                ),
            ),
            f"{_SD14}, Salesforce/blip-vqa-base",
            "curated pictures of the prompt",
            _GPU,
            "about 1 a prompt",
        ),
    ),
    _entry(
        "figure-9.7",
        "SWITCH-OFF: the score against FID, over thresholds",
        "tau 800 keeps the score of a projection at every step, and nearly the FID of the model as it was"
        " (the picture that 9.2.5 calls Figure 6 goes with it)",
        Zoo(
            _DRAWN_STEPS,
            "16 held-out prompts, 2 noises, 3 thresholds, seed 0",
            (*_VOTES, *(Number(f"tau {tau}, FID", one.name, ("fid",)) for tau, one in JUDGED.items())),
        ),
        Paper(
            (
                *_wiclp("sd14", _SD14),
                words(
                    "compose evaluate --pictures {out}/drawn-wiclp-sd14/pictures/tau-0.8"
                    " --scorer vqa:Salesforce/blip-vqa-base --reference {data}/coco/val2017"
                    " --device cuda --out {out}/judged-sd14"
                ),
            ),
            f"{_SD14}, Salesforce/blip-vqa-base",
            "curated pictures; T2I-CompBench; MS-COCO",
            _GPU,
            "about 14",
        ),
        f"{_WORLD}; FID of 32 pictures by the small CLIP's features says little, so nothing is decided",
    ),
    *(
        _entry(
            name,
            shows,
            finding,
            Zoo((SETS, WICLP, DRAWN, JUDGED["0.2"]), "16 held-out prompts, 2 noises, seed 0", _VOTES[:2]),
            Paper(_wiclp("sd14", _SD14, way), _SD14, "curated pictures; T2I-CompBench", _GPU, hours),
            f"{_WORLD}; pictures are in the report of compose-drawn-wiclp",
        )
        for name, shows, finding, way, hours in (
            (
                "figure-9.8",
                "cross-attention maps with a projection",
                "maps of things and attributes are sharper with CLP",
                "clp",
                "about 12",
            ),
            (
                "figure-9.9",
                "pictures of the base model and with WiCLP",
                "things and attributes are drawn as asked",
                "wiclp",
                "about 12",
            ),
            (
                "figure-11.11",
                "more pictures with WiCLP",
                "things and attributes are drawn as asked",
                "wiclp",
                "about 12, shared with figure-9.9",
            ),
            (
                "figure-11.12",
                "pictures with the projection until different time-steps",
                "composition is fixed in the early steps",
                "wiclp",
                "about 12, shared with figure-9.9",
            ),
        )
    ),
    _entry(
        "table-9.2",
        "T2I-CompBench: color, texture and shape scores of methods",
        "SDXL 0.5770 to 0.6930 (WiCLP), 0.7801 (WiCLP*) in color; SD v2 and others alike: WiCLP gains everywhere",
        Zoo(
            (SETS, WICLP, DRAWN, JUDGED["0.2"], CLP, DRAWN_CLP, JUDGED_CLP),
            "16 held-out prompts of two coloured things, 2 noises, 300 steps, seed 0",
            (*_VOTES[:2], Number("CLP, tau 0.2, gain over the base model", JUDGED_CLP.name, ("tinyworld", "gain"))),
            _gained("WiCLP, tau 0.2, gain over the base model"),
        ),
        Paper(
            (
                *_wiclp("sd14", _SD14),
                *_wiclp("sd14", _SD14, "clp"),
                *_wiclp("sd2", "stabilityai/stable-diffusion-2"),
                *_wiclp("sdxl", "stabilityai/stable-diffusion-xl-base-1.0"),
            ),
            f"{_SD14}, stabilityai/stable-diffusion-2,"
            " stabilityai/stable-diffusion-xl-base-1.0, Salesforce/blip-vqa-base",
            "curated pictures; T2I-CompBench",
            _GPU,
            "about 60",
        ),
    ),
    *(
        _entry(
            name,
            shows,
            finding,
            Zoo((SETS, SDS), _TUNED, _gains(SDS, "SDS-CLIP"), _BETTER),
            Paper((_paper_distil(folder, clip),), f"{clip}, {_SD14}", _COCO, _GPU, "about 6, the thesis's"),
            f"{_WORLD}; one small CLIP, the same as for table-9.1",
        )
        for name, shows, finding, folder, clip in (
            (
                "table-11.5",
                "Winoground with a CLIP of LAION-400M",
                "0.24 before, 0.24 contrastive, 0.30 with L_SDS",
                "sds-400m",
                "open_clip:ViT-B-16/laion400m_e32",
            ),
            (
                "table-11.6",
                "Winoground with a CLIP of LAION-2B",
                "0.27 before, 0.31 with L_SDS; the diffusion score has 0.35",
                "sds-2b",
                "open_clip:ViT-B-16/laion2b_s34b_b88k",
            ),
        )
    ),
)
