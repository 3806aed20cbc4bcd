"""One progress for all of Pellucid, on standard error: a bar on a terminal, now and then a line in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY = 30.0  # seconds between two lines of a log


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Tell of progress for the time of the block; the value yielded advances it by a number of steps.

    Where standard error is no terminal (a job of a cluster, a file), work of under half a minute says nothing.

    Args:
        description: what is being done, in a few words.
        total: how many steps there are; None where that is not known.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(description, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)


def _lines(description: str, total: int | None) -> Callable[[int], None]:
    began = told = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, told
        done += steps
        now = time.monotonic()
        if now - told < _EVERY or done == total:
            return
        told = now
        line = f"{description}: {done:,}" if total is None else f"{description}: {done:,} of {total:,}"
        line += f" after {_time(now - began)}"
        if total is not None and done:
            line += f", about {_time((total - done) * (now - began) / done)} more"
        print(line, file=sys.stderr, flush=True)

    return advance


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
