"""Tasks as one Parquet file, by image ids: to share, to keep, and to load against the pool they came from."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import DataError
from pellucid.core.outfolder import write_file
from pellucid.core.report import plain

from .pools import Pool
from .tasks import Task

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "pellucid-tasks/1"
_META = b"pellucid"
_NAMED = 3
"""How many missing images or classes an error names."""


@dataclass(frozen=True)
class TaskFile:
    """What a task file holds.

    Attributes:
        tasks: with rows of the pool that the file was loaded against.
        provenance: what the tasks were made from and how, as it was saved: backbone, sampler, selector's settings.
    """

    tasks: list[Task]
    provenance: dict[str, Any]


def save_tasks(path: Path, tasks: Sequence[Task], pool: Pool, provenance: Mapping[str, Any]) -> None:
    """Write tasks as one Parquet file (zstd), whole or not at all.

    A row is a task, with columns kind, method, seed, way, classes (names), shots, support and query (for each class,
    a list of image ids). The file's metadata holds the schema's version, the pool's digest and the provenance as
    JSON under the key `pellucid`. The same tasks give the same bytes.

    Args:
        path: of the file, such as `birds-hard.parquet`; one that exists is replaced.
        tasks: one or more, of this pool.
        pool: gives ids, class names and the digest.
        provenance: backbone, sampler, selector and their settings: anything that JSON can hold.

    Raises:
        DataError: there are no tasks, the provenance has no form in JSON, or the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not tasks:
        raise DataError("there are no tasks to save: sample at least one")
    ids, names = pool.ids, pool.classes
    columns = {
        "kind": [task.kind for task in tasks],
        "method": [task.method for task in tasks],
        "seed": [task.seed for task in tasks],
        "way": [task.way for task in tasks],
        "classes": [[names[label] for label in task.classes] for task in tasks],
        "shots": [list(task.shots) for task in tasks],
        "support": [[[ids[row] for row in rows] for rows in task.support] for task in tasks],
        "query": [[[ids[row] for row in rows] for rows in task.query] for task in tasks],
    }
    meta = {
        "schema": SCHEMA,
        "digest": pool.digest,
        "images": len(pool),
        "provenance": plain(dict(provenance), "provenance"),
    }
    table = pa.table(columns, schema=_schema()).replace_schema_metadata({_META: json.dumps(meta, sort_keys=True)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_file(Path(path), buffer.getvalue())


def load_tasks(path: Path, pool: Pool) -> TaskFile:
    """Read a file of `save_tasks`.

    Ids tell the rows, so that the pool may be of another backbone and in any order that gives the same digest.

    Args:
        path: of the file.
        pool: of the same images as the one that the tasks were drawn from.

    Raises:
        DataError: the file is missing, damaged or not one of ours, or the pool is not the one it was made from; the
            message says what differs.
    """
    path = Path(path)
    table, meta = _read(path)
    if meta["digest"] != pool.digest:
        raise DataError(_difference(path, table, meta, pool))
    rows = {name: row for row, name in enumerate(pool.ids)}
    labels = {name: label for label, name in enumerate(pool.classes)}
    tasks = []
    for number, entry in enumerate(table.to_pylist()):
        try:
            task = Task(
                tuple(labels[name] for name in entry["classes"]),
                tuple(tuple(rows[name] for name in each) for each in entry["support"]),
                tuple(tuple(rows[name] for name in each) for each in entry["query"]),
                entry["kind"],
                entry["seed"],
                entry["method"],
            )
            held = [pool.labels[[*s, *q]] for s, q in zip(task.support, task.query, strict=True)]
            sound = all((each == label).all() for each, label in zip(held, task.classes, strict=True))
        except (KeyError, TypeError, DataError) as error:
            raise DataError(f"{path}: task {number} is damaged ({error}): get the file again") from error
        if not sound or task.way != entry["way"] or list(task.shots) != entry["shots"]:
            raise DataError(f"{path}: task {number} contradicts itself or the pool's labels: get the file again")
        tasks.append(task)
    return TaskFile(tasks, meta["provenance"])


def _schema() -> "pa.Schema":
    import pyarrow as pa

    ids = pa.list_(pa.list_(pa.string()))
    return pa.schema(
        [
            ("kind", pa.string()),
            ("method", pa.string()),
            ("seed", pa.int64()),
            ("way", pa.int32()),
            ("classes", pa.list_(pa.string())),
            ("shots", pa.list_(pa.int32())),
            ("support", ids),
            ("query", ids),
        ]
    )


def _read(path: Path) -> "tuple[pa.Table, dict[str, Any]]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; give a file of saved tasks") from error
    try:
        table = pq.read_table(pa.BufferReader(content))
        meta = json.loads((table.schema.metadata or {})[_META])
        version = meta["schema"]
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path} is damaged, or no file of Pellucid's tasks: get it again, or save tasks anew"
        ) from error
    if version != SCHEMA:
        raise DataError(
            f"{path} has the schema {version!r}, this version reads {SCHEMA!r}: update pellucid-fewshot-hard"
        )
    if not table.schema.remove_metadata().equals(_schema()) or not {"digest", "images", "provenance"} <= set(meta):
        raise DataError(f"{path} has not the columns of {SCHEMA}: get it again, or save tasks anew")
    return table, meta


def _difference(path: Path, table: "pa.Table", meta: dict[str, Any], pool: Pool) -> str:
    """Say in one line how the pool differs from the one that the file was made from."""
    held, classes = set(pool.ids), set(pool.classes)
    entries = table.select(["classes", "support", "query"]).to_pylist()
    used = [name for entry in entries for part in ("support", "query") for each in entry[part] for name in each]
    missing = [name for name in dict.fromkeys(used) if name not in held]
    unknown = [name for name in dict.fromkeys(n for entry in entries for n in entry["classes"]) if name not in classes]
    if missing:
        what = f"{len(missing)} of its images are not in this pool, such as {_some(missing)}"
    elif unknown:
        what = f"{len(unknown)} of its classes are not in this pool, such as {_some(unknown)}"
    elif meta["images"] != len(pool):
        what = f"that had {meta['images']} images, this one has {len(pool)}"
    else:
        what = "the ids are the same, but labels or the images themselves have changed"
    return (
        f"{path} was made from another pool (digest {str(meta['digest'])[:12]}, this one's is {pool.digest[:12]}): "
        f"{what}; give the pool it was made from, or sample tasks anew"
    )


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:_NAMED])
