"""Ray itself: starting one that keeps to this machine, or joining one that is there, and what it has to give."""

import importlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..errors import SweepError

# For a Ray of our own. The environment is the workers' already, so Ray need not pack the working directory for them;
# a worker that asked for no GPU shall see none; and no port shall listen beyond this machine (the third name says
# Windows and macOS, yet it is what makes Ray call itself 127.0.0.1 anywhere).
_ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
# A cluster that keeps to this machine is not found by a driver that takes 127.0.0.1 for another name of the machine.
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost):")
# Ray reads two of them once, when it is imported, which may be long ago: they have to be set there as well.
_CONSTANTS = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": False, "ENABLE_RAY_CLUSTER": False}
_joined = False  # whether it was `connected` that connected this process to Ray
_ours = False  # whether it started that Ray, too
_kept = False  # whether a `session` keeps it


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[bool]:
    """Have Ray for the time of the block: the caller's, the one at `address`, or a local one with so many CPUs.

    Yields:
        Whether the cluster is our own, so that it will never have more than it has now.

    Raises:
        SweepError: there is no Ray at the address, or the local one does not start.
    """
    import ray

    global _ours, _joined
    if ray.is_initialized():
        yield _ours
        return
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            with _only_here() if _LOOPBACK.match(address) else nullcontext():
                ray.init(address, **quiet)
        else:
            with _only_here():
                ray.init("local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    except Exception as error:
        raise SweepError(f"Ray {'at ' + address if address else 'on this machine'} cannot be used: {error}") from error
    _ours, _joined = not address, True
    try:
        yield _ours
    finally:
        if not _kept:
            _leave()


@contextmanager
def session() -> Iterator[None]:
    """Let several sweeps in a row share one Ray: what the first of them starts or joins is left only at the end.

    A block in which nothing is left to compute never starts Ray.
    """
    global _kept
    outermost, _kept = not _kept, True
    try:
        yield
    finally:
        if outermost:
            _kept = False
            _leave()


def _leave() -> None:
    """Leave the Ray that `connected` started or joined; one that the caller brought is let alone."""
    global _ours, _joined
    if _joined:
        import ray

        _ours = _joined = False
        ray.shutdown()


def fits(request: dict[str, float]) -> bool:
    """Whether some machine of the cluster could give one worker what it asks for, were it idle."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(machine.get(name, 0) >= amount for name, amount in request.items()) for machine in machines)


def shortage(request: dict[str, float]) -> str:
    """Say what a worker asks for and what each machine has, in one line."""
    import ray

    def spell(amounts: dict[str, float]) -> str:
        return ", ".join(f"{name} {amounts.get(name, 0):g}" for name in ("CPU", "GPU", "memory") if name in request)

    machines = [f"{node['NodeManagerHostname']}: {spell(node['Resources'])}" for node in ray.nodes() if node["Alive"]]
    return f"a worker asks for {spell(request)}; the cluster has {'; '.join(machines) or 'no machine'}"


@contextmanager
def _only_here() -> Iterator[None]:
    constants = importlib.import_module("ray._private.ray_constants")
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    before = {name: getattr(constants, name) for name in _CONSTANTS if hasattr(constants, name)}
    os.environ.update(_ENVIRONMENT)
    for name in before:
        setattr(constants, name, _CONSTANTS[name])
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, constant in before.items():
            setattr(constants, name, constant)
