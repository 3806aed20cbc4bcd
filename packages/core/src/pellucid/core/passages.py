"""A text with pieces of it marked, for a report: such as a document and the sentences that an answer came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .errors import DataError


@dataclass(frozen=True)
class Mark:
    """A marked piece.

    Attributes:
        start: its first character in the text.
        stop: after its last one.
        label: shown in front of it and read aloud, such as "1: 0.83".
        strength: how strongly it is coloured, in [0, 1].
    """

    start: int
    stop: int
    label: str
    strength: float = 1.0


@dataclass(frozen=True)
class Passage:
    """A text, its marks in any order, and what it shows.

    Raises:
        DataError: a mark is empty, lies outside the text or over another one, or its strength is outside [0, 1].
    """

    text: str
    marks: Sequence[Mark]
    caption: str

    def __post_init__(self) -> None:
        before = 0
        for mark in sorted(self.marks, key=lambda mark: mark.start):
            if not (before <= mark.start < mark.stop <= len(self.text) and 0 <= mark.strength <= 1):
                raise DataError(
                    f"the mark {mark} is empty, over another one, not of strength 0 to 1, or outside the text, which "
                    f"has {len(self.text)} characters"
                )
            before = mark.stop

    def pieces(self) -> Iterator[tuple[str, Mark | None]]:
        """The whole text in order, cut into what is marked and what is not."""
        at = 0
        for mark in sorted(self.marks, key=lambda mark: mark.start):
            if mark.start > at:
                yield self.text[at : mark.start], None
            yield self.text[mark.start : mark.stop], mark
            at = mark.stop
        if at < len(self.text):
            yield self.text[at:], None
