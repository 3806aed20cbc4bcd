"""Rows: declared fields become one Arrow schema, and what does not fit is refused by name."""

from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pytest
from pellucid.core.errors import OptionError
from pellucid.core.sweeps.rows import RowError, columns_of, schema_of, table_of, values_of


@dataclass(frozen=True)
class Full:
    count: int = 1
    score: float = 0.5
    name: str = "n"
    right: bool = True
    scores: list[float] = field(default_factory=lambda: [1.0])
    layers: list[int] = field(default_factory=list)
    tokens: list[str] | None = None
    best: Optional[int] = None  # noqa: UP045 - the old spelling is to be understood, too


@dataclass(frozen=True)
class Tensorial:
    value: np.ndarray


@dataclass(frozen=True)
class Taken:
    cell: int


@dataclass(frozen=True)
class Ambiguous:
    value: int | str


COLUMNS = columns_of(Full)


def test_schema() -> None:
    kinds = [pa.int64(), pa.float64(), pa.string(), pa.bool_(), *map(pa.list_, (pa.float64(), pa.int64(), pa.string()))]
    assert schema_of(COLUMNS).types == [pa.string(), pa.string(), *kinds, pa.int64()]
    assert schema_of(COLUMNS).names[:3] == ["cell", "error", "count"]


@pytest.mark.parametrize("row", [Tensorial, Taken, Ambiguous, int, Full()])
def test_rows_that_cannot_be_stored(row: Any) -> None:
    with pytest.raises(OptionError):
        columns_of(row)


def test_values_survive_arrow() -> None:
    row = Full(count=-(2**63), score=0.1, tokens=["é", ""], scores=[1e-308, np.float32(0.1)], best=np.int16(3))
    table = table_of(["k", "l"], [values_of(row, Full, COLUMNS), "oh \udcff"], COLUMNS)
    first, second = table.to_pylist()
    assert Full(**{name: first[name] for name in table.schema.names[2:]}) == row
    assert second == {"cell": "l", "error": "oh \\udcff"} | dict.fromkeys(table.schema.names[2:])


@pytest.mark.parametrize(
    "change",
    [
        {"score": float("nan")},
        {"score": float("-inf")},
        {"score": np.float32("nan")},
        {"scores": [1.0, float("nan")]},
        {"count": True},
        {"count": 1.0},
        {"count": 2**63},
        {"score": None},
        {"score": "1"},
        {"score": True},
        {"name": "\udcff"},
        {"name": b"n"},
        {"right": 1},
        {"layers": 3},
        {"layers": [0.5]},
        {"layers": None},
        {"tokens": "ab"},
    ],
)
def test_what_does_not_fit_is_refused_by_field(change: dict[str, Any]) -> None:
    with pytest.raises(RowError, match=f"'{next(iter(change))}'"):
        values_of(Full(**change), Full, COLUMNS)


def test_another_type_of_row() -> None:
    with pytest.raises(RowError, match="a Taken where a Full"):
        values_of(Taken(1), Full, COLUMNS)
