"""A question about a document: the streamed answer, its sources, and what is refused."""

from functools import cache
from itertools import pairwise

import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.core.passages import Mark, Passage
from pellucid.studio.asking import DOCUMENT, QUESTION, Asking
from pellucid.studio.asking_tab import as_html


@cache
def asking() -> Asking:
    return Asking("zoo:smollm2", None, "cpu")


def test_the_answer_grows_and_its_sentence_is_marked() -> None:
    told = list(asking().stream(DOCUMENT, QUESTION))
    assert len(told) > 1
    assert all(later.answer.startswith(earlier.answer) for earlier, later in pairwise(told))
    assert "krone" in told[-1].answer
    passage = told[-1].passage
    first = max(passage.marks, key=lambda mark: mark.strength)
    assert "krone" in DOCUMENT[first.start : first.stop]
    assert first.label.startswith("1: ")


def test_a_document_longer_than_the_window_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking()._loaded.model.config, "max_position_embeddings", 300)
    filler = "The road goes on along the river, past fields and farms, to the next village. " * 12
    [told] = asking().stream(filler + DOCUMENT, QUESTION)
    first = max(told.passage.marks, key=lambda mark: mark.strength)
    assert told.passage.text == filler + DOCUMENT
    assert first.stop <= len(filler + DOCUMENT)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(DataError, match="the question is empty"):
        next(asking().stream(DOCUMENT, " "))
    with pytest.raises(DataError, match="the document is empty"):
        next(asking().stream("", QUESTION))
    with pytest.raises(OptionError, match="no head is known for some/model"):
        next(Asking("some/model", None, "cpu").stream(DOCUMENT, QUESTION))


def test_a_passage_is_escaped() -> None:
    text = "<script>alert(1)</script> & more"
    shown = as_html(Passage(text, [Mark(0, 8, "1: 0.50", 0.5)], ""))
    assert "<script>" not in shown
    assert "&lt;script&gt;</mark>alert(1)" in shown
