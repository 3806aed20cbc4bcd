"""The peak of memory of one piece of work, in a process of its own (Linux)."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any


def highest_mb(anew: bool = False) -> float:
    """This process's highest resident memory, in MB; `anew` starts the count again, from what is held now."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    (line,) = [line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def in_a_process(work: Callable[..., float], *given: Any) -> float:
    """What a function at the top of a module returns in a fresh process.

    Args:
        work: the function.
        given: its arguments, which can be pickled.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=_put, args=(work, given, results))
    child.start()
    found = float(results.get(timeout=600))
    child.join()
    return found


def _put(work: Callable[..., float], given: tuple[Any, ...], results: Any) -> None:
    results.put(work(*given))
