"""`pellucid doctor`: what is installed, which devices there are, which models lie ready, and what is missing."""

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli import RUN
from .report import versions

app = typer.Typer(rich_help_panel=RUN, help="Say what is installed, which devices, and what is missing.")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Say what is installed, which devices, and what is missing."""
    found = examine()
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)))


def examine() -> dict[str, Any]:
    """Look around.

    Returns:
        `python`, `packages` (ours, by name), `libraries` (by name), `devices` (lines), `cached` (models of the hub's
        cache), `missing` (for each extra of ours what it needs and lacks), and `broken` (commands that cannot be
        loaded, with the reason).
    """
    ours = {
        str(one.metadata["Name"]): one
        for one in importlib.metadata.distributions()
        if re.sub(r"[-_.]+", "-", str(one.metadata["Name"])).lower().startswith("pellucid-")
    }
    return {
        "python": platform.python_version(),
        "packages": {name: one.version for name, one in sorted(ours.items())},
        "libraries": {name: value for name, value in versions().items() if not name.startswith("pellucid")},
        "devices": _devices(),
        "cached": _cached(),
        "missing": {f"{name}[{extra}]": lacks for name, one in sorted(ours.items()) for extra, lacks in _extras(one)},
        "broken": _broken_commands(),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """What `examine` found, for people."""
    told = [f"Python {found['python']}"]
    told += [f"  {name} {version}" for name, version in found["packages"].items()]
    told.append("Libraries: " + ", ".join(f"{name} {version}" for name, version in found["libraries"].items()))
    told.append("Devices: " + "; ".join(found["devices"]))
    told.append("Cached from the hub: " + (", ".join(found["cached"]) or "nothing"))
    for extra, lacks in found["missing"].items():
        told.append(f"Not installed: {', '.join(lacks)} (pip install '{extra}')")
    for name, reason in found["broken"].items():
        told.append(f"pellucid {name} cannot be loaded: {reason}")
    told.append("All commands can be loaded." if not found["broken"] else "Reinstall what cannot be loaded.")
    return told


def _devices() -> list[str]:
    found = [f"{os.cpu_count()} processor threads, {_memory()}"]
    try:
        import torch
    except ImportError:
        return [*found, "no torch, so nothing can be computed: pip install torch"]
    if torch.cuda.is_available():
        for place in range(torch.cuda.device_count()):
            one = torch.cuda.get_device_properties(place)
            found.append(f"cuda:{place} {one.name}, {one.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        found.append("mps")
    else:
        found.append("no GPU")
    return found


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (ValueError, OSError, AttributeError):  # not every system tells
        return "memory unknown"


def _cached() -> list[str]:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folder = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return sorted(one.name.removeprefix("models--").replace("--", "/") for one in folder.glob("models--*"))


def _extras(one: importlib.metadata.Distribution) -> list[tuple[str, list[str]]]:
    """Each extra of a package that lacks something, and what."""
    lacking: dict[str, list[str]] = {}
    for requirement in one.requires or []:
        text, _, marker = requirement.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        name = re.match(r"[A-Za-z0-9._-]+", text.strip())
        if extra is None or name is None:
            continue
        try:
            importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            lacking.setdefault(extra[1], []).append(name[0])
    return sorted(lacking.items())


def _broken_commands() -> dict[str, str]:
    found = {}
    for point in importlib.metadata.entry_points(group="pellucid.commands"):
        try:
            point.load()
        except Exception as error:  # whatever a plugin does wrong
            found[point.name] = f"{type(error).__name__}: {error}"
    return found
