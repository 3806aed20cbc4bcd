"""What is left of more machines: throughput and efficiency of a sweep over clusters of one node, two and so on."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.core.sweeps import Context, Sweep, session

LENGTHS = {0.001: 400, 0.1: 60, 1.0: 8}
"""Seconds that a cell takes, and how many cells a node is given."""


@dataclass(frozen=True)
class WaitingCell:
    """A cell that takes as long as it says.

    Attributes:
        number: of the cell.
        seconds: it waits; so that nodes which share a machine do not take each other's processor.
    """

    number: int
    seconds: float


@dataclass(frozen=True)
class WaitingRow:
    """When a cell began and ended, in seconds of the clock that nodes on one machine share."""

    began: float
    ended: float


def wait(cells: Sequence[WaitingCell], context: Context) -> list[WaitingRow]:
    """Wait as long as the cells say."""
    rows = []
    for cell in cells:
        began = time.time()
        time.sleep(cell.seconds)
        rows.append(WaitingRow(began, time.time()))
    return rows


def measure_nodes(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Measure sweeps on real clusters of several raylets on this machine, one CPU a node, a head without any.

    Args:
        counts: numbers of nodes.

    Returns:
        A row a number of nodes and length of a cell: `nodes`, `cell_seconds`, `cells`, `seconds` (from the first
        cell's beginning to the last one's end), `cells_per_second`, and `efficiency`: the time that the cells alone
        would take on that many nodes, over what it took.
    """
    from ray.cluster_utils import Cluster

    here: dict[str, Any] = {"node_ip_address": "127.0.0.1"}
    rows = []
    for count in counts:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **here})
        try:
            for _ in range(count):
                cluster.add_node(num_cpus=1, **here)
            cluster.wait_for_nodes()
            rows += [_measured(cluster.address, count, seconds, each) for seconds, each in LENGTHS.items()]
        finally:
            cluster.shutdown()
    return rows


def _measured(address: str, nodes: int, seconds: float, each: int) -> dict[str, Any]:
    cells = [WaitingCell(number, seconds) for number in range(each * nodes)]
    batch = max(1, min(16, round(0.2 / seconds)))
    sweep = Sweep(wait, cells, version="1", row=WaitingRow, batch=batch)
    with tempfile.TemporaryDirectory() as folder, session():
        sweep.run(folder, workers=nodes, address=address)
        rows = sweep.rows(folder)
    took = max(row.ended for row in rows) - min(row.began for row in rows)
    alone = seconds * len(cells) / nodes
    return {
        "nodes": nodes,
        "cell_seconds": seconds,
        "cells": len(cells),
        "seconds": took,
        "cells_per_second": len(cells) / took,
        "efficiency": alone / took,
    }
