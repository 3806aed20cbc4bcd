"""A report in a real browser: everybody can read it, on a phone too, and it fetches nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from pellucid.core.figures import figure_style, new_figure
from pellucid.core.report import Figure, Mark, Passage, Report, Section, Table
from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed: reports are looked at in a real browser only"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with one of everything."""
    with figure_style():
        drawn, axes = new_figure()
        axes.plot(np.arange(5))
    text = "The mill stands by the river. <b>Anna</b> owns it."
    section = Section(
        "What was found",
        ["A sentence.", "Another one."],
        [Figure("line", drawn, "A line.", "It rises from 0 to 4.")],
        [Table("wide", [f"column {n}" for n in range(12)], [[n * 1000.0 for n in range(12)]] * 3, "A wide table.")],
        [Passage(text, [Mark(30, len(text), "1: 0.83", 0.9), Mark(0, 29, "2: 0.10", 0.2)], "Its sources.")],
    )
    out = tmp_path_factory.mktemp("report")
    Report(
        title="A report", command="tour", config={"a": 1}, seed=0, device="cpu", sections=[section], results={"x": 1},
        summary="Something was found.", notes=["Mind this."],
    ).write(out, 1.0)  # fmt: skip
    return out / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_it(report: Path, scheme: str, width: int) -> None:
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page).response["violations"]
        browser.close()
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
