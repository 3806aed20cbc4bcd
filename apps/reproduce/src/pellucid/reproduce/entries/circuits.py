"""Chapter 8 and 11.7: circuits of question answering."""

from collections.abc import Mapping
from typing import Any

from ..entry import Entry, Number, Paper, Zoo, step, words
from ..picking import Found

_MODEL = "--model zoo:smollm2"

PROBES = step(
    "circuits-probes",
        f"circuits probes {_MODEL} --kind copy -n 32 --longest 4 --out"
        f" {{out}}/circuits-probes.jsonl", 45,
    reports=False,
)  # fmt: skip
COPY = step("circuits-copy", f"circuits extract {_MODEL} --probes {{out}}/circuits-probes.jsonl --workers 2", 130)
HEADS = step(
    "circuits-heads",
    f"circuits heads {_MODEL} --probes {{out}}/circuits-probes.jsonl --circuit {{out}}/circuits-copy --by accuracy", 20,
)  # fmt: skip
CUT = step(
    "circuits-cut",
    f"circuits validate {_MODEL} --circuit {{out}}/circuits-copy --probes {{out}}/circuits-probes.jsonl -n 16"
    " --workers 2", 55,
)  # fmt: skip
_HEAD = "--heads {out}/circuits-heads/heads.json"
SOURCES = step(
    "circuits-sources",
    f"circuits evaluate {_MODEL} --probes {{out}}/circuits-probes.jsonl {_HEAD} --methods"
    " self,iterative,gradient -n 16 --rel-score", 110,
)  # fmt: skip
STEERED = step(
    "circuits-steered",
    f"circuits steer {_MODEL} --probes {{out}}/circuits-probes.jsonl {_HEAD} --methods attributed --workers 2", 60,
)  # fmt: skip

_LLMS = {
    "vicuna": "lmsys/vicuna-7b-v1.5",
    "llama": "meta-llama/Meta-Llama-3-8B-Instruct",
    "phi": "microsoft/Phi-3-mini-4k-instruct",
}
_SHOWN = ", ".join(_LLMS.values())
_HALF = "--dtype bfloat16 --device cuda"
_GPU = "1 GPU of 40 GB"


def _extract(name: str) -> tuple[tuple[str, ...], ...]:
    model = _LLMS[name]
    return (
        words(
            f"circuits probes --model {model} {_HALF} --kind copy -n 200 --style chat --out {{out}}/probes-{name}.jsonl"
        ),
        words(
            f"circuits extract --model {model} {_HALF} --probes {{out}}/probes-{name}.jsonl"
            f" --style chat --out {{out}}/copy-{name}"
        ),
    )


def _heads(name: str) -> tuple[str, ...]:
    return words(
        f"circuits heads --model {_LLMS[name]} {_HALF} --probes {{out}}/probes-{name}.jsonl"
        f" --circuit {{out}}/copy-{name}"
        f" --by entropy --style chat --out {{out}}/heads-{name}"
    )


def _on(command: str, name: str, form: str, which: str, more: str = "") -> tuple[str, ...]:
    return words(
        f"circuits {command} --model {_LLMS[name]} {_HALF} --data {{data}}/{form} --format {form} -n 1000 {which}"
        f" --style chat {more} --out {{out}}/{command}-{name}-{form}"
    )


_FORMS = ("nq", "nq-swap-1", "nq-swap-2", "hotpotqa")
_QA = "Natural Questions, NQ-Swap, HotPotQA as published"


def _kind(kind: str, part: str) -> tuple[Any, ...]:
    return (part, {"kind": kind}, lambda row: {"value": row["score"], "low": row["low"], "high": row["high"]})


def _size(kind: str) -> tuple[Any, ...]:
    return ("circuit", {"kind": kind}, "components", len)


def _named(results: Mapping[str, Any]) -> str:
    layer, index = results["head"]
    return f"{layer}.{index}"


def _rank(results: Mapping[str, Any]) -> int:
    """Of the chosen head by entropy, 1 the lowest."""
    ordered = sorted(results["heads"], key=lambda row: row["entropy"]["value"])
    return 1 + [row["head"] for row in ordered].index(results["head"])


def _lower(ours: Mapping[str, Found]) -> bool:
    return ours["with the circuit cut off"].number < ours["with random heads cut off"].number - 0.1


def _best(ours: Mapping[str, Found]) -> bool:
    return ours["one head"].number > max(
        found.number for what, found in ours.items() if what not in ("one head", "a random sentence")
    )


_METHODS = {
    "self": "self-attribution",
    "iterative": "iterative prompt",
    "gradient": "gradient",
}
_SMALL = "SmolLM2-135M-Instruct on facts about countries, sentences of our own making"

_RELATED = tuple(
    Entry(
        f"figure-11.{number}",
        f"relative change of the reply's log-probability without what was attributed, {what}",
        "circuits",
        "large for both Vicuna and Llama-3-8B, over 1,000 examples (bars without numbers)",
        Zoo(
            (PROBES, COPY, HEADS, SOURCES),
            "16 questions, contexts of up to 4 sentences, seed 0",
            (
                Number("without the head's sentence", SOURCES.name, ("rel",)),
                Number("without a random sentence", SOURCES.name, ("rel_random",)),
            ),
            lambda ours: (
                abs(ours["without the head's sentence"].number) > abs(ours["without a random sentence"].number)
            ),
        ),
        Paper(
            tuple(
                line
                for name in ("vicuna", "llama")
                for line in (
                    *_extract(name),
                    _heads(name),
                    _on("evaluate", name, form, f"--heads {{out}}/heads-{name}/heads.json", "--rel-score"),
                )
            ),
            f"{_LLMS['vicuna']}, {_LLMS['llama']}",
            what,
            _GPU,
            "about 24",
        ),
        f"{_SMALL}; short contexts, not {what}",
    )
    for number, what, form in ((8, "CNN/DailyMail", "cnn-dailymail"), (9, "NQ-Long", "nq-long"))
)

CIRCUITS = (
    Entry(
        "figure-8.2",
        "scores as components are patched together: heads, attention layers, MLPs",
        "circuits",
        "about 10 heads, or 4 to 5 attention layers, pass 0.95; MLPs do not, but for MLP 31 of Llama-3-8B",
        Zoo(
            (PROBES, COPY),
            "32 probes, half to rank and half to report, seed 0",
            tuple(
                number
                for kind, name in (("head", "heads"), ("attention", "attention layers"), ("mlp", "MLPs"))
                for number in (
                    Number(f"{name} in the circuit", COPY.name, _size(kind)),
                    Number(f"{name}, score", COPY.name, _kind(kind, "circuit")),
                    Number(f"as many random {name}, score", COPY.name, _kind(kind, "random")),
                )
            ),
            lambda ours: (
                ours["heads, score"].number > 0.9 > ours["as many random heads, score"].number
                and ours["heads in the circuit"].number <= 20
            ),
        ),
        Paper(
            tuple(line for name in _LLMS for line in _extract(name)),
            _SHOWN,
            "facts of the zoo, or yours",
            _GPU,
            "about 12",
        ),
        f"{_SMALL}; the verdict is on heads",
    ),
    Entry(
        "figure-8.3",
        "entropy of the circuit's heads over the context, and one head's attention",
        "circuits",
        "one head has a low entropy and looks at the answer (Vicuna: [16, 0]); others are diffuse or wrong",
        Zoo(
            (PROBES, COPY, HEADS),
            "32 probes, half to choose the head and half to report, seed 0",
            (
                Number("head", HEADS.name, (_named,)),
                Number("its sentence is right", HEADS.name, ("chosen", "sentence")),
                Number("a random sentence is", HEADS.name, ("sentence_chance",)),
                Number("its entropy, nats", HEADS.name, ("chosen", "entropy")),
                Number("its rank by entropy", HEADS.name, (_rank,)),
            ),
            lambda ours: (
                ours["its sentence is right"].number > 2 * ours["a random sentence is"].number
                and ours["its rank by entropy"].number == 1
            ),
        ),
        Paper((*_extract("vicuna"), _heads("vicuna")), _LLMS["vicuna"], "facts of the zoo, or yours", _GPU, "about 5"),
        f"{_SMALL}; our head is chosen by accuracy, and carries over where it is the one of lowest entropy as well",
    ),
    Entry(
        "figure-8.4",
        "accuracy with the circuit's edges ablated, and a random circuit's",
        "circuits",
        "a large drop for the circuit on every data set, little for a random one (bars without numbers)",
        Zoo(
            (PROBES, COPY, CUT),
            "16 probes, 3 random circuits, seed 0",
            (
                Number("exact match", CUT.name, ("nothing", "exact")),
                Number("with the circuit cut off", CUT.name, ("with_circuit", "exact")),
                Number("with random heads cut off", CUT.name, ("with_random", "exact")),
            ),
            _lower,
        ),
        Paper(
            tuple(
                line
                for name in _LLMS
                for line in (
                    *_extract(name),
                    *(_on("validate", name, form, f"--circuit {{out}}/copy-{name}") for form in _FORMS),
                )
            ),
            _SHOWN,
            _QA,
            _GPU,
            "about 30",
        ),
        f"{_SMALL}; some probes found the circuit, too",
    ),
    Entry(
        "figure-8.5",
        "attribution by one head against other ways",
        "circuits",
        "ahead of self-attribution, iterative prompts, similarity and gradients on most"
        " benchmarks (bars without numbers)",
        Zoo(
            (PROBES, COPY, HEADS, SOURCES),
            "16 questions, contexts of up to 4 sentences, seed 0",
            (
                Number("one head", SOURCES.name, ("methods", {"method": "attention"}, "accuracy")),
                *(
                    Number(name, SOURCES.name, ("methods", {"method": key}, "accuracy"))
                    for key, name in _METHODS.items()
                ),
                Number("a random sentence", SOURCES.name, ("chance",)),
            ),
            _best,
        ),
        Paper(
            tuple(
                line
                for name in ("vicuna", "llama")
                for line in (
                    *_extract(name),
                    _heads(name),
                    *(_on("evaluate", name, form, f"--heads {{out}}/heads-{name}/heads.json") for form in _FORMS),
                )
            ),
            f"{_LLMS['vicuna']}, {_LLMS['llama']}, sentence-transformers/all-mpnet-base-v2",
            _QA,
            _GPU,
            "about 40",
        ),
        f"{_SMALL}: answers stand in the context word for word; similarity, which needs an encoder, is left out",
    ),
    Entry(
        "figure-8.6",
        "answers from the context with attributions in the prompt",
        "circuits",
        "up to 9 % more for Vicuna and Llama-3-8B",
        Zoo(
            (PROBES, COPY, HEADS, STEERED),
            "32 probes with swapped answers, seed 0",
            (
                Number("plain prompt, from the context", STEERED.name, ("methods", {"method": "plain"}, "context")),
                Number("with attributions", STEERED.name, ("methods", {"method": "attributed"}, "context")),
                Number("gain", STEERED.name, ("methods", {"method": "attributed"}, "gain")),
            ),
            lambda ours: (
                None
                if ours["gain"].low is not None and ours["gain"].low <= 0 <= (ours["gain"].high or 0)
                else ours["gain"].number > 0
            ),
        ),
        Paper(
            tuple(
                line
                for name in ("vicuna", "llama")
                for line in (
                    *_extract(name),
                    _heads(name),
                    words(
                        f"circuits steer --model {_LLMS[name]} {_HALF} --probes"
                        f" {{out}}/probes-{name}.jsonl --heads"
                        f" {{out}}/heads-{name}/heads.json --methods attributed --style chat"
                        f" --out {{out}}/steer-{name}"
                    ),
                )
            ),
            f"{_LLMS['vicuna']}, {_LLMS['llama']}",
            "facts of the zoo, or yours",
            _GPU,
            "about 12",
        ),
        f"{_SMALL}; these probes are ones that the model answers from the context, so there is little to gain",
    ),
    *_RELATED,
    Entry(
        "figure-11.10",
        "entropy and accuracy of Llama-3-70B's heads, and attribution over context lengths",
        "circuits",
        "a few heads attribute; head [52, 19] does so at every length",
        Zoo(
            (PROBES, COPY, HEADS),
            "32 probes, half to choose the head and half to report, seed 0",
            (
                Number("head", HEADS.name, (_named,)),
                Number("its sentence is right", HEADS.name, ("chosen", "sentence")),
                Number("a random sentence is", HEADS.name, ("sentence_chance",)),
            ),
            lambda ours: (
                ours["its sentence is right"].low is not None
                and ours["its sentence is right"].low > ours["a random sentence is"].number
            ),
        ),
        Paper(
            (
                words(
                    "circuits probes --model meta-llama/Meta-Llama-3-70B-Instruct --dtype"
                    " bfloat16 --device-map auto --kind copy -n 200 --style chat --out"
                    " {out}/probes-70b.jsonl"
                ),
                words(
                    "circuits extract --model meta-llama/Meta-Llama-3-70B-Instruct --dtype"
                    " bfloat16 --device-map auto --probes {out}/probes-70b.jsonl --style"
                    " chat --out {out}/copy-70b"
                ),
                words(
                    "circuits heads --model meta-llama/Meta-Llama-3-70B-Instruct --dtype"
                    " bfloat16 --device-map auto --probes {out}/probes-70b.jsonl --circuit"
                    " {out}/copy-70b --by entropy --style chat --out {out}/heads-70b"
                ),
            ),
            "meta-llama/Meta-Llama-3-70B-Instruct",
            "facts of the zoo, or yours",
            "141 GB of weights: 3 GPUs of 80 GB, or 4-bit (--quantize nf4) on 1",
            "about 30",
        ),
        f"{_SMALL}; context lengths are not varied",
    ),
)
