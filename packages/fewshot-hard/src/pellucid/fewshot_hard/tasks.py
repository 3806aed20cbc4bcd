"""A few-shot task: a support set to adapt to and a query set to be judged on, as rows of a pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.core.errors import DataError

Kind = Literal["default", "hard", "easy"]
Rows = tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """One few-shot task (thesis 4.2): N classes, k_j support and q_j query images of class j.

    Attributes:
        classes: indices into the pool's `classes`; their order is the task's own labels 0 to N-1.
        support: a tuple of rows of the pool for each class.
        query: likewise; no row is in both.
        kind: default (as sampled), hard or easy (its support chosen against or for the query set).
        seed: of the sampling; a hard task keeps that of the default task it comes from.
        method: what chose the support: a sampler's or a selector's name.
    """

    classes: Rows
    support: tuple[Rows, ...]
    query: tuple[Rows, ...]
    kind: Kind = "default"
    seed: int = 0
    method: str = "random"

    def __post_init__(self) -> None:
        if not len(self.classes) == len(self.support) == len(self.query) >= 2:
            raise DataError(
                f"a task of {len(self.classes)} classes with {len(self.support)} supports and {len(self.query)} "
                "query sets: give one of each a class, for two classes or more"
            )
        if len(set(self.classes)) < len(self.classes):
            raise DataError(f"a task's classes {self.classes} repeat: give distinct classes")
        for rows in (*self.support, *self.query):
            if not rows:
                raise DataError("a task has a class without support or query images: give at least one of each")
        flat = [row for rows in (*self.support, *self.query) for row in rows]
        if len(set(flat)) < len(flat):
            raise DataError("a task uses an image twice: support and query must not overlap")

    @property
    def way(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def shots(self) -> tuple[int, ...]:
        """Support images of each class."""
        return tuple(len(rows) for rows in self.support)


def flat(rows: Sequence[Rows]) -> tuple[list[int], list[int]]:
    """Return (rows, task labels) of a support or a query set, class after class."""
    return [row for each in rows for row in each], [label for label, each in enumerate(rows) for _ in each]
