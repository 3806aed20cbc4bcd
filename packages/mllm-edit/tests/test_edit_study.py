from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import load_multimodal
from pellucid.core.testing_multimodal import tiny_multimodal
from pellucid.mllm_edit.edit_metrics import EditCase, accuracies, edit_scores
from pellucid.mllm_edit.edit_study import (
    UNTOUCHED,
    EditCell,
    EditJob,
    EditRow,
    Plan,
    bars,
    curves,
    depth_layers,
    edit_job,
    edit_sweep,
    outcomes,
)
from pellucid.mllm_edit.figures import curves_figure, edits_figure
from pellucid.mllm_edit.fine_tuning import fine_tune
from pellucid.mllm_edit.multedit import multedit
from pellucid.mllm_edit.questions import VisualQuestion
from pellucid.mllm_edit.values import Search
from PIL import Image

SEARCH = Search(steps=3)
PLANS = [
    Plan("multedit", 1, 0.01),
    Plan("multedit", 1, 10.0),
    Plan("multedit", 1, 0.01, "one by one"),
    Plan("fine-tuning", None, 1e-3),
    Plan("bounded fine-tuning", 1, 1e-4),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model, processor = tiny_multimodal("llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    for name, size in (("a.png", (31, 20)), ("b.png", (18, 40))):
        Image.effect_noise(size, 80).convert("RGB").save(folder / name)
    return folder


def cases(folder: Path) -> list[EditCase]:
    mill = VisualQuestion(
        str(folder / "a.png"), "Which mill belongs to this person?", "this person", answers=("the red mill",),
        paraphrases=("Which mill does this person own?",),
    )  # fmt: skip
    dish = replace(mill, image=str(folder / "b.png"), question="Which dish does this person cook?", answers=("soup",))
    return [EditCase(mill, (str(folder / "b.png"),)), EditCase(replace(dish, paraphrases=()))]


def job(folder: Path) -> EditJob:
    other = VisualQuestion(str(folder / "b.png"), "What is shown here?", "", answers=("an old boat",))
    again = replace(other, question="Who has painted this picture?", answers=("Berta",))
    return edit_job(ModelSpec(str(folder)), [other, again], search=SEARCH, steps=2, rate=1e-3)


def test_a_study_is_its_edits_one_at_a_time(folder: Path, tmp_path: Path) -> None:
    """The slow twin: a fresh model for every cell."""
    facts, shared = cases(folder), job(folder)
    sweep = edit_sweep(shared, [facts], PLANS)
    summary = sweep.run(tmp_path / "ledger")
    assert (summary.done, summary.failed) == (6, 0)
    rows = {cell.plan: row for cell, row in sweep.pairs(tmp_path / "ledger")}
    asked = [case.question for case in facts]
    for plan in (UNTOUCHED, *PLANS):
        loaded, applied = load_multimodal(shared.model), []
        for some in [asked] if plan.order == "together" else [[one] for one in asked]:
            if plan.method == "multedit":
                assert plan.layer is not None
                edit = multedit(loaded, some, layer=plan.layer, ridge=plan.strength, search=SEARCH).edit
                edit.apply(loaded.model)
            elif plan != UNTOUCHED:
                bounded = plan.method == "bounded fine-tuning"
                tuned = fine_tune(
                    loaded, some, layers=None if plan.layer is None else [plan.layer], steps=2,
                    bound=plan.strength if bounded else None, rate=1e-3 if bounded else plan.strength,
                )  # fmt: skip
                block = tuned.applied(loaded.model)
                block.__enter__()
                applied.append(block)  # kept: a collected block would put the old weights back
        expected = edit_scores(loaded, facts)
        row = rows[plan]
        assert (tuple(row.case), tuple(row.kind)) == (expected.case, expected.kind)
        np.testing.assert_allclose(row.probability, expected.probability, rtol=1e-3)
        np.testing.assert_allclose(row.unrelated, accuracies(loaded, shared.unrelated))
    for plan in PLANS:
        assert rows[plan].probability != rows[UNTOUCHED].probability


def test_rows_do_not_depend_on_what_was_done_before(folder: Path, tmp_path: Path) -> None:
    facts, shared = cases(folder), job(folder)
    whole = edit_sweep(shared, [[one] for one in facts], PLANS)
    whole.run(tmp_path / "whole")
    part = edit_sweep(shared, [facts[1:]], [PLANS[1]])
    part.run(tmp_path / "part")
    found = dict(whole.pairs(tmp_path / "whole"))
    for cell, row in part.pairs(tmp_path / "part"):
        assert row == found[cell]


def row(edited: float, unrelated: list[float]) -> EditRow:
    return EditRow([0, 0], ["edited", "paraphrase"], [edited, edited / 2], [edited > 0.5, False], unrelated)


def test_outcomes_are_means_with_intervals(folder: Path) -> None:
    first, second = ((case,) for case in cases(folder))
    weak, strong = (Plan("multedit", 1, strength) for strength in (1.0, 0.1))
    pairs = [
        (EditCell(first, UNTOUCHED, ""), row(0.1, [1.0, 1.0])),
        (EditCell(second, UNTOUCHED, ""), row(0.3, [1.0, 1.0])),
        (EditCell(first, weak, ""), row(0.4, [1.0, 1.0])),
        (EditCell(second, weak, ""), row(0.6, [0.0, 1.0])),
        (EditCell(first, strong, ""), row(0.8, [0.0, 1.0])),
        (EditCell(second, strong, ""), row(0.8, [0.0, 1.0])),
    ]
    before, mild, hard = outcomes(pairs)
    assert (before.plan, before.size, before.facts) == (UNTOUCHED, 1, 2)
    assert before.lost.value == 0
    assert (mild.probability["edited"].value, mild.exact["edited"].value) == (pytest.approx(0.5), 0.5)
    assert (mild.probability["edited"].low, mild.probability["edited"].high) == (pytest.approx(0.4), pytest.approx(0.6))
    assert mild.probability["paraphrase"].value == pytest.approx(0.25)
    assert "picture" not in mild.probability
    assert (mild.specificity.value, mild.lost.value) == (0.75, 25)
    assert (hard.specificity.value, hard.lost.value) == (0.5, 50)
    lines = curves([before, mild, hard])
    assert {name: [point.label for point in points] for name, points in lines.items()} == {"multedit": ["0.1", "1"]}
    assert set(bars(hard)) == {"efficacy", "paraphrases", "specificity"}
    curves_figure(lines, "efficacy")
    edits_figure({"errors corrected": {"untouched": bars(before), "MultEdit": bars(hard)}})


def test_curves_are_named_by_what_differs(folder: Path) -> None:
    facts = cases(folder)
    plans = [UNTOUCHED, Plan("multedit", 1, 1.0), Plan("multedit", 2, 1.0), Plan("fine-tuning", None, 0.1)]
    pairs = [(EditCell((facts[0],), plan, ""), row(0.5, [1.0])) for plan in plans]
    assert set(curves(outcomes(pairs))) == {"multedit, layer 1", "multedit, layer 2", "fine-tuning"}
    several = [*pairs, (EditCell(tuple(facts), Plan("multedit", 1, 1.0, "one by one"), ""), row(0.5, [1.0]))]
    assert "multedit, layer 1, 2 facts, one by one" in curves(outcomes(several))


def test_layers_early_middle_and_late() -> None:
    assert depth_layers(32) == {"early": 4, "middle": 16, "late": 27}
    assert depth_layers(8) == {"early": 1, "middle": 4, "late": 6}


def test_a_changed_picture_is_another_cell(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "c.png"
    keys = []
    for shade in (10, 200):
        Image.new("L", (8, 8), shade).save(picture)
        facts = [EditCase(replace(cases(folder)[0].question, image=str(picture)))]
        keys.append(edit_sweep(job(folder), [facts], PLANS[:1]).keys)
    assert not set(keys[0]) & set(keys[1])


def test_rows_do_not_depend_on_where_the_pictures_lie(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    here, there = (
        edit_sweep(replace(job(folder), unrelated=job(place).unrelated), [cases(place)], PLANS).keys
        for place in (folder, tmp_path)
    )
    assert here == there


def test_what_cannot_be_studied_says_so(folder: Path) -> None:
    with pytest.raises(OptionError, match="method 'rome'"):
        Plan("rome")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="multedit changes one layer: say which"):
        Plan("multedit")
    with pytest.raises(DataError, match="there is a set of no facts"):
        edit_sweep(job(folder), [[]], PLANS)
    with pytest.raises(DataError, match="no unrelated question"):
        edit_job(ModelSpec(str(folder)), [])
    missing = replace(cases(folder)[0], pictures=("nowhere.png",))
    with pytest.raises(DataError, match=r"the picture nowhere\.png cannot be read"):
        edit_sweep(job(folder), [[missing]], PLANS)
    with pytest.raises(DataError, match="no row of the untouched model"):
        outcomes([])
