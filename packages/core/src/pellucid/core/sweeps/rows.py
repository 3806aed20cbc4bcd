"""Rows: from a dataclass to one fixed Arrow schema, and from what a function returned to values that fit it."""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ..errors import OptionError

_ARROW = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
_RESERVED = ("cell", "error")


class RowError(ValueError):
    """A row does not fit its dataclass or holds a number that is none; it becomes the cell's error row."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One field of a row: `kind`, or a list of `kind`, or perhaps None."""

    name: str
    kind: type
    listed: bool
    optional: bool

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of the column."""
        return pa.list_(_ARROW[self.kind]) if self.listed else _ARROW[self.kind]

    def __str__(self) -> str:
        text = f"list[{self.kind.__name__}]" if self.listed else self.kind.__name__
        return f"{text} | None" if self.optional else text


def columns_of(row: type) -> tuple[Column, ...]:
    """Read a row dataclass's fields.

    Raises:
        OptionError: not a dataclass, or a field's type is not int, float, str, bool, a list of one, or `X | None`.
    """
    if not (isinstance(row, type) and dataclasses.is_dataclass(row)):
        raise OptionError(f"row={row!r} is not a dataclass: declare the row's fields in one")
    try:
        hints = typing.get_type_hints(row)
    except NameError as error:
        raise OptionError(f"{row.__qualname__}: a field's type is unknown ({error}): import it at top level") from None
    columns = []
    for field in dataclasses.fields(row):
        if field.name in _RESERVED or not field.init:
            raise OptionError(f"{row.__qualname__}.{field.name}: a field is not 'cell', not 'error' and not init=False")
        columns.append(_column(row, field.name, hints[field.name]))
    return tuple(columns)


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """Return a sweep's Arrow schema: the cell's key, the error or null, then the row's fields."""
    fields = [pa.field("cell", pa.string(), nullable=False), pa.field("error", pa.string())]
    return pa.schema(fields + [pa.field(column.name, column.arrow) for column in columns])


def values_of(row: Any, row_type: type, columns: Sequence[Column]) -> dict[str, Any]:
    """Return a row's fields as the plain values that Arrow takes.

    Raises:
        RowError: the row is of another type, a field does not fit its declared type, or a float is NaN or infinite.
    """
    if not isinstance(row, row_type):
        raise RowError(f"the function returned a {type(row).__qualname__} where a {row_type.__qualname__} was due")
    return {column.name: _value(getattr(row, column.name), column) for column in columns}


def table_of(keys: Sequence[str], results: Sequence[dict[str, Any] | str], columns: Sequence[Column]) -> pa.Table:
    """Build the table of a segment; each cell's result is its row's values, or the text of its error."""
    # A traceback may quote text that UTF-8 cannot hold; losing an error row over it would be absurd.
    errors = [text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else None for text in results]
    data: dict[str, list[Any]] = {"cell": list(keys), "error": errors}
    for column in columns:
        data[column.name] = [None if isinstance(result, str) else result[column.name] for result in results]
    return pa.table(data, schema=schema_of(columns))


def _column(row: type, name: str, hint: Any) -> Column:
    inner, optional, listed = hint, False, False
    if typing.get_origin(inner) in (types.UnionType, typing.Union):
        members = [member for member in typing.get_args(inner) if member is not type(None)]
        optional, inner = True, members[0] if len(members) == 1 else None
    if typing.get_origin(inner) is list:
        (inner,), listed = typing.get_args(inner), True
    if inner not in _ARROW:
        raise OptionError(
            f"{row.__qualname__}.{name} is declared {hint}: a row's field is int, float, str, bool, a list of one of "
            "them, or X | None"
        )
    return Column(name, inner, listed, optional)


def _value(value: Any, column: Column) -> Any:
    if value is None and column.optional:
        return None
    if not column.listed:
        return _scalar(value, column)
    if not isinstance(value, list | tuple):
        raise RowError(f"field {column.name!r} is a {type(value).__qualname__}, declared {column}")
    return [_scalar(item, column) for item in value]


def _scalar(value: Any, column: Column) -> Any:
    # NumPy's scalars are numbers too; bool is an int to Python but a mistake in a field of numbers.
    if column.kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if not math.isfinite(number):
            raise RowError(f"field {column.name!r} holds {number}: a row's numbers must be finite")
        return number
    if column.kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        if not -(2**63) <= int(value) < 2**63:
            raise RowError(f"field {column.name!r} holds {value}, which 64 bits cannot: declare it str")
        return int(value)
    if column.kind is bool and isinstance(value, bool):
        return value
    if column.kind is str and isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError(f"field {column.name!r} holds text that UTF-8 cannot: {error}") from None
        return str(value)
    raise RowError(f"field {column.name!r} holds a {type(value).__qualname__}, declared {column}")
