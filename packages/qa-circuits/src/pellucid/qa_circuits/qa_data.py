"""Questions over contexts out of the published files of extractive QA sets (thesis 8.4.2, 11.7.9, 11.7.10).

Nothing is fetched: the files are the user's own. They are read as they were published:

- Natural Questions: the MRQA 2019 file (JSON Lines of `context` and `qas`), or Google's own (`document_text` or
  `document_tokens` with `annotations`);
- NQ-Long: Google's files, the long answer being what is asked for;
- NQ-Swap (Longpre et al. 2021): JSON Lines or Parquet of `org_context`, `org_answer`, `sub_context`, `sub_answer`;
- HotPotQA: `hotpot_*.json`, or the same records as JSON Lines or Parquet;
- CNN/DailyMail: CSV or Parquet of `article` and `highlights`, or a folder of `.story` files.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError, OptionError

from .qa_files import Record, field, file_records, objects, text, texts

SUMMARISE = "What are the most important sentences of this text, word for word?"
NEIGHBOURS = 5  # paragraphs before and after a long answer that make up its context

# Natural Questions marks its paragraphs and tables by tags that stand alone, such as "<P>" or "<Th_colspan="2">".
_TAG = re.compile(r"</?[A-Z][A-Za-z0-9]*(?:_[^<>]*)?>")


@dataclass(frozen=True)
class QAExample:
    """A question whose answer is to be taken from a context.

    Attributes:
        question: what is asked.
        context: the text; tags of web pages are taken out of it.
        answers: one or more that count as right.
        source: which set it comes from, a key of `FORMATS` or a name of one's own.
        evidence: characters of the context, `(start, stop)`, that hold what the answer rests on, where the set says so.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    source: str
    evidence: tuple[tuple[int, int], ...] = ()


def read_qa(path: str | Path, form: str, n: int | None = None) -> list[QAExample]:
    """Read the first `n` examples of a file, or all, each once.

    Args:
        path: a file as it was published; may be packed (`.gz`).
        form: a key of `FORMATS`.
        n: no more than these are read, so that a large file need not be gone through.

    Raises:
        OptionError: no such format, or `n` less than 1.
        DataError: a file or a record of it is not of that format (the message names file, line and field), or none of
            its records makes an example.
    """
    if form not in FORMATS:
        raise OptionError(f"no format {form!r}: choose from {', '.join(FORMATS)}")
    if n is not None and n < 1:
        raise OptionError(f"n is {n}: read 1 example or more")
    examples: dict[QAExample, None] = {}
    for example in FORMATS[form](Path(path)):
        examples[example] = None
        if len(examples) == n:
            break
    if not examples:
        raise DataError(f"{path} holds no question of the kind {form!r} with an answer: {_WANTED[form]}")
    return list(examples)


def natural_questions(path: Path) -> Iterator[QAExample]:
    """Questions with short answers: MRQA's records, or Google's with an annotated short answer of one span.

    Of Google's the context is the paragraph or table that the answer was found in.
    """
    for where, record in file_records(path):
        if "header" in record:
            continue
        yield from _mrqa(where, record) if "qas" in record else _google(where, record)


def nq_long(path: Path) -> Iterator[QAExample]:
    """Google's records with a long answer; the context is it and `NEIGHBOURS` paragraphs before and after it."""
    for where, record in file_records(path):
        tokens = _tokens(where, record)
        question = _asked(text(record, "question_text", where))
        candidates = objects(record, "long_answer_candidates", where)
        places = [_place(c, where, len(tokens)) for c in candidates if c.get("top_level", True)]
        for start, stop in _long_answers(where, record, len(tokens)):
            if start == stop:
                continue
            within = next((i for i, (a, b) in enumerate(places) if a <= start and stop <= b), None)
            if within is None:
                raise DataError(f"{where}: a long answer lies in none of the 'long_answer_candidates'")
            chosen = places[max(0, within - NEIGHBOURS) : within + NEIGHBOURS + 1]
            context = "\n".join(filter(None, (_joined(tokens[a:b]) for a, b in chosen)))
            answer = _joined(tokens[start:stop])
            if answer:
                yield QAExample(question, context, (answer,), "nq-long")
                break


def nq_swap(path: Path, *, swapped: bool) -> Iterator[QAExample]:
    """NQ-Swap 1 (the original contexts) or 2 (`swapped`: another answer was put in the original's place)."""
    kind = "sub" if swapped else "org"
    for where, record in file_records(path):
        answers = tuple(dict.fromkeys(texts(record, f"{kind}_answer", where)))
        context = _cleaned(text(record, f"{kind}_context", where))
        question = _asked(text(record, "question", where))
        yield QAExample(question, context, answers, f"nq-swap-{2 if swapped else 1}")


def hotpotqa(path: Path) -> Iterator[QAExample]:
    """HotPotQA's questions of a single hop whose answer stands in the context, over all their paragraphs.

    Of a single hop are those of level "easy" (as the set's authors found them to be; only its training file has them)
    and those whose supporting facts all stand in one paragraph. The supporting facts are the evidence.
    """
    for where, record in file_records(path):
        answer, question = text(record, "answer", where), _asked(text(record, "question", where))
        facts = _facts(record, where)
        easy = record.get("level") == "easy"
        if answer in ("yes", "no") or not (easy or len({title for title, _ in facts}) == 1):
            continue
        context, evidence = "", []
        for title, sentences in _paragraphs(record, where):
            context += "\n" if context else ""
            for number, sentence in enumerate(sentences):
                # Sentences bring the blank before them; the first of a paragraph has none to bring.
                piece = sentence if number else sentence.lstrip()
                bare = piece.strip()
                if bare and (title, number) in facts:
                    start = len(context) + piece.index(bare)
                    evidence.append((start, start + len(bare)))
                context += piece
        if answer in context:
            yield QAExample(question, context, (answer,), "hotpotqa", tuple(evidence))


def cnn_dailymail(path: Path) -> Iterator[QAExample]:
    """Articles, what is asked being their sentences of most weight (`SUMMARISE`), and the highlights as the answer."""
    if path.is_dir() or path.suffix == ".story":
        files = sorted(path.glob("*.story")) if path.is_dir() else [path]
        stories: Iterator[Record] = ((str(file), _story(file)) for file in files)
    else:
        stories = file_records(path)
    for where, record in stories:
        article, highlights = text(record, "article", where), text(record, "highlights", where)
        yield QAExample(SUMMARISE, article.strip(), (highlights.strip(),), "cnn-dailymail")


FORMATS: dict[str, Callable[[Path], Iterator[QAExample]]] = {
    "nq": natural_questions,
    "nq-long": nq_long,
    "nq-swap-1": lambda path: nq_swap(path, swapped=False),
    "nq-swap-2": lambda path: nq_swap(path, swapped=True),
    "hotpotqa": hotpotqa,
    "cnn-dailymail": cnn_dailymail,
}
_WANTED = {
    "nq": "give MRQA's file, or Google's training or development file, whose questions are annotated",
    "nq-long": "give Google's training or development file, whose questions are annotated",
    "nq-swap-1": "the file is empty",
    "nq-swap-2": "the file is empty",
    "hotpotqa": "give the training file, which has questions of a single hop",
    "cnn-dailymail": "give a folder of .story files, or a CSV or Parquet file",
}


def _mrqa(where: str, record: dict[str, Any]) -> Iterator[QAExample]:
    context = _cleaned(text(record, "context", where))
    for asked in objects(record, "qas", where):
        answers = tuple(dict.fromkeys(texts(asked, "answers", where)))
        yield QAExample(_asked(text(asked, "question", where)), context, answers, "nq")


def _google(where: str, record: dict[str, Any]) -> Iterator[QAExample]:
    tokens = _tokens(where, record)
    question = _asked(text(record, "question_text", where))
    context, answers = "", list[str]()
    annotations = objects(record, "annotations", where)
    for annotation, (start, stop) in zip(annotations, _long_answers(where, record, len(tokens)), strict=True):
        spans = [_place(short, where, len(tokens)) for short in objects(annotation, "short_answers", where)]
        # Annotators may disagree on the paragraph: the first one's stands, and the others' answers within it.
        if len(spans) != 1 or start == stop or (context and _joined(tokens[start:stop]) != context):
            continue
        context = _joined(tokens[start:stop])
        answers.append(_joined(tokens[spans[0][0] : spans[0][1]]))
    if context and all(answers):
        yield QAExample(question, context, tuple(dict.fromkeys(answers)), "nq")


def _tokens(where: str, record: dict[str, Any]) -> list[str]:
    if "document_text" in record:
        return text(record, "document_text", where).split(" ")
    if "document_tokens" not in record:
        raise DataError(f"{where}: the field 'document_text' is missing; give a file of Natural Questions as published")
    return [str(field(token, "token", str, where)) for token in objects(record, "document_tokens", where)]


def _long_answers(where: str, record: dict[str, Any], length: int) -> list[tuple[int, int]]:
    """Where each annotator's long answer lies, in tokens; empty at 0 where there is none."""
    return [_place(field(a, "long_answer", dict, where), where, length) for a in objects(record, "annotations", where)]


def _place(value: dict[str, Any], where: str, length: int) -> tuple[int, int]:
    start, stop = field(value, "start_token", int, where), field(value, "end_token", int, where)
    if start < 0 or stop < 0:  # "-1" marks that there is none
        return 0, 0
    if not start <= stop <= length:
        raise DataError(f"{where}: tokens {start} to {stop} do not lie in a document of {length}")
    return start, stop


def _joined(tokens: list[str]) -> str:
    return " ".join(token for token in tokens if token and not _TAG.fullmatch(token))


def _cleaned(context: str) -> str:
    return " ".join(_TAG.sub(" ", context).split())


def _asked(question: str) -> str:
    """Natural Questions are typed without a mark at the end."""
    question = question.strip()
    return question if question.endswith(("?", ".", "!")) else f"{question}?"


def _facts(record: dict[str, Any], where: str) -> set[tuple[str, int]]:
    """Supporting facts: pairs as the authors published them, or two lists as in the hub's form."""
    value = record.get("supporting_facts")
    pairs: Any = value
    if isinstance(value, dict):
        pairs = zip(*(field(value, name, list, where) for name in ("title", "sent_id")), strict=False)
    elif not isinstance(value, list):
        raise DataError(f"{where}: the field 'supporting_facts' is missing or no list")
    try:
        return {(str(title), int(number)) for title, number in pairs}
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: the field 'supporting_facts' must hold pairs of title and sentence") from error


def _paragraphs(record: dict[str, Any], where: str) -> list[tuple[str, list[str]]]:
    value = record.get("context")
    pairs: Any = value
    if isinstance(value, dict):
        pairs = zip(*(field(value, name, list, where) for name in ("title", "sentences")), strict=False)
    elif not isinstance(value, list):
        raise DataError(f"{where}: the field 'context' is missing or no list")
    try:
        found = [(str(title), list(sentences)) for title, sentences in pairs]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: the field 'context' must hold pairs of title and sentences") from error
    if not all(isinstance(sentence, str) for sentence in itertools.chain(*(sentences for _, sentences in found))):
        raise DataError(f"{where}: the field 'context' holds a sentence that is no text")
    return found


def _story(file: Path) -> dict[str, Any]:
    """An article and its highlights, each of which follows a line of "@highlight"."""
    try:
        article, *highlights = file.read_text(encoding="utf-8-sig").split("@highlight")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    if not highlights:
        raise DataError(f"{file}: there is no line '@highlight'; give a story as published")
    return {"article": article, "highlights": "\n".join(part.strip() for part in highlights)}
