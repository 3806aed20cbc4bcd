"""The builder of Hard-Meta-Dataset++: default, hard and easy tasks of each data set, as files (thesis 4.5.1)."""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file, writing
from pellucid.core.progress import progress
from pellucid.core.report import plain
from pellucid.core.statistics import bootstrap_mean

from .layouts import check_dataset, layout_names, load_layout, read_dataset
from .pools import Pool
from .samplers import sample_tasks
from .selection import Method, ease, harden
from .task_files import save_tasks
from .tasks import Task

if TYPE_CHECKING:
    from .images import ImageSet

MANIFEST = "manifest.json"
SCHEMA = "pellucid-benchmark/1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
WAY, SHOT, QUERY = 5, 5, 10
"""Of the tasks of data sets outside Meta-Dataset (thesis 4.5.1, 4.5.3)."""


def build(
    roots: Mapping[str, Path],
    out: Path,
    backbone: str,
    *,
    count: int = 200,
    method: Method = "fastdiffsel",
    weights: str | None = None,
    splits: Path | None = None,
    per_class: int | None = None,
    seed: int = 0,
    workers: int = 0,
    address: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Build a benchmark of hard tasks, one data set after another.

    Each data set is read, embedded and sampled; hard and easy tasks take over the classes, shots and query sets of
    the default ones (thesis 4.4.1). Meta-Dataset's nine get variable-way variable-shot tasks, all others 5-way 5-shot
    ones with 10 query images a class. With all twelve and `count` 200 this makes Hard-Meta-Dataset++'s 2,400 hard
    tasks. Into `out` go NAME-default.parquet, NAME-hard.parquet and NAME-easy.parquet (see `task_files`), the pool as
    NAME-pool.safetensors, and a manifest. What the manifest lists as finished with the same settings is kept, so that
    a run can go on where it died; embeddings and cut-out pictures go on where they stopped too.

    Args:
        roots: by name, the folder with a local copy. A known data set (see `layouts.layout_names`) is read by its
            published structure; any other name is a folder of one's own with a folder of images for each class.
        out: the folder to write into.
        backbone: as in `embed`.
        count: default tasks of a data set.
        method: what chooses the supports.
        weights: as in `embed`.
        splits: a folder with Meta-Dataset's `NAME_splits.json` files, whose test classes are then used alone.
        per_class: use at most so many images of a class.
        seed: of sampling, of the choice of images, and of selection.
        workers: as in `embed`.
        address: as in `embed`.
        device: as in `embed`.

    Returns:
        The manifest, as written to `out/manifest.json`: by data set its pool's digest, counts, settings, accuracy of
        mean prototypes with 95% intervals, files with SHA-256, and seconds of each step.

    Raises:
        DataError: a data set is not there (looked for before anything is done), or too small.
        OptionError: there is no data set, or a setting cannot work.
    """
    out = Path(out)
    if not roots:
        raise OptionError("there is no data set to build from: give one or more as NAME=FOLDER")
    if method not in get_args(Method):
        raise OptionError(f"method is {method!r}: give one of {', '.join(get_args(Method))}")
    for name, root in roots.items():
        if not _NAME.fullmatch(name):
            raise OptionError(
                f"the name {name!r} cannot begin a file's: use letters, digits, dots, dashes, underscores"
            )
        if name in layout_names():
            check_dataset(name, root)
        elif not Path(root).is_dir():
            raise DataError(
                f"{root} of {name!r} is no folder: give one, or a known data set: {', '.join(layout_names())}"
            )
    from .embed import embed
    from .pools import save_pool

    settings = {
        "backbone": backbone,
        "weights": weights,
        "count": count,
        "method": method,
        "per_class": per_class,
        "seed": seed,
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    entries = _kept(out)
    for name, root in roots.items():
        wanted = settings | _sampling(name, Path(root), splits)
        if name in entries and entries[name].get("settings") == plain(wanted) and _whole(out, name, entries[name]):
            continue
        began = time.perf_counter()
        images = _read(name, Path(root), out, splits, per_class, seed)
        seconds = {"read": time.perf_counter() - began}
        pool = embed(
            images,
            backbone,
            out / f"ledger-{name}",
            weights=weights,
            workers=workers,
            address=address,
            device=device,
        )
        save_pool(pool, out / _pool_file(name))
        seconds["embed"] = time.perf_counter() - began - sum(seconds.values())
        entry = _tasks(name, pool, out, wanted, seconds)
        entries[name] = plain(entry | {"skipped": list(images.skipped)})
        _write(out, entries)
    return _write(out, {name: entries[name] for name in roots} | entries)


def _sampling(name: str, root: Path, splits: Path | None) -> dict[str, Any]:
    """Return how a data set's tasks are sampled, and a hash of the list of its classes."""
    if name not in layout_names():
        return {"sampler": "fixed", "within": None, "split": None}
    layout = load_layout(name)
    path = _split(name, root, splits)
    digest = None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sampler": layout.tasks, "within": layout.within, "split": digest}


def _split(name: str, root: Path, splits: Path | None) -> Path | None:
    """Return the file of a data set's test classes: of the folder given, else one that lies in the data set's own."""
    layout = load_layout(name)
    if not layout.split:
        return None
    path = (root if splits is None else Path(splits)) / layout.split
    if path.is_file():
        return path
    if splits is None:
        return None
    raise DataError(f"{path} is missing: put Meta-Dataset's split of {name} there, or give no splits")


def _read(name: str, root: Path, out: Path, splits: Path | None, per_class: int | None, seed: int) -> "ImageSet":
    if name in layout_names():
        classes, crops = _split(name, root, splits), out / "crops" / name
        return read_dataset(name, root, classes=classes, per_class=per_class, seed=seed, crops=crops)
    from .images import load_images

    return load_images(str(root))


def _tasks(name: str, pool: Pool, out: Path, settings: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """Sample, harden, ease and save; return the data set's entry of the manifest."""
    seed, method = settings["seed"], settings["method"]
    began = time.perf_counter()
    made: dict[str, Sequence[Task]] = {
        "default": sample_tasks(
            pool, settings["count"], settings["sampler"], WAY, SHOT, QUERY, seed, within=settings["within"]
        )
    }
    seconds["default"] = time.perf_counter() - began
    for kind in ("hard", "easy"):
        began = time.perf_counter()
        with progress(f"{name}: {kind} tasks", settings["count"]) as advance:
            choose = harden if kind == "hard" else ease
            made[kind] = choose(pool, made["default"], method, seed=seed, advance=advance)
        seconds[kind] = time.perf_counter() - began
    from .prototypes import accuracy

    files = {}
    for kind, tasks in made.items():
        path = out / f"{name}-{kind}.parquet"
        save_tasks(path, tasks, pool, {"dataset": name, "kind": kind} | settings)
        files[kind] = {"file": path.name, "sha256": _sha256(path), "tasks": len(tasks)}
    return {
        "digest": pool.digest,
        "images": len(pool),
        "classes": len(pool.classes),
        "settings": settings,
        "accuracy": {kind: bootstrap_mean(accuracy(pool, tasks, "euclidean"), seed) for kind, tasks in made.items()},
        "files": files,
        "seconds": seconds,
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _kept(out: Path) -> dict[str, Any]:
    """Return the data sets that an earlier run finished."""
    path = out / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"its schema is {manifest['schema']!r}")
        return dict(manifest["datasets"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path} is no manifest of {SCHEMA} ({error}): remove it, or give another folder") from error


def _pool_file(name: str) -> str:
    return f"{name}-pool.safetensors"


def _whole(out: Path, name: str, entry: Mapping[str, Any]) -> bool:
    """Tell whether a finished data set's files are all there, the tasks' as they were written."""
    files = entry["files"].values()
    return (out / _pool_file(name)).is_file() and all(
        (out / each["file"]).is_file() and _sha256(out / each["file"]) == each["sha256"] for each in files
    )


def _write(out: Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    manifest = {
        "schema": SCHEMA,
        "tasks": {
            kind: sum(each["files"][kind]["tasks"] for each in entries.values()) for kind in ("default", "hard", "easy")
        },
        "datasets": dict(entries),
    }
    write_file(out / MANIFEST, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    return manifest
