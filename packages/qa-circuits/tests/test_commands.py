"""The commands on a tiny model: what they write, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import pytest
from pellucid.core.cli import main
from pellucid.core.testing import tiny_decoder, word_tokenizer
from pellucid.qa_circuits.probes import Probe, write_probes
from pellucid.qa_circuits.prompts import render
from pellucid.qa_circuits.registry import read_heads

NAMES = ("Rex", "Tom", "Kit", "Max")
PROBES = [
    Probe(n, f"Who owns {n}?", "Anna", "Ben", *(f"Eve sings. {who} owns {n}. Eve is rich." for who in ("Anna", "Ben")),
          f"Eve sings. Leo owns {o}. Eve is rich.", f"Who owns {o}?", "owner")
    for n, o in zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True)
]  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("work")
    text = " ".join(render(None, p.modified_context, p.question) for p in PROBES)  # type: ignore[arg-type]
    model = path / "model"
    word_tokenizer("Anna " + text).save_pretrained(model)
    tiny_decoder("llama").save_pretrained(model)
    write_probes(path / "probes.jsonl", PROBES)
    (path / "document.txt").write_text(PROBES[0].modified_context + " <b>Tom</b> sings.", "utf-8")
    for name, layers in (("context", [2, 1]), ("memory", [0, 2])):
        (path / name).mkdir()
        (path / name / "result.json").write_text(json.dumps({"results": _circuit(layers)}), "utf-8")
    return path


def _circuit(layers: list[int]) -> dict[str, Any]:
    kinds: dict[str, list[dict[str, int | None]]] = {
        "head": [{"layer": layer, "index": 1} for layer in layers],
        "attention": [{"layer": layer, "index": None} for layer in layers],
        "mlp": [{"layer": layer, "index": None} for layer in layers],
    }
    pool: list[dict[str, Any]] = [{"kind": "head", "layer": i, "index": j} for i in range(3) for j in range(4)]
    pool += [{"kind": kind, "layer": i, "index": None} for kind in ("attention", "mlp") for i in range(3)]
    effects = [{**c, "score": (c["layer"] + (c["index"] or 0)) / 10} for c in pool]
    return {"circuit": [{"kind": kind, "components": c} for kind, c in kinds.items()], "effects": effects}


def run(work: Path, command: str, name: str, *words: str, model: bool = True) -> dict[str, Any]:
    given = ["--model", str(work / "model")] if model else []
    assert main(["circuits", command, *given, *words, "--out", str(work / name)]) == 0
    found: dict[str, Any] = json.loads((work / name / "result.json").read_text("utf-8"))
    assert (work / name / "report.html").is_file()
    return found["results"]  # type: ignore[no-any-return]


def test_heads_are_chosen_and_used(work: Path) -> None:
    probes = ["--probes", str(work / "probes.jsonl")]
    found = run(work, "heads", "heads", *probes, "--circuit", str(work / "context"))
    assert found["head"] in ([1, 1], [2, 1])
    assert len(found["heads"]) == 2
    assert (found["chose_on"], found["reported_on"]) == (2, 2)
    assert list(read_heads(work / "heads" / "heads.json").attribution_head or ()) == found["head"]
    every = run(work, "heads", "every", *probes, "--by", "accuracy")
    assert len(every["heads"]) == 12

    asked = ["--document", str(work / "document.txt"), "--question", "Who owns Rex?", "--max-new-tokens", "3"]
    source = run(work, "attribute", "source", *asked, "--heads", str(work / "heads" / "heads.json"), "-k", "2")
    assert len(source["spans"]) == 2
    text = (work / "document.txt").read_text("utf-8")
    assert all(text[s["start"] : s["stop"]] == s["text"] for s in source["spans"])
    page = (work / "source" / "report.html").read_text("utf-8")
    assert page.count("<mark ") == 2
    assert "&lt;b&gt;Tom&lt;/b&gt;" in page


def test_methods_are_compared(work: Path) -> None:
    words = ["--probes", str(work / "probes.jsonl"), "--head", "1.1", "--methods", "gradient", "--rel-score"]
    found = run(work, "evaluate", "compared", *words, "--max-new-tokens", "2")
    assert [m["method"] for m in found["methods"]] == ["attention", "gradient"]
    assert found["chance"]["value"] == pytest.approx(1 / 3)
    true = run(work, "evaluate", "true", *words[:4], "--methods", "", "--true", "--max-new-tokens", "2")
    assert true["questions"] == 4


def test_a_circuit_is_cut_off(work: Path) -> None:
    words = ["--probes", str(work / "probes.jsonl"), "--circuit", str(work / "context")]
    found = run(work, "validate", "ablated", *words, "--draws", "2", "-n", "3")
    assert found["circuit"] == ["head 2.1", "head 1.1"]
    assert (found["examples"], len(found["random"])) == (3, 2)


def test_steering(work: Path) -> None:
    words = ["--probes", str(work / "probes.jsonl"), "--head", "1.1", "--circuit", str(work / "context")]
    found = run(work, "steer", "steered", *words, "--memory-circuit", str(work / "memory"), "--mlps", "1")
    names = ["plain", "attributed", "upweighted", "zeroed", "mean_ablated", "context_aware"]
    assert [m["method"] for m in found["methods"]] == names


def test_circuits_side_by_side(work: Path) -> None:
    both = ["--circuit", str(work / "context"), "--circuit", str(work / "memory")]
    found = run(work, "compare", "overlap", *both, model=False)
    assert [(o["kind"], o["shared"], o["common"]) for o in found["overlaps"]] == [
        ("head", 1, ["head 2.1"]),
        ("attention", 1, ["attention 2"]),
        ("mlp", 1, ["mlp 2"]),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attribute", "--document", "D", "--question", "q"], "give --head LAYER.HEAD, or --heads FILE"),
        (["attribute", "--document", "D", "--question", "q", "--head", "9.9"], "head"),
        (["attribute", "--document", "D", "--question", "q", "--head", "x"], "--head 'x' is no head"),
        (["attribute", "--document", "none", "--question", "q", "--head", "1.1"], "cannot read none"),
        (["attribute", "--document", "D", "--question", "q", "--head", "1.1", "--spans", "0"], "--spans '0'"),
        (["heads", "--probes", "P", "--by", "luck"], "no way 'luck' to choose a head"),
        (["heads", "--probes", "P", "--circuit", "none"], "none holds no circuit of heads"),
        (["evaluate", "--probes", "P", "--head", "1.1", "--methods", "magic"], "no method 'magic'"),
        (["validate", "--circuit", "none"], "give --probes FILE, or --data FILE"),
        (["evaluate", "--head", "1.1", "--data", "D", "--format", "x"], "no format 'x'"),
        (["steer", "--probes", "P", "--methods", "zeroed"], "'zeroed' needs 'mlps'"),
    ],
)
def test_mistakes_are_one_line(work: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"D": str(work / "document.txt"), "P": str(work / "probes.jsonl")}
    given = [files.get(word, word) for word in words]
    assert main(["circuits", *given, "--model", str(work / "model"), "--out", str(work / "mistake")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
