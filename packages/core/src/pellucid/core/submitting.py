"""A `pellucid` command as a Ray job: checked here, packed with the packages it needs, run on the cluster."""

import importlib.metadata
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from .cli import GROUP
from .errors import OptionError, PellucidError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT = "http://127.0.0.1:8265"
_LABEL = "pellucid"  # under which a job's metadata hold its command
_ADDRESS = "RAY_API_SERVER_ADDRESS"
_CHATTY = (  # what is uploaded, and when a connection closes, is no news
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_NOT_YET = "No available agent"  # what Ray answers while its dashboard is up and no node has reported yet
_PATIENCE = 60.0  # seconds that such an answer is waited out
_LARGEST_FILE = 100_000_000  # bytes of a local file that a command reads


class SubmitError(PellucidError):
    """A job cannot be submitted, or the cluster cannot be asked."""


@dataclass(frozen=True)
class Job:
    """One job of the cluster, as `jobs` tells it: no environment variable is among it.

    Attributes:
        id: Ray's name for it.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        command: the words after `pellucid`; empty for a job that was submitted otherwise.
        started: seconds since 1970, where it has started.
        seconds: how long it took, where it has ended.
        message: Ray's own.
    """

    id: str
    status: str
    command: str
    started: float | None
    seconds: float | None
    message: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


def client(address: str | None = None) -> "JobSubmissionClient":
    """The client of a cluster's dashboard; Ray's own token goes with each call where the cluster asks for one.

    Args:
        address: `http://HOST:8265`; by default `RAY_API_SERVER_ADDRESS`, else this machine's.

    Raises:
        SubmitError: Ray's job client is not installed, or nothing answers there.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if any(name in os.environ for name in _TOKENS) or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as Ray itself decides where it starts a cluster
    url = address or os.environ.get(_ADDRESS) or DEFAULT
    if not url.startswith(("http://", "https://")):
        raise SubmitError(f"{url!r} is not the address of a cluster's dashboard: give http://HOST:8265")
    try:
        from ray.job_submission import JobSubmissionClient

        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        before = os.environ.pop(_ADDRESS, None)  # Ray would prefer it to the address that was asked for
        try:
            return JobSubmissionClient(url)
        finally:
            if before is not None:
                os.environ[_ADDRESS] = before
    except ImportError as error:
        raise SubmitError(f"jobs need {error.name}: pip install 'pellucid-core[jobs]'") from error
    except Exception as error:
        reason = _first_line(error)
        raise SubmitError(
            f"no Ray cluster answers at {url} ({reason}): start one here by `ray start --head`, or give --address"
        ) from error


def submit(
    words: Sequence[str],
    address: str | None = None,
    *,
    cpus: float = 1,
    gpus: float = 0,
    image_ready: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Submit a command.

    The packages that it needs travel as they are installed here; what they require beside (torch and so on) is the
    cluster's. So do files of this machine that the words name by a relative path.

    Args:
        words: after `pellucid`.
        address: see `client`.
        cpus: held for the command itself; what its `--workers` take comes on top.
        gpus: held for the command itself.
        image_ready: send no package: the cluster's image has them.
        environment: variables for the job. Ray's own store keeps them as long as the cluster lives.

    Returns:
        The job's id.

    Raises:
        OptionError: the command is none that the packages installed here take, or it writes to a relative folder.
        SubmitError: the cluster cannot be reached or refuses.
    """
    from .command_lines import MAIN, check

    check(words)
    asked = client(address)
    near = urlparse(asked.get_address()).hostname in ("127.0.0.1", "localhost", "::1")
    said = _absolute_out(words, near)
    with tempfile.TemporaryDirectory() as folder:
        files = [word for word in said if _is_local_file(word)]
        for file in files:
            target = Path(folder) / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        if not image_ready:
            for name in packages_of(words):
                pack(name, Path(folder))
        runtime: dict[str, Any] = {"env_vars": {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", **(environment or {})}}
        if files or not image_ready:
            runtime["working_dir"] = folder
        return _submitted(
            asked,
            entrypoint=shlex.join(["python", "-c", MAIN, *said]),
            runtime_env=runtime,
            metadata={_LABEL: shlex.join(said)},
            entrypoint_num_cpus=cpus,
            entrypoint_num_gpus=gpus,
        )


def _submitted(asked: "JobSubmissionClient", **what: Any) -> str:
    """A job's id; a cluster whose nodes are still coming up is asked again for a while."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return asked.submit_job(**what)
        except Exception as error:
            if _NOT_YET not in str(error):
                raise SubmitError(f"the cluster refuses the job: {_first_line(error)}") from error
            if time.monotonic() > until:
                raise SubmitError(
                    "no node of the cluster takes jobs: another Ray on its machine may hold the agent's port, 52365; "
                    "start it with --dashboard-agent-listen-port"
                ) from error
            time.sleep(1)


def jobs(address: str | None = None) -> list[Job]:
    """All jobs of a cluster, the newest first.

    Raises:
        SubmitError: the cluster cannot be reached.
    """
    asked = client(address)
    try:
        found = [_job(str(info.submission_id), info) for info in asked.list_jobs() if info.submission_id]
    except Exception as error:
        raise SubmitError(f"the cluster does not tell its jobs: {_first_line(error)}") from error
    return sorted(found, key=lambda job: -(job.started or float("inf")))


def job(name: str, address: str | None = None) -> Job:
    """One job.

    Raises:
        SubmitError: there is none of that name, or the cluster cannot be reached.
    """
    try:
        return _job(name, client(address).get_job_info(name))
    except RuntimeError as error:
        raise SubmitError(f"the cluster has no job {name!r}: `pellucid jobs` lists them") from error


def log(name: str, address: str | None = None) -> str:
    """What a job has printed so far.

    Raises:
        SubmitError: there is no such job, or the cluster cannot be reached.
    """
    try:
        return str(client(address).get_job_logs(name))
    except RuntimeError as error:
        raise SubmitError(f"the cluster has no log of a job {name!r}: `pellucid jobs` lists them") from error


def follow(name: str, address: str | None = None) -> Iterator[str]:
    """What a job prints, piece by piece, from its beginning until it ends.

    Raises:
        SubmitError: there is no such job, or the cluster cannot be reached.
    """
    import asyncio

    job(name, address)
    pieces = client(address).tail_job_logs(name).__aiter__()
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield str(loop.run_until_complete(pieces.__anext__()))
            except StopAsyncIteration:
                return
    finally:
        loop.close()


def packages_of(words: Sequence[str]) -> tuple[str, ...]:
    """The installed packages of ours that a command needs: its own, those that this requires, and the zoo if named."""
    point = next(iter(importlib.metadata.entry_points(group=GROUP, name=words[0])), None)
    if point is None or point.dist is None:
        raise OptionError(f"no installed package brings the command {words[0]!r}: see pellucid --help")
    names = [_plain(str(point.dist.metadata["Name"]))]
    if any("zoo:" in word for word in words):
        names.append("pellucid-zoo")
    found: dict[str, None] = {}
    while names:
        name = names.pop(0)
        if name in found:
            continue
        found[name] = None
        required = importlib.metadata.requires(name) or []
        plain = [_plain(re.split(r"[^\w.-]", one, maxsplit=1)[0]) for one in required if "extra ==" not in one]
        names += [one for one in plain if one.startswith("pellucid-")]
    return tuple(found)


def pack(name: str, folder: Path) -> None:
    """Put an installed package with its metadata into a folder, so that Python finds it and its commands from there.

    Args:
        name: of the distribution.
        folder: where to.

    Raises:
        SubmitError: it is installed from a checkout and cannot be built.
    """
    distribution = importlib.metadata.distribution(name)
    checkout = _checkout(distribution)
    if checkout is not None:
        _unpack_built(checkout, folder)
        return
    for file in distribution.files or ():
        path = Path(str(file))
        if path.parts[0] == "pellucid" or path.parts[0].endswith(".dist-info"):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(distribution.locate_file(file)), target)


def _unpack_built(checkout: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as built:
        command = ["uv", "build", "--wheel", "--quiet", "--out-dir", built, str(checkout)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise SubmitError(
                "packages of a checkout are built by uv, which is not installed: pip install uv"
            ) from error
        wheels = list(Path(built).glob("*.whl"))
        if done.returncode or not wheels:
            raise SubmitError(f"{checkout} cannot be built: {_first_line(done.stderr or 'no wheel')}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(folder)


def _checkout(distribution: importlib.metadata.Distribution) -> Path | None:
    """The folder of a package that is installed as editable."""
    text = distribution.read_text("direct_url.json")
    if text is None:
        return None
    about = json.loads(text)
    if not about.get("dir_info", {}).get("editable"):
        return None
    return Path(urlparse(about["url"]).path)


def _absolute_out(words: Sequence[str], near: bool) -> list[str]:
    """The words with an absolute `--out`: a job's own folder is thrown away when it ends."""
    said = list(words)
    for place, word in enumerate(said):
        option, equals, value = word.partition("=")
        if option != "--out":
            continue
        value = value if equals else said[place + 1]
        if Path(value).is_absolute() or "://" in value:
            continue
        if not near:
            raise OptionError(
                f"--out {value}: a job's own folder goes when it ends; give an absolute path of a volume of the cluster"
            )
        whole = str(Path(value).absolute())
        if equals:
            said[place] = f"{option}={whole}"
        else:
            said[place + 1] = whole
    return said


def _is_local_file(word: str) -> bool:
    """Whether a word is the relative path of a file here, which then travels with the job."""
    path = Path(word)
    if path.is_absolute() or ".." in path.parts or word.startswith("-") or not path.is_file():
        return False
    if path.stat().st_size > _LARGEST_FILE:
        raise OptionError(f"{word} is larger than {_LARGEST_FILE // 10**6} MB: put it on a volume of the cluster")
    return True


def _job(name: str, info: Any) -> Job:
    start, end = info.start_time, info.end_time
    return Job(
        id=name,
        status=str(getattr(info.status, "value", info.status)),
        command=(info.metadata or {}).get(_LABEL, ""),
        started=None if not start else start / 1000,
        seconds=None if not start or not end else (end - start) / 1000,
        message=" ".join((info.message or "").split()),
    )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _first_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
