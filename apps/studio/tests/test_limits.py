"""What visitors give is checked, and refused in one line."""

from pathlib import Path

import gradio as gr
import pytest
from pellucid.core.errors import DataError
from pellucid.studio import limits
from pellucid.studio.in_words import in_words
from PIL import Image


def test_documents(tmp_path: Path) -> None:
    good = tmp_path / "good.md"
    good.write_text("Zoë lives here.", encoding="utf-8")
    assert limits.document(good) == "Zoë lives here."
    for name, content, said in [
        ("empty.txt", b" \n", "empty"),
        ("latin.txt", "Zoë".encode("latin-1"), "no UTF-8"),
        ("zero.txt", b"a\0b", "zero bytes"),
        ("long.txt", b"a" * (limits.DOCUMENT + 1), "60,001 characters"),
        ("huge.txt", b"a" * (4 * limits.DOCUMENT + 1), "240,001 bytes"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=said):
            limits.document(tmp_path / name)


def test_pictures(tmp_path: Path) -> None:
    Image.effect_noise((60, 40), 50).convert("RGBA").save(tmp_path / "good.png")
    read = limits.picture(tmp_path / "good.png")
    assert (read.mode, read.size) == ("RGB", (60, 40))
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (5000, 5000)).save(tmp_path / "wide.png")
    (tmp_path / "huge.png").write_bytes(b"\0" * (limits.UPLOAD + 1))
    for name, said in [
        ("text.png", "no picture"), ("cut.png", "damaged"), ("wide.png", "5000 x 5000 pixels"), ("huge.png", "bytes"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=said):
            limits.picture(tmp_path / name)
    with pytest.raises(DataError, match="choose one"):
        limits.picture(None)


def test_words() -> None:
    assert limits.words("  Who? ", "question") == "Who?"
    with pytest.raises(DataError, match="the question is empty"):
        limits.words(" ", "question")
    with pytest.raises(DataError, match="501 characters"):
        limits.words("a" * 501, "question")


def test_errors_become_one_escaped_line() -> None:
    @in_words
    def refuse() -> None:
        raise DataError("the <b>file</b> is wrong")

    @in_words
    def fail() -> None:
        raise KeyError("a\nb")

    with pytest.raises(gr.Error) as refused:
        refuse()
    assert refused.value.message == "the &lt;b&gt;file&lt;/b&gt; is wrong"
    with pytest.raises(gr.Error) as failed:
        fail()
    assert failed.value.message.startswith("KeyError: ")
    assert "Traceback" not in failed.value.message
