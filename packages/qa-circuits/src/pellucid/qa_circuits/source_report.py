"""What `pellucid circuits attribute` writes: the answer, and the document with its sources marked."""

from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.core.errors import DataError
from pellucid.core.report import Mark, Passage, Report, Section, Table

from .attribution import Attribution

if TYPE_CHECKING:
    from pellucid.core.loading import ModelSpec

    from .attention_rows import Head


def read_document(path: Path) -> str:
    """The text of a document: UTF-8, not empty.

    Raises:
        DataError: it is missing, of another encoding, or blank.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise DataError(f"{path} is empty: give a text from which the question can be answered")
    return text


def source_report(
    found: Attribution, spec: "ModelSpec", document: str, context: str, question: str, head: "Head", cut: str | int
) -> Report:
    """An attribution as a report whose page shows the document.

    Args:
        found: by `attribute`.
        spec: the model that answered.
        document: the document's name.
        context: its text.
        question: what was asked.
        head: (layer, head) that was read.
        cut: "sentence", or the number of words in a window.
    """
    marks = [
        Mark(s.span.start, s.span.stop, f"{rank}: {s.score:.2f}", min(1.0, max(0.15, s.score)))
        for rank, s in enumerate(found.spans, 1)
    ]
    named = f"head {head[0]}.{head[1]}"
    rows = [
        [token.text, token.spans[0].span.of(context) if token.spans else None, _top(token.spans)]
        for token in found.tokens
    ]
    text = [
        f"The answer: {found.answer or '(nothing)'}",
        f"While the model wrote it, {named} looked at the marked places of the document most. The number in front is "
        "the largest weight, from 0 to 1, that the head gave to a token of that place for any token of the answer.",
    ]
    best = found.spans[0].span.of(context) if found.spans else "nothing"
    return Report(
        title=question,
        command="circuits attribute",
        config={"model": spec, "document": document, "question": question, "head": list(head), "spans": cut},
        seed=None,
        device=spec.device or "cpu",
        summary=f"{found.answer or '(no answer)'} — from: {best}",
        sections=[
            Section("Sources", text, passages=[Passage(context, marks, f"{document}, with the answer's sources")]),
            Section(
                "Token by token",
                tables=[
                    Table("tokens", ["token", "its source", "weight"], rows, "Each token's own best place."),
                ],
            ),
        ],
        results={
            "answer": found.answer,
            "spans": [_entry(context, s.span.start, s.span.stop, s.score) for s in found.spans],
            "tokens": [
                {
                    "text": token.text,
                    "spans": [_entry(context, s.span.start, s.span.stop, s.score) for s in token.spans],
                }
                for token in found.tokens
            ],
        },
    )


def _top(spans: "tuple[object, ...]") -> float | None:
    return float(spans[0].score) if spans else None  # type: ignore[attr-defined]


def _entry(context: str, start: int, stop: int, score: float) -> dict[str, object]:
    return {"start": start, "stop": stop, "score": score, "text": context[start:stop]}
