"""`pellucid submit` and `pellucid jobs` on a real cluster of this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SECRET = "hf_PlantedSecret123"
STUDY = ["influence", "truth", "--data", "iris", "--groups", "random", "--fractions", "0.1", "--count", "2"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    """A head with its dashboard, and the environment of a user beside it."""
    # Ray's sockets lie below its folder, and a socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    ports = {name: free_port() for name in ("gcs", "dashboard", "agent", "client")}
    (folder / "token").write_text(uuid.uuid4().hex)
    home = {
        **os.environ,
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray keep to 127.0.0.1
        "OMP_NUM_THREADS": "1",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1",
               "--dashboard-host=127.0.0.1", f"--port={ports['gcs']}", f"--dashboard-port={ports['dashboard']}",
               f"--dashboard-agent-listen-port={ports['agent']}",  # by default one for all Rays of a machine
               "--disable-usage-stats", f"--ray-client-server-port={ports['client']}",
               f"--temp-dir={folder}"]  # fmt: skip
    home["PORTS"] = f"{ports['gcs']} {ports['dashboard']}"
    # In a group of its own: `ray stop` would end every Ray on this machine, those of other tests, too.
    with (folder / "said").open("w") as said:
        head = subprocess.Popen(command, env=home, stdout=said, stderr=said, start_new_session=True)
    try:
        _wait_for(ports["dashboard"], head, folder / "said")
        yield {**home, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard']}"}
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            head.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, head: subprocess.Popen[bytes], said: Path) -> None:
    for _ in range(240):
        assert head.poll() is None, said.read_text()
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(said.read_text())


def pellucid(*words: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["pellucid", *words], env=env, cwd=cwd, capture_output=True, text=True)


def test_a_submitted_command_gives_the_same_as_here_and_no_secret_is_told(cluster, tmp_path: Path) -> None:
    env = {**cluster, "HF_TOKEN": SECRET}
    done = pellucid("submit", "--follow", "--wait", "--pass-env", "HF_TOKEN", "--", *STUDY, "--workers", "1",
                    "--out", "there", env=env, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCEEDED" in done.stdout
    assert "Report: " in done.stdout  # what the command prints was streamed
    here = pellucid(*STUDY, "--out", "here", env=env, cwd=tmp_path)
    assert here.returncode == 0, here.stderr
    told = [json.loads((tmp_path / name / "result.json").read_text())["results"] for name in ("there", "here")]
    assert told[0] == told[1]
    ident = re.search(r"Submitted as (\S+)\.", done.stdout)[1]
    listed = pellucid("jobs", "--json", env=env, cwd=tmp_path)
    (job,) = (one for one in json.loads(listed.stdout) if one["id"] == ident)
    assert job["status"] == "SUCCEEDED"
    assert job["command"].startswith("influence truth --data iris")
    assert " INFO " not in done.stderr.replace("\t", " ")
    shown = pellucid("jobs", ident, env=env, cwd=tmp_path)
    assert "Report: " in shown.stdout
    for text in (done.stdout, done.stderr, listed.stdout, shown.stdout):
        assert SECRET not in text
    kept = [path for path in (tmp_path / "there").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


def test_a_job_that_fails_is_told_by_its_exit_code(cluster, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    done = pellucid("submit", "--wait", "--", "influence", "truth", "--data", "empty.csv", "--out", "o", env=cluster,
                    cwd=tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "empty.csv" in done.stderr.splitlines()[-1]  # what went wrong, although the log was not followed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["submit", "--", "influence", "truths"], "truths"),
        (["submit", "--", "influence", "truth", "--nonsense", "1", "--out", "o"], "nonsense"),
        (["submit", "--", "nothing"], "nothing"),
        (["submit", "--pass-env", "NO_SUCH_NAME", "--", *STUDY, "--out", "o"], "NO_SUCH_NAME"),
        (["submit", "--address", "127.0.0.1:1", "--", *STUDY, "--out", "o"], "give http://HOST:8265"),
        (["submit", "--address", "http://127.0.0.1:9", "--", *STUDY, "--out", "o"], "no Ray cluster answers"),
        (["jobs", "nobody"], "no job 'nobody'"),
        (["jobs", "--follow"], "needs the ID"),
    ],
)
def test_mistakes_are_one_line_here_and_no_job_there(words: list[str], told: str, cluster, tmp_path: Path) -> None:
    before = pellucid("jobs", "--json", env=cluster, cwd=tmp_path).stdout
    done = pellucid(*words, env=cluster, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert pellucid("jobs", "--json", env=cluster, cwd=tmp_path).stdout == before


def test_nothing_of_it_listens_beyond_this_machine(cluster) -> None:
    import psutil

    listening = [found.laddr for found in psutil.net_connections("tcp") if found.status == psutil.CONN_LISTEN]
    for port in map(int, cluster["PORTS"].split()):
        found = {address.ip.removeprefix("::ffff:") for address in listening if address.port == port}
        assert found == {"127.0.0.1"}
