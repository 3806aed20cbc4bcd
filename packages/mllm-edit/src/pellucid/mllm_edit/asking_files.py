"""Which questions a command works on: those of a file, of some groups, as many as asked for."""

from collections.abc import Sequence
from pathlib import Path

from pellucid.core.errors import DataError, OptionError

from .questions import VisualQuestion, read_questions


def chosen_questions(
    path: Path, groups: Sequence[str] = (), count: int | None = None, *, visual: bool = True
) -> list[VisualQuestion]:
    """Read questions and choose among them.

    Args:
        path: JSON Lines, as `read_questions` reads them.
        groups: only these, such as `taught`; all where none is named.
        count: how many, spread over those there are.
        visual: only those with a visual constraint.

    Raises:
        DataError: the file cannot be read, or none is left.
        OptionError: a group is not in the file.
    """
    found = read_questions(path)
    known = {one.group for one in found}
    for group in groups:
        if group not in known:
            raise OptionError(f"{path} has no group {group!r}: it has {', '.join(sorted(known - {''})) or 'none'}")
    kept = [one for one in found if (not groups or one.group in groups) and (one.visual or not visual)]
    if not kept:
        raise DataError(f"{path} has no question with a visual constraint in these groups: give others")
    if count is None or count >= len(kept):
        return kept
    return [kept[place * len(kept) // count] for place in range(count)]
