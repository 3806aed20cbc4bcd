"""Readers of published QA files, on small files of the same shape, sound and broken."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.qa_circuits.qa_data import NEIGHBOURS, SUMMARISE, QAExample, read_qa

MRQA = [
    {"header": {"dataset": "NaturalQuestions", "split": "dev"}},
    {
        "id": "",
        "context": "<P> Lima is the capital of Peru . </P>",
        "context_tokens": [["<P>", 0]],
        "qas": [
            {"qid": "1", "question": "capital of peru", "answers": ["Lima", "Lima"], "detected_answers": []},
            {"qid": "2", "question": "what is lima?", "answers": ["the capital", "capital of Peru"]},
        ],
    },
]
DOCUMENT = (
    "<H1> Peru </H1> <P> Lima is the capital . </P> <Table> <Tr> <Th_colspan=2> Area </Th> </Tr> </Table> <P> x </P>"
)
WORDS = DOCUMENT.split(" ")


def google(**changes: Any) -> dict[str, Any]:
    """A record of Google's training file; tokens 3 to 10 are the paragraph, 4 is Lima."""
    return {
        "document_text": DOCUMENT,
        "question_text": "what is the capital of peru",
        "example_id": 5,
        "long_answer_candidates": [
            {"start_token": 3, "end_token": 10, "top_level": True},
            {"start_token": 10, "end_token": 17, "top_level": True},
            {"start_token": 11, "end_token": 16, "top_level": False},
            {"start_token": 17, "end_token": 20, "top_level": True},
        ],
        "annotations": [annotation((3, 10), (4, 5))],
    } | changes


def annotation(long: tuple[int, int], *short: tuple[int, int]) -> dict[str, Any]:
    def place(start: int, stop: int) -> dict[str, int]:
        return {"start_token": start, "end_token": stop}

    return {
        "yes_no_answer": "NONE",
        "long_answer": place(*long) | {"candidate_index": 0},
        "short_answers": [place(*one) for one in short],
    }


def lines(path: Path, records: list[Any]) -> Path:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def swap(**changes: Any) -> dict[str, Any]:
    return {
        "question": "who wrote it",
        "org_context": "<P> It was written by Ann . </P>",
        "org_answer": ["Ann"],
        "sub_context": "<P> It was written by Bob . </P>",
        "sub_answer": ["Bob"],
    } | changes


def hotpot(**changes: Any) -> dict[str, Any]:
    return {
        "_id": "5a",
        "answer": "Lima",
        "question": "Which is the capital?",
        "supporting_facts": [["Peru", 0], ["Lima", 1]],
        "context": [["Peru", ["Peru is a country.", " Its capital is Lima."]], ["Lima", ["Lima is large.", " Yes. "]]],
        "type": "bridge",
        "level": "easy",
    } | changes


@pytest.mark.parametrize("name", ["nq.jsonl", "nq.jsonl.gz"])
def test_mrqa(tmp_path: Path, name: str) -> None:
    path = lines(tmp_path / name, MRQA)
    context = "Lima is the capital of Peru ."
    assert read_qa(path, "nq") == [
        QAExample("capital of peru?", context, ("Lima",), "nq"),
        QAExample("what is lima?", context, ("the capital", "capital of Peru"), "nq"),
    ]
    assert len(read_qa(path, "nq", 1)) == 1


def test_google_of_both_files(tmp_path: Path) -> None:
    development = google(document_tokens=[{"token": word, "html_token": word.startswith("<")} for word in WORDS])
    del development["document_text"]
    records = [
        google(),
        development,  # the same example: it counts once
        google(question_text="none", annotations=[annotation((-1, -1))]),
        google(question_text="a list", annotations=[annotation((3, 10), (4, 5), (7, 8))]),
        google(
            question_text="many",
            annotations=[annotation((3, 10), (4, 5)), annotation((17, 20), (18, 19)), annotation((3, 10), (6, 8))],
        ),
    ]
    context = "Lima is the capital ."
    assert read_qa(lines(tmp_path / "nq.jsonl.gz", records), "nq") == [
        QAExample("what is the capital of peru?", context, ("Lima",), "nq"),
        QAExample("many?", context, ("Lima", "the capital"), "nq"),
    ]


def test_nq_long_takes_the_paragraphs_around_it(tmp_path: Path) -> None:
    path = lines(tmp_path / "nq.jsonl", [google(), google(annotations=[annotation((-1, -1))])])
    assert read_qa(path, "nq-long") == [
        QAExample(
            "what is the capital of peru?", "Lima is the capital .\nArea\nx", ("Lima is the capital .",), "nq-long"
        )
    ]
    words = [f"w{i}" for i in range(20)]
    candidates = [{"start_token": i, "end_token": i + 1, "top_level": True} for i in range(20)]
    far = google(
        document_text=" ".join(words), long_answer_candidates=candidates, annotations=[annotation((9, 10), (9, 10))]
    )
    (found,) = read_qa(lines(tmp_path / "far.jsonl", [far]), "nq-long")
    assert found.context.split("\n") == words[9 - NEIGHBOURS : 10 + NEIGHBOURS]
    assert found.answers == ("w9",)


def test_nq_swap_one_and_two(tmp_path: Path) -> None:
    path = lines(tmp_path / "swap.jsonl", [swap(), swap(question="who?", org_answer="Ann")])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([swap(), swap(question="who?")]), tmp_path / "swap.parquet")
    for file in (path, tmp_path / "swap.parquet"):
        assert read_qa(file, "nq-swap-1") == [
            QAExample("who wrote it?", "It was written by Ann .", ("Ann",), "nq-swap-1"),
            QAExample("who?", "It was written by Ann .", ("Ann",), "nq-swap-1"),
        ]
        assert read_qa(file, "nq-swap-2", 1) == [
            QAExample("who wrote it?", "It was written by Bob .", ("Bob",), "nq-swap-2")
        ]


def test_hotpotqa_of_a_single_hop_with_its_evidence(tmp_path: Path) -> None:
    hub = hotpot(
        question="Of the hub's form?",
        supporting_facts={"title": ["Peru", "Lima"], "sent_id": [0, 1]},
        context={"title": ["Peru", "Lima"], "sentences": [pair[1] for pair in hotpot()["context"]]},
    )
    one_paragraph = hotpot(question="Hard?", level="hard", supporting_facts=[["Peru", 0], ["Peru", 1]])
    left_out = [
        hotpot(question="Two hops?", level="medium"),
        hotpot(question="Yes or no?", answer="yes"),
        hotpot(question="Not there?", answer="Oslo"),
    ]
    path = tmp_path / "hotpot_train_v1.1.json"
    path.write_text(json.dumps([hotpot(), *left_out, one_paragraph]))
    found = read_qa(path, "hotpotqa")
    assert [e.question for e in found] == ["Which is the capital?", "Hard?"]
    assert found[0].context == "Peru is a country. Its capital is Lima.\nLima is large. Yes. "
    assert [found[0].context[a:b] for a, b in found[0].evidence] == ["Peru is a country.", "Yes."]
    assert [found[1].context[a:b] for a, b in found[1].evidence] == ["Peru is a country.", "Its capital is Lima."]
    (other,) = read_qa(lines(tmp_path / "hotpot.jsonl", [hub]), "hotpotqa")
    assert (other.context, other.evidence) == (found[0].context, found[0].evidence)


def test_cnn_dailymail_of_every_kind(tmp_path: Path) -> None:
    article, highlights = 'A "storm" came.\n\nIt left, at last.', "Storm came .\nStorm left ."
    expected = [QAExample(SUMMARISE, article, (highlights,), "cnn-dailymail")]
    record = {"id": "a", "article": article, "highlights": highlights}
    with (tmp_path / "test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(record))
        writer.writeheader()
        writer.writerow(record)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / "test.parquet")
    stories = tmp_path / "stories"
    stories.mkdir()
    story = f"{article}\n\n@highlight\n\nStorm came .\n\n@highlight\n\nStorm left .\n"
    (stories / "a.story").write_text(story)
    for path in (tmp_path / "test.csv", tmp_path / "test.parquet", stories, stories / "a.story"):
        assert read_qa(path, "cnn-dailymail") == expected


@pytest.mark.parametrize(
    ("form", "record", "message"),
    [
        ("nq", {"context": "x"}, "line 1: the field 'document_text' is missing"),
        ("nq", {"context": "x", "qas": 3}, "line 1: the field 'qas' is int, not a list"),
        ("nq", {"context": "x", "qas": ["y"]}, "line 1: the field 'qas' holds a str where objects are wanted"),
        ("nq", {"context": "x", "qas": [{"question": "y"}]}, "line 1: the field 'answers' is missing"),
        ("nq", {"context": " ", "qas": []}, "line 1: the field 'context' is empty"),
        ("nq", google(annotations=[{"short_answers": []}]), "line 1: the field 'long_answer' is missing"),
        ("nq", google(annotations=[annotation((3, 99), (4, 5))]), "tokens 3 to 99 do not lie in a document of 20"),
        ("nq", google(document_text=["x"]), "the field 'document_text' is list, not a text"),
        ("nq-long", google(long_answer_candidates=[]), "lies in none of the 'long_answer_candidates'"),
        ("nq-long", google(annotations=[]), "holds no question of the kind 'nq-long' with an answer"),
        ("nq-swap-1", swap(org_answer=[]), "line 1: the field 'org_answer' must hold one text or more"),
        ("nq-swap-2", swap(sub_answer=[3]), "line 1: the field 'sub_answer' must hold one text or more"),
        ("nq-swap-2", {"question": "x"}, "line 1: the field 'sub_answer' is missing"),
        ("hotpotqa", hotpot(supporting_facts=None), "line 1: the field 'supporting_facts' is missing or no list"),
        ("hotpotqa", hotpot(supporting_facts=[["x"]]), "'supporting_facts' must hold pairs of title and sentence"),
        ("hotpotqa", hotpot(context=[["x"]]), "the field 'context' must hold pairs of title and sentences"),
        ("hotpotqa", hotpot(context=[["x", [3]]]), "the field 'context' holds a sentence that is no text"),
        ("hotpotqa", hotpot(context=3), "the field 'context' is missing or no list"),
        ("hotpotqa", hotpot(level="hard"), "holds no question of the kind 'hotpotqa'.*give the training file"),
        ("cnn-dailymail", {"article": "x", "highlights": None}, "line 1: the field 'highlights' is NoneType, not a"),
        ("nq", [1], "line 1: list where a JSON object is wanted"),
    ],
)
def test_a_broken_record_is_one_line_with_its_place(tmp_path: Path, form: str, record: Any, message: str) -> None:
    path = lines(tmp_path / "data.jsonl", [record])
    with pytest.raises(DataError, match=message) as caught:
        read_qa(path, form)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"question": ', "line 1: not JSON"),
        ("a.jsonl", b"\xff\xfe", "is not UTF-8 text"),
        ("a.jsonl", b"", "holds no question of the kind 'nq-swap-1'"),
        ("a.json", b"{}", "dict where a list of objects is wanted"),
        ("a.json", b"[3]", "record 1: int where a JSON object is wanted"),
        ("a.jsonl.gz", b"no gzip", "cannot read"),
        ("a.jsonl.gz", gzip.compress(json.dumps(swap()).encode(), mtime=0)[:-9], "breaks off"),
        ("a.csv", b"question,org_answer\nwho,Ann,Bob\n", "line 2: not as many cells as the header has"),
        ("a.csv", b'question,org_answer\n"who"x,Ann\n', "line 2: not CSV"),
        ("a.parquet", b"no parquet", "cannot read"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_qa(tmp_path / name, "nq-swap-1")
    assert name in str(caught.value)


def test_missing_files_and_options(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.json", "none.csv", "none.parquet", "none.story"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            read_qa(tmp_path / name, "cnn-dailymail")
    (tmp_path / "a.story").write_text("An article.")
    with pytest.raises(DataError, match=r"a\.story: there is no line '@highlight'"):
        read_qa(tmp_path, "cnn-dailymail")
    with pytest.raises(OptionError, match="no format 'squad': choose from nq, nq-long"):
        read_qa(tmp_path / "a", "squad")
    with pytest.raises(OptionError, match="n is 0"):
        read_qa(tmp_path / "a", "nq", 0)
