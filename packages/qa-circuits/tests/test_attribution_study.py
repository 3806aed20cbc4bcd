"""Methods side by side on a tiny model: rows against the methods themselves, shares by hand, resuming."""

from pathlib import Path

import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec, load
from pellucid.core.testing import tiny_decoder, word_tokenizer
from pellucid.qa_circuits import attribution_study as study
from pellucid.qa_circuits.attribution import attribute
from pellucid.qa_circuits.attribution_study import SourceJob, SourceRow, check_sources, compare_sources
from pellucid.qa_circuits.baselines import gradient
from pellucid.qa_circuits.evaluation_sets import Located
from pellucid.qa_circuits.prompts import render
from pellucid.qa_circuits.spans import Span

QUESTIONS = [
    Located(f"Eve sings. Ben owns {n}. Ben plays the drums.", f"Who owns {n}?", "Ben", (Span(11, 24),))
    for n in ("Rex", "Tom")
]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path: Path = tmp_path_factory.mktemp("tiny")
    text = " ".join(render(None, q.context, q.question) for q in QUESTIONS)  # type: ignore[arg-type]
    word_tokenizer(text).save_pretrained(path)
    tiny_decoder("llama").save_pretrained(path)
    return ModelSpec(str(path))


def job(spec: ModelSpec, *methods: str, rel: bool = False) -> SourceJob:
    return SourceJob(spec, (1, 2), check_sources(methods), "zoo:minilm", "sentence", "plain", 3, rel)


def test_rows_are_what_the_methods_say(spec: ModelSpec, tmp_path: Path) -> None:
    found = compare_sources(job(spec, "gradient", rel=True), QUESTIONS, tmp_path / "ledger")
    assert [m.method for m in found.methods] == ["attention", "gradient"]
    assert found.questions == 2
    assert found.chance.value == pytest.approx(1 / 3)
    loaded = load(spec)
    right = []
    for asked in QUESTIONS:
        own = attribute(
            loaded.model, loaded.tokenizer, asked.context, asked.question, head=(1, 2), k=1, max_new_tokens=3
        )
        other = gradient(loaded.model, loaded.tokenizer, asked.context, asked.question, own.answer, k=1)
        right.append(["Ben owns" in spans[0].span.of(asked.context) for spans in (own.spans, other)])
    shares = [sum(column) / 2 for column in zip(*right, strict=True)]
    assert [m.accuracy.value for m in found.methods] == shares
    assert found.methods[1].behind.value == pytest.approx(shares[0] - shares[1])
    assert found.rel is not None
    assert found.rel_random is not None


def test_what_is_done_is_not_done_again(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compare_sources(job(spec), QUESTIONS[:1], tmp_path / "ledger")
    monkeypatch.setattr(study, "_row", lambda *_: pytest.fail("asked again"))
    assert compare_sources(job(spec), QUESTIONS[:1], tmp_path / "ledger") == first
    assert first.rel is None


def test_the_summary_by_hand(spec: ModelSpec) -> None:
    rows = [
        SourceRow("a", True, [True, False], [1.0, 3.0], 0.25, 4, [0.5, 0.1]),
        SourceRow("b", False, [True, True], [2.0, 5.0], 0.75, 4, None),
    ]
    found = study._summary(job(spec, "gradient"), rows, 0, ())
    assert [m.accuracy.value for m in found.methods] == [1.0, 0.5]
    assert [m.behind.value for m in found.methods] == [0.0, 0.5]
    assert [m.seconds.value for m in found.methods] == [1.5, 4.0]
    assert (found.chance.value, found.faithful.value) == (0.5, 0.5)
    assert found.rel is not None
    assert found.rel.value == 0.5


def test_what_cannot_be_compared(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no method 'magic'"):
        check_sources(["magic"])
    with pytest.raises(DataError, match="there are no questions"):
        compare_sources(job(spec), [], tmp_path)
