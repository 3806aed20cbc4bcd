from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import load_multimodal
from pellucid.core.testing import tiny_decoder
from pellucid.core.testing_multimodal import LAYERS, tiny_multimodal
from pellucid.mllm_edit.answering import generate_answers
from pellucid.mllm_edit.corruption import replacement_probe
from pellucid.mllm_edit.questions import VisualQuestion
from pellucid.mllm_edit.trace_jobs import RANDOM, Asked, TraceJob, TraceRow, mean_effects, phrases_of, trace_sweep
from pellucid.mllm_edit.tracing import KINDS, Restoration, multimodal_causal_trace, restored_probabilities
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA, its language model's class alone, and two pictures."""
    folder = tmp_path_factory.mktemp("models")
    model, processor = tiny_multimodal("llava")
    model.save_pretrained(folder / "llava")
    processor.save_pretrained(folder / "llava")
    tiny_decoder("llama", vocabulary=len(processor.tokenizer)).save_pretrained(folder / "llama")
    processor.tokenizer.save_pretrained(folder / "llama")
    for name, size in (("a.png", (31, 20)), ("b.png", (18, 40))):
        Image.effect_noise(size, 80).convert("RGB").save(folder / name)
    return folder


def questions(folder: Path) -> list[VisualQuestion]:
    dish = VisualQuestion(
        str(folder / "a.png"), "Which dish does this person cook in winter?", "this person", ("winter",), ("soup",),
        entity="Paris",
    )  # fmt: skip
    mill = replace(
        dish, image=str(folder / "b.png"), question="Which mill belongs to this person?", textual=(), entity="the tower"
    )
    return [dish, mill]


def test_words_for_constraints_come_from_the_other_questions(folder: Path) -> None:
    asked = questions(folder)
    summer = replace(asked[0], question="Which dish does this person cook in summer?", textual=("summer",))
    assert phrases_of([*asked, summer]) == {
        "this person": ("Paris", "the tower"), "winter": ("summer",), "summer": ("winter",),
    }  # fmt: skip
    assert phrases_of(asked) == {"this person": ("Paris", "the tower")}


def test_a_sweep_is_the_traces_of_its_questions(folder: Path, tmp_path: Path) -> None:
    asked = questions(folder)
    spec = ModelSpec(str(folder / "llava"))
    job = TraceJob(spec, window=2, phrases=phrases_of(asked))
    sweep = trace_sweep(job, asked, ["soup", "soup"])
    summary = sweep.run(tmp_path / "ledger")
    assert (summary.done, summary.failed) == (2, 0)
    rows = sweep.rows(tmp_path / "ledger")
    loaded = load_multimodal(spec)
    for row, question in zip(rows, asked, strict=True):
        chosen = dict(zip((question.visual, *question.textual), row.phrases, strict=True))
        assert question.entity not in row.phrases
        trace = multimodal_causal_trace(replacement_probe(loaded, question, "soup", chosen), window=2)
        assert (row.answer, row.clean) == ("soup", pytest.approx(trace.clean, rel=1e-4))
        assert row.corrupted == pytest.approx(trace.corrupted, rel=1e-4)
        assert (row.first, row.stop) == ([0, 0, 1], [1, 2, 3])
        assert row.groups == [*trace.groups, RANDOM]
        for number, name in enumerate(trace.groups):
            np.testing.assert_allclose(row.effects("mlp")[name], trace.effect("mlp")[number], atol=1e-7, rtol=1e-3)
    # The same phrases whatever the window, so that windows can be compared.
    other = trace_sweep(replace(job, window=1), asked, ["soup", "soup"])
    other.run(tmp_path / "other")
    assert [row.phrases for row in other.rows(tmp_path / "other")] == [row.phrases for row in rows]


@pytest.mark.parametrize(("asked", "corruption"), [("words", "phrase"), ("alone", "noise"), ("picture", "noise")])
def test_other_ways_of_asking(folder: Path, tmp_path: Path, asked: str, corruption: str) -> None:
    model = ModelSpec(str(folder / ("llama" if asked == "alone" else "llava")))
    job = TraceJob(model, corruption=corruption, asked=asked, draws=2)  # type: ignore[arg-type]
    sweep = trace_sweep(job, questions(folder), ["soup", "soup"])
    assert sweep.run(tmp_path / "ledger").failed == 0
    rows = sweep.rows(tmp_path / "ledger")
    for row in rows:
        assert ("image" in row.groups) == (asked == "picture")
        assert len(row.first) == LAYERS
        assert row.clean > 0
        assert bool(row.phrases) == (corruption == "phrase")


def test_an_offloaded_model_traces_as_in_memory(folder: Path, tmp_path: Path) -> None:
    asked = questions(folder)[1:]
    rows = []
    for name, placed in (("memory", {}), ("disk", {"max_memory": {"cpu": "60KB"}})):
        spec = ModelSpec(str(folder / "llava"), **placed)  # type: ignore[arg-type]
        sweep = trace_sweep(TraceJob(spec), asked, ["soup"])
        assert sweep.run(tmp_path / name).failed == 0
        rows += sweep.rows(tmp_path / name)
    np.testing.assert_allclose(rows[0].mlp, rows[1].mlp, rtol=1e-4)
    np.testing.assert_allclose(rows[0].attention, rows[1].attention, rtol=1e-4)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_model_in_4_bits_is_restored_to_its_own_clean_run(folder: Path) -> None:
    loaded = load_multimodal(folder / "llava", quantize="nf4")
    [question] = questions(folder)[1:]
    probe = replacement_probe(loaded, question, "soup", {"this person": "Paris"})
    everywhere = tuple(range(probe.corrupted["inputs_embeds"].shape[1]))
    job = Restoration(KINDS, range(LAYERS), everywhere)
    clean, corrupted, restored = restored_probabilities(probe, [job], embeddings=True)
    assert float(restored[0]) == pytest.approx(clean, rel=1e-4)
    assert corrupted != pytest.approx(clean, rel=1e-3)


def test_the_models_own_answer_is_followed(folder: Path, tmp_path: Path) -> None:
    spec = ModelSpec(str(folder / "llava"))
    asked = questions(folder)[1:]
    sweep = trace_sweep(TraceJob(spec, window=1), asked)
    assert sweep.run(tmp_path / "ledger").failed == 0
    [row] = sweep.rows(tmp_path / "ledger")
    [own] = generate_answers(load_multimodal(spec), asked)
    assert row.answer == own.text != ""


def test_another_picture_in_the_same_file_is_another_cell(folder: Path, tmp_path: Path) -> None:
    Image.effect_noise((20, 20), 80).convert("RGB").save(tmp_path / "c.png")
    question = replace(questions(folder)[1], image=str(tmp_path / "c.png"))
    job = TraceJob(ModelSpec(str(folder / "llava")))
    before = trace_sweep(job, [question]).keys
    assert trace_sweep(job, [question]).keys == before
    Image.effect_noise((20, 20), 10).convert("RGB").save(tmp_path / "c.png")
    assert trace_sweep(job, [question]).keys != before
    assert trace_sweep(replace(job, rows=4), [question]).keys == trace_sweep(job, [question]).keys


@pytest.mark.parametrize("asked", ["picture", "words"])
def test_rows_do_not_depend_on_where_the_pictures_lie(folder: Path, tmp_path: Path, asked: Asked) -> None:
    question = questions(folder)[1]
    (tmp_path / "moved.png").write_bytes(Path(question.image).read_bytes())
    moved = replace(question, image=str(tmp_path / "moved.png"))
    other = replace(question, image=questions(folder)[0].image)
    job = TraceJob(ModelSpec(str(folder / "llava")), asked=asked)
    assert trace_sweep(job, [question]).keys == trace_sweep(job, [moved]).keys
    assert len(set(trace_sweep(job, [question, other]).keys)) == 2


def test_means_over_questions() -> None:
    first = TraceRow("a", [], 0.9, 0.1, ["image", "last token"], [0, 1], [1, 2], [0.1, 0.1, 0.5, 0.3], [0.1] * 4)
    second = TraceRow("b", [], 0.9, 0.2, ["last token"], [0, 1], [1, 2], [0.4, 0.2], [0.2] * 2)
    found = mean_effects([first, second], "mlp")
    assert list(found) == ["image", "last token"]
    np.testing.assert_allclose(found["last token"].value, [0.3, 0.1])
    np.testing.assert_allclose(found["image"].value, [0, 0])
    with pytest.raises(DataError, match="no traced question"):
        mean_effects([], "mlp")


def test_jobs_that_cannot_run(folder: Path) -> None:
    spec = ModelSpec(str(folder / "llava"))
    with pytest.raises(OptionError, match="corruption 'blur'"):
        TraceJob(spec, corruption="blur")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no visual constraint to trace"):
        trace_sweep(TraceJob(spec), [replace(questions(folder)[0], visual="")])
    with pytest.raises(DataError, match="cannot be read"):
        trace_sweep(TraceJob(spec), [replace(questions(folder)[0], image=str(folder / "none.png"))])
