"""The page in a real browser: each tab once, by mouse and by keyboard, what is refused, and who can use it."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
LONG = 300_000  # milliseconds that a model's first answer may take on a busy machine
TABS = ("Ask a document", "Edit pictures", "Correct an answer", "Look inside")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed: the page is tested in a real browser only"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command as a user runs it."""
    folder = tmp_path_factory.mktemp("studio")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    # Sockets that a server waits on, and uploads, go to a folder of this test.
    env = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "uploads"), "OMP_NUM_THREADS": "1"}
    command = ["pellucid", "studio", "--port", str(port), "--out", str(folder / "runs")]
    with (folder / "log").open("w") as log:
        served = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(600):
            assert served.poll() is None, (folder / "log").read_text()
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
        said = (folder / "log").read_text()
        assert "Traceback" not in said, said
        assert "Warning" not in said, said
    finally:
        served.terminate()
        served.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def elsewhere() -> list[str]:
    """Requests to other machines."""
    return []


@pytest.fixture(scope="module")
def page(address: str, browser: Browser, elsewhere: list[str]) -> Page:
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    opened.on("request", lambda request: _note(request, address, elsewhere))
    opened.goto(address)
    opened.get_by_role("button", name="Ask").first.wait_for()
    return opened


def _note(request: Any, address: str, elsewhere: list[str]) -> None:
    if not request.url.startswith((address, "data:", "blob:")):
        elsewhere.append(request.url)


def to(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def test_a_document_is_asked_by_keyboard_alone(page: Page) -> None:
    to(page, TABS[0])
    page.get_by_label("Question").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Ask"
    page.keyboard.press("Enter")
    expect(page.locator(".passage mark").first).to_contain_text("krone", timeout=LONG)
    expect(page.get_by_label("Answer")).to_have_value("krone")


def test_a_document_is_uploaded_and_a_false_one_refused(page: Page, tmp_path: Path) -> None:
    to(page, TABS[0])
    (tmp_path / "good.txt").write_text("The mill of <b>Anna</b> stands by the river.")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "good.txt")
    document = page.get_by_role("textbox", name="Document")
    expect(document).to_have_value("The mill of <b>Anna</b> stands by the river.")
    page.get_by_label("Question").fill("Whose mill stands by the river?")
    page.get_by_role("button", name="Ask", exact=True).first.click()
    expect(page.locator(".passage mark").first).to_contain_text("<b>Anna</b>")  # as text, not as HTML
    page.get_by_label("Question").fill(" ")
    page.get_by_role("button", name="Ask", exact=True).first.click()
    expect(page.get_by_text("the question is empty: type one")).to_be_visible()


def test_pictures_before_and_after(page: Page) -> None:
    to(page, TABS[1])
    page.get_by_label("Prompts to look at").fill("a red house in the style of van gogh")
    page.get_by_role("button", name="Draw before and after").click()
    expect(page.get_by_text("20 matrices changed")).to_be_visible(timeout=LONG)
    with page.expect_download() as started:
        page.get_by_role("link", name="MB").first.click()
    assert started.value.suggested_filename == "edit.safetensors"
    page.get_by_label("Prompts to look at").fill("\n".join("abcde"))
    page.get_by_role("button", name="Draw before and after").click()
    expect(page.get_by_text("5 prompts: give 1 to 4, one a line")).to_be_visible()


def test_an_answer_is_corrected(page: Page) -> None:
    to(page, TABS[2])
    page.get_by_role("button", name="Correct", exact=True).click()
    expect(page.get_by_text("Right afterwards: corrected 1 of 1")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("cell", name="in other words").first).to_be_visible()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_label("What the model says")).to_have_value(re.compile("corrected"))
    page.get_by_role("button", name="Undo the correction").click()
    expect(page.get_by_text("The model is as it was.")).to_be_visible()


def test_a_picture_is_looked_into(page: Page, tmp_path: Path) -> None:
    to(page, TABS[3])
    page.get_by_role("button", name="Look", exact=True).click()
    expect(page.get_by_role("columnheader", name="says of this picture")).to_be_visible(timeout=LONG)
    assert "red adds to" in page.locator(".heat img").get_attribute("alt")
    (tmp_path / "false.png").write_text("no picture")
    page.locator(".picture").get_by_role("button", name="Remove Image").click()
    page.locator(".picture input[type=file]").last.set_input_files(tmp_path / "false.png")
    page.get_by_role("button", name="Look", exact=True).click()
    expect(page.get_by_text("false.png is no picture that can be read")).to_be_visible()


@pytest.mark.parametrize("tab", TABS)
def test_everybody_can_use_it(page: Page, tab: str) -> None:
    to(page, tab)
    page.wait_for_timeout(500)
    # Gradio's own note of an error has a button within a button; it goes by itself.
    expect(page.locator(".toast-header")).to_have_count(0)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_it_fits_a_phone(browser: Browser, address: str) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    phone.set_default_timeout(60_000)
    phone.goto(address)
    phone.get_by_role("button", name="Ask").first.wait_for()
    phone.wait_for_timeout(1000)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


def test_nothing_is_asked_of_other_machines(page: Page, elsewhere: list[str]) -> None:
    assert page.title() == "Pellucid studio"
    assert elsewhere == []


def test_a_port_that_is_taken_is_told_in_a_line(address: str, tmp_path: Path) -> None:
    command = ["pellucid", "studio", "--port", address.rpartition(":")[2], "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "give another" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_it_listens_on_this_machine_only(address: str) -> None:
    port = int(address.rpartition(":")[2])
    found = [one.laddr for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert {one.ip for one in found if one.port == port} == {"127.0.0.1"}
