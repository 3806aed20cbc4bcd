"""What a command leaves behind: strict, whole, escaped, and never over somebody else's files."""

import csv
import itertools
import json
import os
import re
from dataclasses import dataclass, replace
from enum import Enum
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core import report as reports
from pellucid.core.errors import DataError, OptionError, PellucidError
from pellucid.core.report import Figure, Mark, Passage, Report, Section, Table, new_figure, plain, prepare_out, versions
from pellucid.core.statistics import Estimate

NASTY = "<script>alert('&\"')</script>"


def a_figure(name: str = "curve") -> Figure:
    canvas, axes = new_figure(width=3, height=2)
    axes.plot([0, 1], [0, 1], label="measured")
    axes.legend()
    return Figure(name, canvas, f"Caption {NASTY}", 'Rises "evenly" from 0 to 1')


def a_table(rows: int = 3, name: str = "effects") -> Table:
    return Table(name, ["site", "effect", "located"], [[f"head {i}", i / 7, i == 0] for i in range(rows)], "Effects")


def a_report(**changes: object) -> Report:
    report = Report(
        title=f"Circuits {NASTY}",
        command="circuits extract",
        config={"model": "zoo:tiny", "layers": [1, 2]},
        seed=0,
        device="cpu",
        sections=[Section("Effects", [f"One paragraph. {NASTY}"], [a_figure()], [a_table()])],
        results={"effect": Estimate(0.5, 0.4, 0.6)},
        summary=f"The answer is kept in layer 3. {NASTY}",
        notes=["Small model."],
    )
    return replace(report, **changes)  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_result_json_holds_what_the_design_says(tmp_path: Path) -> None:
    page = a_report().write(tmp_path / "deep" / "out", seconds=1.5)
    out = page.parent
    assert page == tmp_path / "deep" / "out" / "report.html"
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert list(result) == [
        *("schema", "command", "config", "seed", "versions", "device", "seconds", "summary", "figures", "tables"),
        "results",
    ]
    assert result["config"] == {"model": "zoo:tiny", "layers": [1, 2]}
    assert result["results"] == {"effect": {"value": 0.5, "low": 0.4, "high": 0.6}}
    assert result["figures"][0]["file"] == "figures/curve.png"
    assert result["tables"][0] | {"caption": ""} == {
        "name": "effects",
        "file": "tables/effects.csv",
        "caption": "",
        "columns": ["site", "effect", "located"],
        "rows": 3,
    }
    assert (out / "figures/curve.png").read_bytes().startswith(b"\x89PNG")
    with (out / "tables/effects.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["site", "effect", "located"]
    assert float(rows[2][1]) == 1 / 7
    assert not list(out.rglob("*.tmp"))


def test_the_page_is_escaped_self_contained_and_in_order(tmp_path: Path) -> None:
    text = a_report().write(tmp_path, 75).read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text.lower()
    assert page.text.count(NASTY) == 5  # title twice, summary, paragraph, caption: as text
    assert page.all("html")[0]["lang"] == "en"
    for image in page.all("img"):
        assert str(image["src"]).startswith("data:image/png;base64,")
        assert image["alt"] == 'Rises "evenly" from 0 to 1'
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert headings.count(1) == 1
    assert "1 min 15 s" in page.text
    links = {str(link["href"]) for link in page.all("a")}
    assert all(link.startswith("#") or (tmp_path / link).is_file() for link in links)
    named = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes} <= named


def test_every_text_of_a_report_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    table = Table("t", [NASTY], [[NASTY]], NASTY)
    canvas, _ = new_figure(width=1, height=1)
    section = Section(NASTY, [NASTY], [Figure("f", canvas, NASTY, NASTY)], [table])
    report = Report(NASTY, NASTY, {NASTY: NASTY}, 0, NASTY, [section], {}, NASTY, [NASTY])
    text = report.write(tmp_path, 1).read_text(encoding="utf-8")
    assert "<script" not in text
    assert Page(text).all("img")[0]["alt"] == NASTY


def test_long_tables_show_their_head_and_name_the_file(tmp_path: Path) -> None:
    report = a_report(sections=[Section("Long", tables=[a_table(330)])])
    page = Page(report.write(tmp_path, 1).read_text(encoding="utf-8"))
    assert len(page.all("tr")) == 1 + 20
    assert "The first 20 of 330 rows; all are in" in page.text
    assert len((tmp_path / "tables/effects.csv").read_text().splitlines()) == 331


def test_empty_tables_and_no_sections_are_fine(tmp_path: Path) -> None:
    assert a_report(sections=[Section("Nothing", tables=[a_table(0)])], seed=None).write(tmp_path, 1).is_file()
    assert a_report(sections=[], config={}, notes=[]).write(tmp_path, 1).is_file()


def test_a_second_report_leaves_no_stale_files_and_touches_no_others(tmp_path: Path) -> None:
    a_report().write(tmp_path, 1)
    (tmp_path / "tables/mine.csv").write_text("kept")
    a_report(sections=[Section("New", tables=[a_table(name="other")])]).write(tmp_path, 1)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"mine.csv", "other.csv"}
    assert not list((tmp_path / "figures").iterdir())


def test_a_foreign_list_of_files_deletes_nothing_outside(tmp_path: Path) -> None:
    precious, out = tmp_path / "precious.csv", tmp_path / "out"
    precious.write_text("kept")
    a_report().write(out, 1)
    result = json.loads((out / "result.json").read_text())
    result["tables"].append({"file": "../precious.csv"})
    (out / "result.json").write_text(json.dumps(result))
    a_report().write(out, 1)
    assert precious.read_text() == "kept"


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    path: Path
    colour: Colour


def test_values_of_many_kinds_become_json() -> None:
    value = {
        "inner": Inner(Path("a/b"), Colour.RED),
        3: np.arange(4).reshape(2, 2),
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        "tensor": torch.tensor([[1.5]], dtype=torch.bfloat16, requires_grad=True),
        "one": torch.tensor(2),
        "dtype": torch.float16,
        "where": torch.device("cpu"),
        "pair": (1, None),
        "text": np.array(["é"]),
    }
    made = plain(value)
    assert made == {
        "inner": {"path": "a/b", "colour": "red"},
        "3": [[0, 1], [2, 3]],
        "scalar": 0.5,
        "flag": True,
        "tensor": [[1.5]],
        "one": 2,
        "dtype": "torch.float16",
        "where": "cpu",
        "pair": [1, None],
        "text": ["é"],
    }
    assert json.loads(json.dumps(made, allow_nan=False)) == made


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
@settings(max_examples=50, deadline=None)
def test_what_is_json_already_stays_as_it_is(value: object) -> None:
    assert plain(value) == value


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"curve": [1.0, {"effect": float("nan")}]}, "results.curve[1].effect is nan"),
        ({"array": np.array([[0.0, np.inf]])}, "results.array[0][1] is inf"),
        ({"tensor": torch.tensor([-torch.inf])}, "results.tensor[0] is -inf"),
        ({"model": object()}, "results.model is a object"),
        ({"complex": np.array([1j])}, "results.complex is a ndarray"),
        ({1: "a", "1": "b"}, "results has the key '1'"),
        ({("a", "b"): 1}, "results has the key ('a', 'b')"),
        (float("nan"), "results is nan"),
    ],
)
def test_what_json_cannot_hold_is_named_and_nothing_is_written(tmp_path: Path, value: object, where: str) -> None:
    with pytest.raises(DataError, match=re.escape(where)):
        a_report(results=value).write(tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Section("s", tables=[Table("t", ["a"], [[float("nan")]], "")]), "tables.t.rows[0].a is nan"),
        (Section("s", tables=[Table("t", ["a"], [[1, 2]], "")]), "tables.t.rows[0] has 2 cells for 1 columns"),
        (Section("s", tables=[a_table(name="../up")]), "table '../up' cannot name a file"),
        (Section("s", tables=[a_table(name="A"), a_table(name="a")]), "two tables are named 'a'"),
        (Section("s", figures=[replace(a_figure(), alt=" ")]), "figure 'curve' has no alt text"),
    ],
)
def test_mistakes_in_sections_are_named(tmp_path: Path, section: Section, message: str) -> None:
    with pytest.raises(PellucidError, match=re.escape(message)):
        a_report(sections=[section]).write(tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_a_config_must_have_names(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="config is a list"):
        a_report(config=[1]).write(tmp_path, 1)


def test_prefixed_sections_fit_one_report(tmp_path: Path) -> None:
    section = Section("s", figures=[a_figure()], tables=[a_table()])
    a_report(sections=[section.prefixed("one"), section.prefixed("two")]).write(tmp_path, 1)
    assert {path.name for path in tmp_path.glob("*/*")} == {
        *("one-curve.png", "two-curve.png", "one-effects.csv", "two-effects.csv")
    }


def test_findings_stand_in_the_contents_instead_of_a_summary(tmp_path: Path) -> None:
    sections = [Section(name, lead=f"Found by {name}. {NASTY}") for name in ("one", "two")]
    page = a_report(sections=sections, summary="All of it.").write(tmp_path / "led", 1).read_text()
    contents = page[page.index("<nav") : page.index("</nav>")]
    assert contents.index("Found by one.") < contents.index("Found by two.")
    assert "All of it." not in page
    assert NASTY not in page
    partly = a_report(sections=[*sections, Section("three")], summary="All of it.").write(tmp_path / "partly", 1)
    assert "All of it." in partly.read_text()


def test_odd_text_survives(tmp_path: Path) -> None:
    odd = "caf\u00e9 \udc80"  # a lone surrogate is what an undecodable file name holds
    report = a_report(results={"file": odd}, summary=odd, sections=[Section("s", tables=[Table("t", [odd], [], "")])])
    report.write(tmp_path, 1)
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["results"]["file"] == odd


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        a_report().write(tmp_path / name, 1)
    assert (tmp_path / "a/figures/curve.png").read_bytes() == (tmp_path / "b/figures/curve.png").read_bytes()


def test_a_style_that_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    _, axes = new_figure(2, 3)
    assert axes.shape == (2, 3)
    assert axes[0, 0].plot([0, 1])[0].get_color() == reports.COLOURS[0]
    assert dict(matplotlib.rcParams) == before


def test_versions_name_this_package_and_the_libraries() -> None:
    found = versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "transformers", "pellucid-core"} <= set(found)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fresh_clears_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    prepare_out(tmp_path, fresh=False)
    a_report().write(tmp_path, 1)
    for path in (
        "ledger/segments/a.parquet",
        "ledger-truth/one/segments/b",
        "ledger-truth/two/segments/c",
        "ledger2024/accounts",
        "notes.txt",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "figures/mine.svg").write_text("kept")
    before = snapshot(tmp_path)
    prepare_out(tmp_path, fresh=False)
    assert snapshot(tmp_path) == before
    prepare_out(tmp_path, fresh=True)
    assert set(snapshot(tmp_path)) == {".pellucid", "ledger2024/accounts", "notes.txt", "figures/mine.svg"}
    assert not (tmp_path / "ledger").exists()


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("foreign", ["thesis.txt", "result.json", "ledger2024/accounts"])
def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path, foreign: str, fresh: bool) -> None:
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_text('{"schema": "another"}')
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match="nothing of Pellucid's"):
        prepare_out(tmp_path, fresh)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("ours", ["result", "ledger", "early death"])
def test_a_folder_of_ours_is_taken_up_again(tmp_path: Path, ours: str) -> None:
    if ours == "result":
        a_report().write(tmp_path, 1)
    elif ours == "ledger":
        (tmp_path / "ledger/segments").mkdir(parents=True)
    else:
        prepare_out(tmp_path, fresh=False)
    (tmp_path / "edit.safetensors").write_text("weights")
    prepare_out(tmp_path, fresh=True)
    assert (tmp_path / "edit.safetensors").is_file()


def test_links_in_the_folder_are_not_followed_when_clearing(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (elsewhere / "segments").mkdir(parents=True)
    (elsewhere / "mine.png").write_text("kept")
    prepare_out(out, fresh=False)
    for name in ("ledger", "figures"):
        (out / name).symlink_to(elsewhere)
    prepare_out(out, fresh=True)
    assert {path.name for path in elsewhere.iterdir()} == {"segments", "mine.png"}


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    for call in (lambda: prepare_out(file / "out", False), lambda: prepare_out(file, False)):
        with pytest.raises(DataError, match=r"cannot write .*file") as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot write"):
        a_report().write(file, 1)


def test_a_failed_write_keeps_the_earlier_result_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_report().write(tmp_path, 1)
    before = (tmp_path / "result.json").read_bytes()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="No space left on device"):
        a_report(seed=1).write(tmp_path, 1)
    assert (tmp_path / "result.json").read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_marked_texts_are_whole_escaped_and_in_order(tmp_path: Path) -> None:
    text = "One <b>two</b>.\nThree four."
    passage = Passage(text, [Mark(16, 27, "2: 0.1", 0.1), Mark(0, 15, "1: <0.9>", 0.9)], "A document.")
    assert "".join(piece for piece, _ in passage.pieces()) == text
    page = a_report(sections=[Section("Sources", passages=[passage])]).write(tmp_path, 1.0).read_text("utf-8")
    first = '<mark style="--strength: 90%"><b>1: &lt;0.9&gt;</b> One &lt;b&gt;two&lt;/b&gt;.</mark>\n'
    assert first + '<mark style="--strength: 10%"><b>2: 0.1</b> Three four.</mark></blockquote>' in page


@pytest.mark.parametrize("mark", [Mark(3, 3, ""), Mark(-1, 2, ""), Mark(2, 9, ""), Mark(1, 3, ""), Mark(3, 4, "", 2)])
def test_marks_that_cannot_be_shown_are_refused(mark: Mark) -> None:
    with pytest.raises(DataError, match="which has 8 characters"):
        Passage("a b c d ", [Mark(0, 2, ""), mark], "")
