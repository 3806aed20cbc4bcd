"""Circuits to attribute with: those that the thesis prints for four models, and files of heads that users extract."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pellucid.core.errors import DataError, OptionError

from .attention_rows import Head
from .published import CIRCUITS, PublishedCircuit

SCHEMA = 1


@dataclass(frozen=True)
class HeadFile:
    """Heads found in a model, and the one to attribute with.

    Attributes:
        model: the model's name.
        attribution_head: (layer, head) to read attributions from, or None where none was chosen.
        heads: (layer, head) pairs of the circuit, best first.
        source: where they come from, such as the probes and the seed, or a section of the thesis.
    """

    model: str
    attribution_head: Head | None
    heads: tuple[Head, ...]
    source: str


def published_circuit(model: str, knowledge: Literal["context", "memory"] = "context") -> PublishedCircuit:
    """A circuit as the thesis prints it.

    Only for Llama-3-70B does it name an attribution head; for the others choose one among the circuit's heads
    (`heads.choose_head`).

    Args:
        model: "vicuna", "llama-3-8b", "phi-3" or "llama-3-70b".
        knowledge: whether the model answers from the context or from memory.

    Raises:
        OptionError: the thesis prints no such circuit.
    """
    for circuit in CIRCUITS:
        if (circuit.model, circuit.knowledge) == (model, knowledge):
            return circuit
    known = ", ".join(f"{circuit.model} ({circuit.knowledge})" for circuit in CIRCUITS)
    raise OptionError(f"the thesis prints no {knowledge} circuit of {model!r}; there are {known}")


def as_head_file(circuit: PublishedCircuit) -> HeadFile:
    """A published circuit's heads, their source named."""
    return HeadFile(circuit.model, circuit.attribution_head, circuit.heads, f"thesis section {circuit.section}")


def write_heads(path: str | Path, heads: HeadFile) -> None:
    """Write heads as JSON; the file appears whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(
            json.dumps({"schema": SCHEMA, **asdict(heads)}, ensure_ascii=False, indent=2) + "\n", "utf-8"
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_heads(path: str | Path) -> HeadFile:
    """Read what `write_heads` wrote.

    Raises:
        DataError: the file is missing or not such a file; the message names the file and the field.
    """
    try:
        record: Any = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON file of heads: {error}") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise DataError(f"{path} is not a file of heads of schema {SCHEMA}: write one with write_heads")
    for name in ("model", "source"):
        if not isinstance(record.get(name), str):
            raise DataError(f"{path}: the field {name!r} must be a text")
    if not isinstance(record.get("heads"), list):
        raise DataError(f"{path}: the field 'heads' must be a list of [layer, head]")
    chosen = record.get("attribution_head")
    return HeadFile(
        record["model"],
        None if chosen is None else _head(chosen, "attribution_head", path),
        tuple(_head(value, "heads", path) for value in record["heads"]),
        record["source"],
    )


def _head(value: Any, name: str, path: str | Path) -> Head:
    if isinstance(value, list) and len(value) == 2 and all(type(part) is int and part >= 0 for part in value):
        return value[0], value[1]
    raise DataError(f"{path}: {value!r} in the field {name!r} is not a head: give [layer, head], counted from 0")
