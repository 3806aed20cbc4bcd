import os

import pytest
from pellucid.core.errors import DataError
from pellucid.core.jsonl import read_records, write_records


def test_what_is_written_is_read_back(tmp_path):
    records = [{"a": "é", "b": "two\nlines"}, {"a": "1", "b": "2"}]
    write_records(tmp_path / "f.jsonl", records)
    assert [record for _, record in read_records(tmp_path / "f.jsonl", ("a", "b"))] == records
    assert os.listdir(tmp_path) == ["f.jsonl"]


def test_blank_lines_marks_and_other_fields_are_skipped(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('\n{"a": "1", "other": 3}\r\n\n', encoding="utf-8-sig")
    assert list(read_records(path, ("a",))) == [(f"{path}, line 2", {"a": "1"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: give one JSON object a line with the fields a, b"),
        (b"{", "line 1: not JSON"),
        (b'{"a": "1", "b": "2"}\n[1]', "line 2: list where a JSON object is wanted"),
        (b'{"a": "1"}', "the field 'b' is missing"),
        (b'{"a": 1, "b": "2"}', "the field 'a' is int, not a text"),
        (b'{"a": " ", "b": "2"}', "the field 'a' is empty"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_errors_name_the_place(tmp_path, content, message):
    path = tmp_path / "f.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_records(path, ("a", "b")))
    assert str(path) in str(caught.value)


def test_optional_fields_are_kept_where_they_are(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text('{"a": "1", "c": ""}\n{"a": "2", "d": "no"}')
    assert [record for _, record in read_records(path, ("a",), ("c",))] == [{"a": "1", "c": ""}, {"a": "2"}]
    path.write_text('{"a": "1", "c": 3}')
    with pytest.raises(DataError, match="the field 'c' is int, not a text"):
        list(read_records(path, ("a",), ("c",)))


def test_a_file_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        list(read_records(tmp_path / "none.jsonl", ("a",)))
    with pytest.raises(DataError, match="cannot write"):
        write_records(tmp_path / "none" / "f.jsonl", [{"a": "1"}])


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "f.jsonl"
    write_records(path, [{"a": "old"}])

    def records():
        yield {"a": "new"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_records(path, records())
    assert [record for _, record in read_records(path, ("a",))] == [{"a": "old"}]
    assert os.listdir(tmp_path) == ["f.jsonl"]
