"""The way to a number in `result.json`, and how it is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.core.errors import DataError


@dataclass(frozen=True)
class Found:
    """One of our numbers.

    Attributes:
        value: the number; text or a list of numbers where it is one.
        low: lower end of its 95 % interval, where there is one.
        high: upper end.
    """

    value: Any
    low: float | None = None
    high: float | None = None

    @property
    def number(self) -> float:
        """The value, as a number.

        Raises:
            DataError: it is none.
        """
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise DataError(f"{self.value!r} is not a number: compare it otherwise")
        return float(self.value)

    def __str__(self) -> str:
        if isinstance(self.value, Sequence) and not isinstance(self.value, str):
            return ", ".join(str(as_found(one)) for one in self.value) or "none"
        if self.low is None or self.high is None:
            return _shown(self.value)
        return f"{_shown(self.value)} [{_shown(self.low)}, {_shown(self.high)}]"


def pick(results: Any, place: Sequence[Any]) -> Found:
    """Follow a way into results.

    Args:
        results: what `result.json` holds under `results`.
        place: for each level a key, an index, a mapping (the first row of a list that agrees with it), `...` (the only
            value of a mapping, whatever its key) or a function of the level.

    Raises:
        DataError: the way leads nowhere.
    """
    level = results
    for part in place:
        level = _down(level, part, place)
    return as_found(level)


def as_found(level: Any) -> Found:
    """A value, or a mapping with `value`, `low` and `high`."""
    if isinstance(level, Mapping) and "value" in level:
        return Found(level["value"], level.get("low"), level.get("high"))
    return Found(level)


def _down(level: Any, part: Any, place: Sequence[Any]) -> Any:
    try:
        if callable(part):
            return part(level)
        if part is ...:
            (only,) = level.values()
            return only
        if isinstance(part, Mapping):
            return next(row for row in level if all(row.get(key) == value for key, value in part.items()))
        return level[part]
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        way = ", ".join("..." if one is ... else getattr(one, "__name__", repr(one)) for one in place)
        has = list(level)[:8] if isinstance(level, Mapping) else type(level).__name__
        raise DataError(f"results have nothing at ({way}): {part!r} is not in {has}") from error


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
