"""Chapter 5 and 11.4: text-to-image models."""

from collections.abc import Mapping
from typing import Any

from ..entry import Entry, Number, Paper, Zoo, step, words
from ..picking import Found

_SD = "--model zoo:tinyworld-sd --guidance 4 --steps 10 --chunk 64"
_TRACE = f"t2i trace {_SD} --probes zoo:tinyworld-probes --noise 10 -n 16"
_CONCEPTS = "--concepts zoo:tinyworld-concepts"
_JUDGE = {"style": "tinyworld:style", "object": "tinyworld:object", "fact": "tinyworld:person"}
_HERO = "the ruler of the mill"

UNET = {what: step(f"t2i-unet-{what}", f"{_TRACE} --attribute {what} --scorer tinyworld:{what}", 60)
        for what in ("style", "object")}  # fmt: skip
TEXT = {what: step(f"t2i-text-{what}", f"{_TRACE} --where text --attribute {what} --scorer tinyworld:{what}", 40)
        for what in ("style", "object")}  # fmt: skip


def _locate(name: str, concept: str, kind: str, threshold: float) -> Any:
    return step(
        f"t2i-where-{name}",
        f't2i locate {_SD} --concept "{concept}" --kind {kind} {_CONCEPTS} --scorer'
        f" {_JUDGE[kind]} --threshold {threshold}",
        45,
    )


WHERE = {
    "style": _locate("van-gogh", "van gogh", "style", 0.4),
    "object": _locate("star", "star", "object", 0.4),
    "fact": _locate("mill", _HERO, "fact", 0.6),
}
_ERASE = {"style": "van gogh", "object": "star", "fact": _HERO}


def _edit(name: str, kind: str, how: str) -> Any:
    return step(f"t2i-edit-{name}", f't2i edit {_SD} --erase "{_ERASE[kind]}" --kind {kind} {_CONCEPTS} {how}', 20)


def _judge(name: str, kind: str, edits: tuple[str, ...], more: str = "", n: int = 16) -> Any:
    files = " ".join(f"--edit {{out}}/t2i-edit-{edit}/edit.safetensors" for edit in edits)
    return step(
        f"t2i-judged-{name}",
        f't2i evaluate {_SD} {files} --concept "{_ERASE[kind]}" --kind {kind} {_CONCEPTS}'
        f" --scorer {_JUDGE[kind]} --against prompt -n {n} {more}",
        15 + 3 * len(edits),
    )


LOCO = {kind: _edit(f"loco-{kind}", kind, f"--located {{out}}/{WHERE[kind].name} --following --ridge 64")
        for kind in _ERASE}  # fmt: skip
QUICK = {layer: _edit(f"quickfix-{layer}", "style", f"--method quickfix --layers {layer} --ridge 4")
         for layer in (0, 1, 2, 3)}  # fmt: skip
SEVERAL = step(
    "t2i-edit-several",
    f't2i edit {_SD} --erase "van gogh" --erase hokusai --erase mondrian {_CONCEPTS} --method quickfix --ridge 4', 20,
)  # fmt: skip
JUDGED_QUICK = _judge("quickfix", "style", ("quickfix-0", "quickfix-1", "quickfix-2", "quickfix-3", "several"))
JUDGED = {
    "style": _judge("style", "style", ("loco-style",), "--surrounding mondrian --surrounding hokusai"),
    "object": _judge("object", "object", ("loco-object",), "--surrounding heart"),
    "fact": _judge("fact", "fact", ("loco-fact",)),
}
NEURONS = step(
    "t2i-neurons",
    f't2i neurons {_SD} --concept "van gogh" {_CONCEPTS} --located {{out}}/{WHERE["style"].name} --counts 10,30,50'
    " --scorer tinyworld:style",
    20,
)
_PROMPTS = '--prompt "a red house by van gogh" --prompt "a blue boat by van gogh" --prompt "a star by van gogh"'
DRAWN = step(
    "t2i-drawn",
    f"t2i generate {_SD} {_PROMPTS} --edit {{out}}/{LOCO['style'].name}/edit.safetensors", 20, reports=False,
)  # fmt: skip


def _strong(results: Mapping[str, Any]) -> int:
    return sum(row["effect"]["value"] >= 0.25 for row in results["layers"] if row["label"] != "embedding")


def _strongest(results: Mapping[str, Any]) -> str:
    rows = [row for row in results["layers"] if row["label"] != "embedding"]
    best = sorted(rows, key=lambda row: -row["effect"]["value"])[:3]
    return ", ".join(f"{row['label']} {row['effect']['value']:.2f}" for row in best)


def _effects(depth: str) -> tuple[Any, ...]:
    """The largest effect of the text encoder's first layer, or of all later ones."""

    def largest(results: Mapping[str, Any]) -> float:
        rows = [row for row in results["layers"] if row["label"] != "embedding"]
        some = [row["effect"]["value"] for row in rows if row["label"].endswith("-0") == (depth == "first")]
        return float(max(some))

    return (largest,)


def _edited(name: str, when: str) -> tuple[Any, ...]:
    """The edited group's score with the edit of that step."""

    def score(results: Mapping[str, Any]) -> Any:
        [rows] = [rows for path, rows in results.items() if f"t2i-edit-{name}/" in path]
        return next(row for row in rows if row["group"] == "edited")[when]

    return (score,)


def _spared(name: str) -> tuple[Any, ...]:
    def difference(results: Mapping[str, Any]) -> float:
        [rows] = [rows for path, rows in results.items() if f"t2i-edit-{name}/" in path]
        others = [row["difference"]["value"] for row in rows if row["group"] != "edited"]
        return float(sum(others) / len(others))

    return (difference,)


def _window(found: Any) -> str:
    return f"{found['m']} from layer {found['start']}"


def _located() -> tuple[Number, ...]:
    return tuple(
        Number(f"{kind}: {what}", WHERE[kind].name, place)
        for kind in WHERE
        for what, place in (
            ("layers", ("located", _window)),
            ("as asked", ("original",)),
            ("found layers altered", ("found",)),
            ("other windows", ("random",)),
        )
    )


def _few(ours: Mapping[str, Found]) -> bool:
    """Whether altering the found layers moves the score further than altering others, for every kind."""
    return all(
        abs(ours[f"{kind}: found layers altered"].number - ours[f"{kind}: as asked"].number)
        > abs(ours[f"{kind}: other windows"].number - ours[f"{kind}: as asked"].number)
        for kind in WHERE
    )


def _before_after() -> tuple[Number, ...]:
    return tuple(
        Number(f"{kind} {when} the edit", JUDGED[kind].name, _edited(f"loco-{kind}", when))
        for kind in JUDGED
        for when in ("before", "after")
    )


def _changed(ours: Mapping[str, Found]) -> bool:
    lower = all(ours[f"{kind} after the edit"].number < ours[f"{kind} before the edit"].number - 0.25
                for kind in ("style", "object"))  # fmt: skip
    return lower and ours["fact after the edit"].number > ours["fact before the edit"].number + 0.25


_LOCO_STEPS = (*WHERE.values(), *LOCO.values(), *JUDGED.values())
_SD15, _SD21, _XL = (
    "CompVis/stable-diffusion-v1-4",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-xl-base-1.0",
)
_IF = "DeepFloyd/IF-I-XL-v1.0"
_CLIP = "clip:openai/clip-vit-base-patch32"
_GPU, _BIG = "1 GPU of 16 GB", "1 GPU of 40 GB"
_HALF = "--dtype float16 --device cuda"


def _paper_trace(where: str, *models: str) -> tuple[tuple[str, ...], ...]:
    return tuple(
        words(
            f"t2i trace --model {model} --attribute {what} --where {where} --scorer {_CLIP} -n 100 --steps 50 {_HALF}"
            f" --out {{out}}/trace-{where}-{number}-{what}"
        )
        for number, model in enumerate(models)
        for what in ("objects", "style", "colour", "action")
    )


def _paper_locate(*models: str) -> tuple[tuple[str, ...], ...]:
    return tuple(
        words(
            f't2i locate --model {model} --concept "{concept}" --kind {kind}{to} --scorer'
            f" {_CLIP} --threshold {threshold}"
            f" --steps 50 {_HALF} --out {{out}}/where-{number}-{kind}"
        )
        for number, model in enumerate(models)
        for concept, kind, to, threshold in (
            ("van gogh", "style", "", 0.2),
            ("snoopy", "object", ' --to "dog"', 0.22),
            ("the british monarch", "fact", ' --to "prince charles"', 0.25),
        )
    )


def _paper_edit(method: str, *models: str) -> tuple[tuple[str, ...], ...]:
    found = []
    for number, model in enumerate(models):
        how = f"--located {{out}}/where-{number}-style" if method == "locoedit" else "--layers 0"
        found.append(
            words(
                f't2i edit --model {model} --erase "van gogh" --method {method} {how} {_HALF}'
                f" --out {{out}}/{method}-{number}"
            )
        )
        found.append(
            words(
                f't2i evaluate --model {model} --edit {{out}}/{method}-{number}/edit.safetensors --concept "van gogh"'
                f" --scorer {_CLIP} --surrounding monet --steps 50 {_HALF} --out {{out}}/{method}-judged-{number}"
            )
        )
    return tuple(found)


def _entry(number: str, shows: str, thesis: str, zoo: Zoo, paper: Paper, differs: str = "") -> Entry:
    return Entry(f"figure-{number}", shows, "t2i", thesis, zoo, paper, differs or _SMALL)


_SMALL = "a small Stable Diffusion of a drawn world, judged by a network that reads the attribute, not by CLIP"
_PROBES = "16 probes an attribute, 10 steps, seed 0"


def _trace_numbers(steps: Mapping[str, Any]) -> tuple[Number, ...]:
    return tuple(
        Number(f"{what}: {label}", one.name, (pick,))
        for what, one in steps.items()
        for label, pick in (("states with an effect of 0.25 and more", _strong), ("strongest states", _strongest))
    )


_UNET_NUMBERS = _trace_numbers(UNET)
_TEXT_NUMBERS = tuple(
    Number(f"{what}: largest effect, {label}", one.name, _effects(depth))
    for what, one in TEXT.items()
    for label, depth in (("first layer", "first"), ("later layers", "later"))
)


def _distributed(ours: Mapping[str, Found]) -> bool:
    return all(ours[f"{what}: states with an effect of 0.25 and more"].number >= 3 for what in UNET)


def _first(ours: Mapping[str, Found]) -> bool:
    return all(
        ours[f"{what}: largest effect, first layer"].number > 2 * ours[f"{what}: largest effect, later layers"].number
        for what in TEXT
    )


T2I = (
    _entry(
        "5.2",
        "causal tracing of the UNet, by attribute",
        "causal states are spread over the UNet, differently by attribute (bars without numbers)",
        Zoo(tuple(UNET.values()), _PROBES, _UNET_NUMBERS, _distributed),
        Paper(_paper_trace("unet", _SD15), _SD15, "the thesis's probes, built in", _GPU, "about 60"),
    ),
    _entry(
        "5.3",
        "causal tracing of the text encoder",
        "one causal state: the first self-attention layer, at the subject's last token",
        Zoo(tuple(TEXT.values()), _PROBES, _TEXT_NUMBERS, _first),
        Paper(_paper_trace("text", _SD15), _SD15, "the thesis's probes, built in", _GPU, "about 12"),
    ),
    _entry(
        "5.4",
        "DiffQuickFix: causal against other layers, and several concepts at once",
        "the causal layer lowers the CLIP-score, others do not; as good as fine-tuning, 1000 times as fast; up to 10"
        " concepts at once",
        Zoo(
            (*QUICK.values(), SEVERAL, JUDGED_QUICK),
            "16 prompts for the edit, 16 to judge it, seed 0",
            (
                Number("unedited", JUDGED_QUICK.name, _edited("quickfix-0", "before")),
                *(
                    Number(f"layer {layer}", JUDGED_QUICK.name, _edited(f"quickfix-{layer}", "after"))
                    for layer in QUICK
                ),
                Number("layer 0, three styles at once", JUDGED_QUICK.name, _edited("several", "after")),
                Number("seconds of the edit", QUICK[0].name, ("seconds",)),
            ),
            lambda ours: ours["layer 0"].number < min(ours[f"layer {layer}"].number for layer in (1, 2, 3)),
        ),
        Paper(_paper_edit("quickfix", _SD15), _SD15, "none", _GPU, "about 2"),
        "one style; a judge reads it",
    ),
    _entry(
        "5.5",
        "pictures with DiffQuickFix's edits",
        "styles and objects gone, facts updated",
        Zoo(
            (*QUICK.values(), SEVERAL, JUDGED_QUICK),
            "16 prompts, seed 0",
            (Number("style left after the edit", JUDGED_QUICK.name, _edited("quickfix-0", "after")),),
        ),
        Paper(_paper_edit("quickfix", _SD15), _SD15, "none", _GPU, "about 2, shared with figure-5.4"),
    ),
    _entry(
        "5.7",
        "causal tracing of other models' UNets",
        "spread in SD 2.1 and SD-XL; no significant state in DeepFloyd's",
        Zoo(tuple(UNET.values()), _PROBES, _UNET_NUMBERS, _distributed),
        Paper(_paper_trace("unet", _SD21, _XL, _IF), f"{_SD21}, {_XL}, {_IF}", "built in", _BIG, "about 400"),
        "one small model, the same as for figure-5.2",
    ),
    _entry(
        "5.8",
        "causal tracing of other models' text encoders",
        "SD 2.1 has the one causal state, SD-XL and DeepFloyd have none",
        Zoo(tuple(TEXT.values()), _PROBES, _TEXT_NUMBERS),
        Paper(_paper_trace("text", _SD21, _XL, _IF), f"{_SD21}, {_XL}, {_IF}", "built in", _BIG, "about 80"),
        "the zoo has one text encoder, which has such a first layer: models cannot be compared",
    ),
    _entry(
        "5.9",
        "pictures with another prompt in the layers that LocoGen found",
        "a few cross-attention layers control styles, objects and facts in every model",
        Zoo(tuple(WHERE.values()), "16 prompts a concept, half to find, half to report, seed 0", _located(), _few),
        Paper(_paper_locate(_SD15, _SD21, _XL), f"{_SD15}, {_SD21}, {_XL}", "none", _BIG, "about 60"),
        "pictures are in the reports; the verdict is on their scores",
    ),
    _entry(
        "5.10",
        "scores with another prompt in windows of cross-attention layers (LocoGen)",
        "SD 1.5, m = 2 of 16: objects and facts from layer 6, styles from 8; SD 2.1, m = 3:"
        " facts from 7, others from 8;"
        " SD-XL: styles (m = 3) and facts (m = 5) from 45, objects from 15",
        Zoo(tuple(WHERE.values()), "16 prompts a concept, half to find, half to report, seed 0", _located(), _few),
        Paper(_paper_locate(_SD15, _SD21, _XL), f"{_SD15}, {_SD21}, {_XL}", "none", _BIG, "about 60"),
    ),
    _entry(
        "5.11",
        "pictures with LocoEdit at the layers found",
        "styles and objects removed, facts updated, in every model",
        Zoo(_LOCO_STEPS, "16 prompts for each edit, 16 to judge it, seed 0", _before_after(), _changed),
        Paper(
            (*_paper_locate(_SD15, _SD21, _XL), *_paper_edit("locoedit", _SD15, _SD21, _XL)),
            f"{_SD15}, {_SD21}, {_XL}",
            "none",
            _BIG,
            "about 64",
        ),
        "edits map the tokens after the concept's, too (--following); the verdict is on scores",
    ),
    _entry(
        "5.12",
        "LocoGen on DeepFloyd",
        "the control points depend on the prompt, not on the attribute",
        Zoo(
            (WHERE["style"], WHERE["fact"]),
            "16 prompts a concept, seed 0",
            tuple(
                Number(
                    f"{kind}: windows over prompts",
                    WHERE[kind].name,
                    ("each", lambda each: len({(w["start"], w["m"]) for w in each.values()})),
                )
                for kind in ("style", "fact")
            ),
        ),
        Paper(_paper_locate(_IF), _IF, "none", _BIG, "about 30"),
        "the zoo has no T5-conditioned model; how many different windows single prompts have is shown",
    ),
    _entry(
        "5.13",
        "CLIP-scores before and after LocoEdit",
        "lower for styles and objects, higher for facts, in SD 1.5, 2.1, SD-XL",
        Zoo(
            _LOCO_STEPS,
            "16 prompts for each edit, 16 to judge it, seed 0",
            (*_before_after(), Number("other styles, difference", JUDGED["style"].name, _spared("loco-style"))),
            _changed,
        ),
        Paper(
            (*_paper_locate(_SD15, _SD21, _XL), *_paper_edit("locoedit", _SD15, _SD21, _XL)),
            f"{_SD15}, {_SD21}, {_XL}",
            "none",
            _BIG,
            "about 64, shared with figure-5.11",
        ),
    ),
    *(
        _entry(
            number,
            shows,
            "50 and 100 of 1,280 neurons in the controlling layers take the style away",
            Zoo(
                (WHERE["style"], NEURONS),
                "8 prompts to choose neurons, 8 to report, seed 0",
                tuple(
                    Number(f"style left, {what}", NEURONS.name, ("scores", what))
                    for what in ("as it is", "10 dropped", "30 dropped", "50 dropped", "target")
                ),
                lambda ours: ours["style left, 50 dropped"].number < ours["style left, as it is"].number - 0.25,
            ),
            Paper(
                (
                    *_paper_locate(_SD15)[:1],
                    words(
                        f't2i neurons --model {_SD15} --concept "van gogh" --located'
                        f" {{out}}/where-0-style --counts 30,50,100"
                        f" --scorer {_CLIP} --steps 50 {_HALF} --out {{out}}/neurons"
                    ),
                ),
                _SD15,
                "none",
                _GPU,
                "about 8",
            ),
        )
        for number, shows in (
            ("5.14", "pictures with neurons of the controlling layers dropped"),
            ("5.15", "scores with 30, 50 and 100 neurons dropped, by artist"),
        )
    ),
    *(
        _entry(
            number,
            f"pictures with one state of the UNet restored ({what})",
            "restoring down-1-resnet-1 brings the original picture back",
            Zoo((UNET[what],), _PROBES, (Number("strongest states", UNET[what].name, (_strongest,)),)),
            Paper(_paper_trace("unet", _SD15)[index : index + 1], _SD15, "built in", _GPU, "about 15"),
            "which state is strongest is shown; the thesis's UNet has other blocks",
        )
        for number, what, index in (("11.3", "object", 0), ("11.4", "style", 1))
    ),
    _entry(
        "11.5",
        "Van Gogh prompts drawn by a model that had him taken out",
        "the style is gone",
        Zoo(
            (WHERE["style"], LOCO["style"], JUDGED["style"], DRAWN),
            "16 prompts, seed 0",
            (Number("style left after the edit", JUDGED["style"].name, _edited("loco-style", "after")),),
        ),
        Paper(_paper_edit("quickfix", _SD15), _SD15, "none", _GPU, "about 2, shared with figure-5.4"),
        "the pictures are in the folder t2i-drawn",
    ),
    _entry(
        "11.6",
        "SD-XL's edits of a style",
        "Van Gogh's brushstrokes are gone",
        Zoo(
            (WHERE["style"], LOCO["style"], JUDGED["style"], DRAWN),
            "16 prompts, seed 0",
            (Number("style left after the edit", JUDGED["style"].name, _edited("loco-style", "after")),),
        ),
        Paper((*_paper_locate(_XL)[:1], *_paper_edit("locoedit", _XL)), _XL, "none", _BIG, "about 20"),
        "the zoo has no SD-XL: the small model's edit stands for it",
    ),
)
