"""Chapter 6 and 11.5: multimodal language models."""

from collections.abc import Mapping
from typing import Any

from ..entry import Entry, Number, Paper, Zoo, step, words
from ..picking import Found

_MODEL = "--model zoo:tinyworld-llava"
_FACTS = "--questions {out}/mllm-facts/test.jsonl"

FACTS = step(
    "mllm-facts", "zoo dataset facts --train 0 --validation 200 --test 200 --out {out}/mllm-facts", 5, reports=False
)
TRACE = step("mllm-trace", f"mllm trace {_MODEL} {_FACTS} --group taught -n 40 --words", 25)
NOISE = step(
    "mllm-noise", f"mllm trace {_MODEL} {_FACTS} --group taught -n 40 --corruption noise --window 3 --workers 2", 125
)
MOVES = step("mllm-moves", f"mllm contributions {_MODEL} {_FACTS} --group taught -n 60", 15)
EDITS = step(
    "mllm-edits",
    f"mllm evaluate {_MODEL} {_FACTS} --group withheld -n 12 --unrelated {{out}}/mllm-facts/test.jsonl"
    " --unrelated-group taught --unrelated-n 60 --layers early,late --ridges 3 --rates 0.0005 --token answer",
    60,
)

_LLAVA = "llava-hf/llava-1.5-7b-hf"
_HALF = "--dtype float16 --device cuda"
_GPU = "1 GPU of 40 GB"
_VQA = "VQA-Constraints (Known, Movies, OK-VQA) as JSON Lines, beside their pictures"
_SMALL = "a small LLaVA of a drawn world"


def _paper(command: str, name: str, data: str, more: str = "") -> tuple[str, ...]:
    return words(
        f"mllm {command} --model {_LLAVA} --questions {{data}}/{data}.jsonl {_HALF} {more} --out {{out}}/{name}-{data}"
    )


_TRACES = tuple(_paper("trace", "trace", data, "--window 3") for data in ("known", "movies", "okvqa"))


def _largest(kind: str, tokens: str, part: str) -> tuple[Any, ...]:
    """The largest effect over the early layers (a first third) or the later ones, at tokens of a group."""

    def largest(results: Mapping[str, Any]) -> float:
        values = results["effects"][kind][tokens]["value"]
        early = max(1, len(values) // 3)
        return float(max(values[:early] if part == "early" else values[early:]))

    return (largest,)


def _early(results: Mapping[str, Any]) -> str:
    best = results["best"]["mlp"]
    return f"{best['tokens']}, layer {best['layer']}"


def _late(results: Mapping[str, Any]) -> float:
    """The largest share, over layers, that the last quarter of the picture's tokens has."""
    return float(max(results["last_quarter_of_image_tokens"]["value"]))


def _share(results: Mapping[str, Any]) -> float:
    """The same in the first layer."""
    return float(results["last_quarter_of_image_tokens"]["value"][0])


def _outcome(method: str, what: str, *, early: bool = True) -> tuple[Any, ...]:
    """The outcome of a method at its first layer, or its last."""

    def find(results: Mapping[str, Any]) -> Any:
        rows = [row for row in results["outcomes"] if row["plan"]["method"] == method]
        row = (min if early else max)(rows, key=lambda row: row["plan"]["layer"] or 0)
        kind, _, part = what.partition("/")
        return row[kind][part] if part else row[kind]

    return (find,)


_CONSTRAINT = "visual constraint"


def _first_layers(ours: Mapping[str, Found]) -> bool:
    """Whether early layers bring back more than later ones, and a tenth at least."""
    return all(
        ours[f"{kind}, early layers"].number > max(0.1, ours[f"{kind}, later layers"].number)
        for kind in ("MLPs", "attention")
    )


MLLM = (
    Entry(
        "figure-6.1",
        "layers that are causal in a multimodal model and in its language model",
        "mllm",
        "MLPs 1 to 4 in LLaVA-7B (window 1), 4 to 7 in Vicuna-7B (window 5)",
        Zoo(
            (FACTS, TRACE),
            "40 questions, asked with the picture and in words, seed 0",
            (
                Number(
                    "layer at which the constraint's MLPs work most, with the picture",
                    TRACE.name,
                    ("words", "depth", "pictures"),
                ),
                Number("the same, in words", TRACE.name, ("words", "depth", "words")),
                Number("later in words by, layers", TRACE.name, ("words", "depth", "later")),
            ),
            lambda ours: (
                None
                if (ours["later in words by, layers"].low or 0) <= 0 <= (ours["later in words by, layers"].high or 0)
                else ours["later in words by, layers"].number > 0
            ),
        ),
        Paper((_paper("trace", "trace-words", "known", "--words"),), _LLAVA, _VQA, _GPU, "about 10"),
        f"{_SMALL} with 8 layers; one model asked both ways, not two models",
    ),
    Entry(
        "figure-6.3",
        "indirect effects with one visual constraint",
        "mllm",
        "early MLPs and self-attention at the constraint are causal, in all three data sets (window 3)",
        Zoo(
            (FACTS, TRACE),
            "40 questions, seed 0",
            (
                *(
                    Number(f"{name}, {part} layers", TRACE.name, _largest(kind, _CONSTRAINT, part))
                    for name, kind in (("MLPs", "mlp"), ("attention", "attention"))
                    for part in ("early", "later")
                ),
                Number("where MLPs bring most back", TRACE.name, (_early,)),
            ),
            _first_layers,
        ),
        Paper(_TRACES, _LLAVA, _VQA, _GPU, "about 30"),
        f"{_SMALL}; most of the effect is at the last token here, the verdict is on the"
        " constraint's tokens, which must bring back 0.1",
    ),
    Entry(
        "figure-6.4",
        "indirect effects with a visual and a textual constraint",
        "mllm",
        "early and middle layers are causal: more memory than with one constraint (OK-VQA)",
        Zoo(
            (FACTS, TRACE),
            "40 questions, seed 0",
            tuple(
                Number(f"{tokens}, MLPs, {part} layers", TRACE.name, _largest("mlp", tokens, part))
                for tokens in (_CONSTRAINT, "textual constraint 1")
                for part in ("early", "later")
            ),
        ),
        Paper(_TRACES, _LLAVA, _VQA, _GPU, "about 30, shared with figure-6.3"),
        f"{_SMALL}; its questions with two constraints are few, so nothing is decided",
    ),
    Entry(
        "figure-6.5",
        "attention contributions of visual tokens to the visual constraint",
        "mllm",
        "the late visual tokens contribute, through the first self-attention layer",
        Zoo(
            (FACTS, MOVES),
            "60 questions, seed 0",
            (
                Number(
                    "layer that moves most from the picture to the constraint",
                    MOVES.name,
                    ("largest", "image to constraint"),
                ),
                Number("share of the picture's last quarter, first layer", MOVES.name, (_share,)),
                Number("share of the picture's last quarter, at most", MOVES.name, (_late,)),
            ),
            lambda ours: (
                ours["layer that moves most from the picture to the constraint"].number == 0
                and ours["share of the picture's last quarter, first layer"].number > 0.25
            ),
        ),
        Paper(
            tuple(_paper("contributions", "moves", data) for data in ("known", "movies", "okvqa")),
            _LLAVA,
            _VQA,
            _GPU,
            "about 4",
        ),
        _SMALL,
    ),
    Entry(
        "figure-6.6",
        "MultEdit: efficacy, generalisation and specificity beside fine-tuning",
        "mllm",
        "errors corrected: probability 0.07 to 0.82, paraphrased 0.76, 1.5 % lost;"
        " long-tailed facts: 0.83, 0.79, 1.4 %",
        Zoo(
            (FACTS, EDITS),
            "12 facts that the model was not taught, 60 unrelated questions, seed 0",
            (
                Number("untouched, probability", EDITS.name, _outcome("untouched", "probability/edited")),
                *(
                    Number(f"{name}, {what}", EDITS.name, _outcome(method, field, early=early))
                    for name, method, early in (
                        ("MultEdit, early layer", "multedit", True),
                        ("MultEdit, late layer", "multedit", False),
                    )
                    for what, field in (
                        ("probability", "probability/edited"),
                        ("paraphrase", "probability/paraphrase"),
                        ("lost, points", "lost"),
                    )
                ),
            ),
            lambda ours: (
                ours["MultEdit, early layer, probability"].number > ours["untouched, probability"].number + 0.5
                and ours["MultEdit, early layer, lost, points"].number < 5
            ),
        ),
        Paper(
            tuple(
                words(
                    f"mllm evaluate --model {_LLAVA} --questions {{data}}/{data}.jsonl{more}"
                    f" --unrelated {{data}}/okvqa.jsonl"
                    f" --layers early --ridges 0.01 --rates 0.0005 --bounds 0.0001 {_HALF} --out {{out}}/edits-{data}"
                )
                for data, more in (("known", " --wrong"), ("encyclopedic", ""))
            ),
            _LLAVA,
            f"{_VQA}; Encyclopedic-VQA",
            _GPU,
            "about 20",
        ),
        f"{_SMALL}; edits where the answer is said (--token answer), since the constraint's"
        " tokens do not reach it here",
    ),
    Entry(
        "figure-11.7",
        "standard causal tracing (noise) on multimodal models",
        "mllm",
        "no causal state is found, with windows of 10 layers",
        Zoo(
            (FACTS, NOISE),
            "40 questions, windows of 3 of 8 layers, seed 0",
            (
                Number("clean, P(answer)", NOISE.name, ("clean",)),
                Number("corrupted, P(answer)", NOISE.name, ("corrupted",)),
                Number("constraint, MLPs, early layers", NOISE.name, _largest("mlp", _CONSTRAINT, "early")),
                Number("constraint, MLPs, later layers", NOISE.name, _largest("mlp", _CONSTRAINT, "later")),
            ),
            lambda ours: (
                max(ours["constraint, MLPs, early layers"].number, ours["constraint, MLPs, later layers"].number) < 0.1
            ),
        ),
        Paper(
            tuple(_paper("trace", "noise", data, "--corruption noise --window 10") for data in ("known", "movies")),
            _LLAVA,
            _VQA,
            _GPU,
            "about 20",
        ),
        f"{_SMALL}; carries over where the constraint's MLPs bring back less than 0.1",
    ),
)
