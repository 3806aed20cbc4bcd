"""Make probes that a model really answers, from the context or from memory: candidates in rounds, until enough."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError
from pellucid.core.loading import ModelSpec
from pellucid.core.sweeps import session

from .jobs import answer_sweep
from .probes import Probe
from .prompts import Style


@dataclass(frozen=True)
class Made:
    """Probes that were kept, and how many were offered to the model for them."""

    probes: list[Probe]
    offered: int


def keep_answered(
    model: ModelSpec | str,
    candidates: Iterable[Probe],
    n: int,
    ledger: str | Path,
    *,
    style: Style = "plain",
    workers: int = 0,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
) -> Made:
    """Ask the model each candidate's question over its modified context; keep those it answers, up to `n`.

    Args:
        model: what to load.
        candidates: probes in the order in which they are tried, such as `stream_copy_probes` or
            `stream_memory_probes`; drawn only as needed.
        n: how many to keep; fewer come back where the candidates run out.
        ledger: folder that remembers replies; a second call asks nothing twice.
        style: how prompts are rendered, see `prompts.render`.
        workers: see `extract_circuit`.
        cpus: see `extract_circuit`.
        gpus: see `extract_circuit`.
        address: see `extract_circuit`.

    Raises:
        DataError: the model answers none of the candidates.
    """
    spec = (ModelSpec(model) if isinstance(model, str) else model).resolved()
    stream = iter(candidates)
    kept: list[Probe] = []
    offered = 0
    options: dict[str, Any] = {"cpus": cpus, "gpus": gpus}
    with session():
        while len(kept) < n and (tried := list(itertools.islice(stream, 2 * (n - len(kept))))):
            sweep = answer_sweep(spec, tried, style, **options)
            sweep.run(str(ledger), workers=workers, address=address)
            rows = dict(sweep.pairs(str(ledger)))
            for probe in tried:
                if len(kept) < n:
                    offered += 1
                    kept += [probe] if probe in rows and rows[probe].kept else []
    if not kept:
        raise DataError(f"{spec.name} answers none of {offered} probes: try a stronger model")
    return Made(kept, offered)
