"""The circuits that the thesis prints (appendix 11.7.3 to 11.7.13), as data: published figures, not ours.

Layers and heads are counted from 0 and stand in the order in which they are printed.
"""

from dataclasses import dataclass
from typing import Literal

from .attention_rows import Head


@dataclass(frozen=True)
class PublishedCircuit:
    """A circuit of hierarchy 0.

    Attributes:
        model: as the thesis calls it, in small letters.
        knowledge: whether the model answers from the context (D_copy) or from memory (D_memory).
        section: where the thesis prints it.
        layers: attention layers; `heads`: (layer, head) pairs; `mlps`: layers, empty where none are printed.
        attribution_head: the head that the thesis attributes with; None where it names none.
        probes: size of the probe set.
    """

    model: str
    knowledge: Literal["context", "memory"]
    section: str
    layers: tuple[int, ...]
    heads: tuple[Head, ...]
    mlps: tuple[int, ...]
    attribution_head: Head | None = None
    probes: int = 1000


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split())


def _heads(text: str) -> tuple[Head, ...]:
    """Heads that are written "layer.head layer.head"."""
    return tuple((int(layer), int(head)) for layer, head in (pair.split(".") for pair in text.split()))


CIRCUITS = (
    PublishedCircuit(
        model="vicuna",
        knowledge="context",
        section="11.7.4",
        layers=_numbers("24 20 18 28 31 22 19 29 17"),
        heads=_heads("24.8 18.30 31.24 20.1 22.30 24.15 19.4 28.7 31.27 28.14 29.10 17.11 31.16 18.10"),
        mlps=_numbers("31 24 21 14 18 11 9 12 8 1 0 2 7 3 16 6 5 4 15 10 13 17 19 27 29 23 30 26 20 22 28 25"),
    ),
    PublishedCircuit(
        model="vicuna",
        knowledge="memory",
        section="11.7.4",
        layers=_numbers("20 24 16 31 26 28 30 29 15 22 12 13 19"),
        heads=_heads(
            "31.27 24.14 19.8 28.7 20.14 20.18 16.10 21.15 26.23 30.12 15.10 31.25 17.25 16.20 18.9 24.24 14.28 "
            "18.26 29.15 14.5 26.14 16.5 18.11 22.10 22.17 16.31 12.30 31.16 31.26 29.9"
        ),
        mlps=_numbers("22 20 23 21 31 19 30 29 14 18"),
    ),
    PublishedCircuit(
        model="llama-3-8b",
        knowledge="context",
        section="11.7.5",
        layers=_numbers("27 23 31 24 25 29 21 30"),
        heads=_heads("27.20 23.27 31.7 17.24 25.12 31.20 24.27 27.6 26.13 16.1 31.6 29.31 31.3 30.12"),
        mlps=_numbers("31 28 26 25"),
    ),
    PublishedCircuit(
        model="llama-3-8b",
        knowledge="memory",
        section="11.7.5",
        layers=_numbers("31 24 26 9 19 17 23 8 16 28 3 1 6 5 0 4 25 2 27 21 22 7 12 20 13 30 11 18 14 29 10 15"),
        heads=_heads(
            "31.7 24.3 31.14 30.24 17.24 15.18 31.1 31.3 24.27 29.8 17.27 17.23 26.3 20.14 31.6 14.22 31.25 18.29 "
            "22.14 16.2 13.23 28.0 16.0 16.30 17.5 19.3 31.27 20.27 30.2 14.1 21.3 27.6 19.14 21.10 14.4 29.22 "
            "29.9 14.24 16.5 21.26 14.28 16.25 16.13 19.20 19.25 15.11 21.1 29.11 17.6 26.12 15.24 11.5 13.17 "
            "15.20 29.23 30.26 15.7 13.9 13.5 16.24 17.4 27.21 27.30 15.8 9.0 14.13 16.19 14.14 9.29 13.21 27.23 "
            "11.28 9.5 20.3 28.11 12.20 25.1 13.3 16.17 12.21 31.31 22.29 29.17"
        ),
        mlps=_numbers("22 21 20 23 25 24 19"),
    ),
    PublishedCircuit(
        model="phi-3",
        knowledge="context",
        section="11.7.6",
        layers=_numbers("29 21 31 28 25 20 23 11"),
        heads=_heads("29.31 20.1 31.4 23.7 19.14 23.23 25.6 20.21 25.18 21.21 21.16 28.28 25.9 21.22"),
        mlps=_numbers("31 30 27 19 14 21 15 9 6 11 7 4 3 1 5 0 8 2 10 16 13 23 12 18 17 20 28 26 22 24 25 29"),
    ),
    PublishedCircuit(
        model="phi-3",
        knowledge="memory",
        section="11.7.6",
        layers=_numbers("23 31 20 22 19 29 21 24 18 16 25 12"),
        heads=_heads(
            "23.4 31.4 29.30 31.17 19.20 30.1 19.13 20.5 22.29 25.23 22.15 28.7 20.26 9.17 21.16 24.31 24.12 "
            "20.25 22.1 23.31 21.21 20.4 19.27 31.9 12.10 20.12 21.2 26.21 21.6 18.12 18.10 13.21 16.30 13.11 "
            "13.25 15.29 25.2 21.5 25.9 29.20 16.15 18.25 29.17 4.29 29.26 23.29 24.4 16.25 22.18 16.9 30.24 18.1 "
            "18.24 17.25 3.10"
        ),
        mlps=_numbers("23 24 22 25 21"),
    ),
    PublishedCircuit(
        model="llama-3-70b",
        knowledge="context",
        section="11.7.13",
        layers=_numbers("78 54 75 77 58 52 53 35 7 2"),
        heads=_heads("75.27 52.19 64.26 58.4 67.60 78.26 75.30 39.40 78.25 72.39 75.26 53.1 64.27"),
        mlps=(),
        attribution_head=(52, 19),
    ),
    PublishedCircuit(
        model="llama-3-8b",
        knowledge="context",
        section="11.7.7",
        layers=_numbers("27 23 31 24 29 25 21 30"),
        heads=_heads("27.20 23.27 31.7 17.24 31.20 25.12 24.27 27.6 26.13 16.1 29.31 31.6 31.3 30.12"),
        mlps=_numbers("31 28 26 25"),
        probes=200,
    ),
)
