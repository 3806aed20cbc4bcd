"""The `pellucid` command with plugins of every sort: real ones, broken ones, and ones that fail while they run."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pellucid.core.cli import GROUP, LOCATE, main

PLUGIN = '''
"""A plugin with one command of every fate."""
import os
import sys
import time
from pathlib import Path

import typer

from pellucid.core.cli import LOCATE, Address, Device, Dtype, Fresh, Json, Model, Out, Seed, Workers, show
from pellucid.core.errors import DataError
from pellucid.core.report import Report, prepare_out

group = typer.Typer(help="Does [many] things. And more.", rich_help_panel=LOCATE)
single = typer.Typer()
lonely = typer.Typer(invoke_without_command=False)
not_an_app = {}


@group.command()
def run(
    model: Model,
    out: Out,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    workers: Workers = 0,
    address: Address = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Run it."""
    config = {"model": model, "dtype": dtype, "workers": workers, "address": address, "fresh": fresh}
    prepare_out(out, fresh)
    report = Report("Run", "plug run", config, seed, device, [], {"answer": 42}, "It is found.")
    report.write(out, 0.5)
    show(report, out, as_json)


@group.command()
def mend() -> None:
    raise DataError("facts.csv has no column 'answer':\\n  give one")


@group.command()
def defect() -> None:
    raise KeyError("gone")


@group.command()
def prompt() -> None:
    raise EOFError("a file ends early")


@group.command()
def words(count: int, word: list[str]) -> None:
    print(count, word)


@group.command()
def stop() -> None:
    raise KeyboardInterrupt


@group.command()
def socket() -> None:
    raise BrokenPipeError(32, "socket closed")


@group.command()
def leave(how: str) -> None:
    sys.exit({"none": None, "text": "so long", "three": 3}[how])


@group.command()
def flood() -> None:
    while True:
        print("all work and no play")


@group.command()
def wait(flag: Path) -> None:
    flag.write_text("here")
    time.sleep(60)


@single.command()
def only(out: Out = Path("there")) -> None:
    """The only command."""
    print("single", out)


@lonely.callback()
def callback(seed: Seed = 0) -> None:
    """A callback and nothing else."""
    print("lonely", seed)
'''

POINTS = """[pellucid.commands]
plug = plugin_for_tests:group
single = plugin_for_tests:single
lonely = plugin_for_tests:lonely
absent = plugin_for_tests:nothing
mapping = plugin_for_tests:not_an_app
missing = plugin_that_is_not_there:app
failing = plugin_that_fails:app
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed distribution that registers sub-commands, as pip would leave it."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "pellucid_fake-9.8.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pellucid-fake\nVersion: 9.8\n")
    (info / "entry_points.txt").write_text(POINTS)
    (folder / "plugin_for_tests.py").write_text(PLUGIN)
    (folder / "plugin_that_fails.py").write_text("raise RuntimeError('out of\\n[luck]')")
    return folder


@pytest.fixture
def here(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugins)


def process(plugins: Path, *words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(plugins), os.environ.get("PYTHONPATH", "")])
    code = "import sys; from pellucid.core.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        # A shell that runs the tests in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.usefixtures("here")
def test_help_lists_every_plugin_and_why_some_cannot_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "plug Does [many] things. And more." in text
    assert "single The only command." in text
    assert "missing (cannot be loaded: No module named 'plugin_that_is_not_there')" in text
    assert "failing (cannot be loaded: RuntimeError: out of [luck])" in text
    assert "mapping (cannot be loaded: TypeError: plugin_for_tests:not_an_app is a dict, not a typer.Typer)" in text
    assert "absent (cannot be loaded: AttributeError:" in text


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", [["missing"], ["missing", "--help"], ["missing", "run", "--out", "x"]])
def test_calling_a_broken_plugin_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err == "pellucid: missing cannot be loaded: No module named 'plugin_that_is_not_there'\n"
    assert not shown.out


@pytest.mark.usefixtures("here")
def test_only_the_named_plugin_is_imported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "plugin_for_tests", raising=False)
    for words in (["missing"], ["--version"], ["nothing-of-that-name"]):
        main(words)
    assert "plugin_for_tests" not in sys.modules
    assert main(["single"]) == 0
    assert "plugin_for_tests" in sys.modules


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["single", "--out", "place"], "single place"),
        (["lonely", "--seed", "4"], "lonely 4"),
        (["plug", "words", "3", "a", "b"], "3 ['a', 'b']"),
        (["plug", "words", "3", "--", "--debug"], "3 ['--debug']"),
        (["plug", "words", "--debug", "3", "a"], "3 ['a']"),
    ],
)
def test_apps_of_one_command_and_of_many(words: list[str], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == printed


@pytest.mark.usefixtures("here")
def test_help_of_a_sub_command_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plug", "run", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--model", "--out", "--seed", "--device", "--dtype", "--workers", "--address", "--json"):
        assert option in text
    assert "--fresh / --resume" in text
    assert "default: resume" in " ".join(text.split())
    assert "╭" not in text
    assert main(["plug", "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: pellucid plug [OPTIONS] COMMAND" in text
    assert "completion" not in text


@pytest.mark.usefixtures("here")
def test_the_roots_help_groups_commands_by_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    sections = capsys.readouterr().out.split("\n\n")
    located = next(text for text in sections if text.startswith(LOCATE))
    assert "plug " in located
    assert "Does [many] things" in located
    other = next(text for text in sections if text.startswith("More:"))
    assert "cannot be loaded" in other


@pytest.mark.parametrize(
    ("words", "place", "found"),
    [("pellucid do", 1, "doctor"), ("pellucid doctor --js", 2, "--json")],
)
def test_a_shell_completes_commands_and_options(words: str, place: int, found: str) -> None:
    asked = {"_PELLUCID_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    done = subprocess.run(["pellucid"], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split() == [found], done.stderr


@pytest.mark.usefixtures("here")
def test_shared_options_reach_the_function_and_json_is_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plug", "run", "--model", "zoo:tiny", "--out", str(tmp_path), "--dtype", "float16", "--workers", "2"]
    assert main([*words, "--fresh", "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "result.json").read_text()
    assert json.loads(printed)["config"] == {
        "model": "zoo:tiny",
        "dtype": "float16",
        "workers": 2,
        "address": None,
        "fresh": True,
    }
    assert main(words) == 0
    assert capsys.readouterr().out == f"It is found.\n\nReport: {tmp_path / 'report.html'}\n"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plug", "run", "--model", "m", "--out", "o", "--dtype", "int3"], "'int3' is not one of auto, float32"),
        (["plug", "run", "--model", "m", "--out", "o", "--workers", "-1"], "'--workers'"),
        (["plug", "run", "--model", "m"], "Missing option '--out'"),
        (["plugs"], "Did you mean 'plug'"),
        (["plug", "words", "many", "a"], "'count'"),
    ],
)
def test_mistakes_of_usage_exit_with_two(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Usage: pellucid" in shown.err
    assert "Traceback" not in shown.err
    assert not shown.out


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        ("mend", 2, "pellucid: facts.csv has no column 'answer': give one"),
        ("defect", 1, "pellucid: KeyError: 'gone' (a defect; run again with --debug for the traceback)"),
        ("prompt", 1, "pellucid: EOFError: a file ends early (a defect; run again with --debug for the traceback)"),
        (
            "socket",
            1,
            "pellucid: BrokenPipeError: [Errno 32] socket closed (a defect; run again with --debug for the traceback)",
        ),
        ("stop", 130, "pellucid: stopped; what a ledger holds is kept, run the same command again to go on"),
    ],
)
def test_every_error_is_one_line_unless_debugged(
    command: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plug", command]) == code
    assert capsys.readouterr().err == line + "\n"
    for words in (["plug", command, "--debug"], ["--debug", "plug", command], ["plug", "--debug", command]):
        assert main(words) == code
        shown = capsys.readouterr().err
        assert shown.startswith("Traceback (most recent call last)")
        assert "plugin_for_tests.py" in shown
        assert shown.endswith(line + "\n")


def test_stopping_a_fresh_run_does_not_advise_to_start_afresh(
    here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pellucid.core.report.Report.write", interrupted)
    assert main(["plug", "run", "--model", "m", "--out", str(tmp_path), "--fresh"]) == 130
    assert "run the same command without --fresh to go on" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("how", "code", "text"), [("none", 0, ""), ("text", 1, "so long\n"), ("three", 3, "")])
def test_a_command_may_exit_by_itself(how: str, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plug", "leave", how]) == code
    assert capsys.readouterr().err == text


@pytest.mark.usefixtures("here")
def test_version_lists_installed_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "pellucid-fake 9.8" in lines
    assert any(line.startswith("pellucid-core ") for line in lines)
    assert all(line.startswith("pellucid-") for line in lines)


def test_a_reader_that_goes_away_is_met_with_silence(plugins: Path) -> None:
    running = process(plugins, "plug", "flood")
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline() == "all work and no play\n"
    running.stdout.close()
    assert running.stderr.read() == ""
    running.stderr.close()
    assert running.wait(30) == 1


def test_output_that_fits_the_buffer_is_met_with_silence_too(plugins: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    running = process(plugins, "--version", stdout=write)
    os.close(write)
    assert running.communicate(timeout=30)[1] == ""
    assert running.returncode == 1


def test_control_c_is_one_line(plugins: Path, tmp_path: Path) -> None:
    flag = tmp_path / "started"
    running = process(plugins, "plug", "wait", str(flag))
    until = time.monotonic() + 30
    while not flag.exists() and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, "")
    assert err == "pellucid: stopped; what a ledger holds is kept, run the same command again to go on\n"


def every_help() -> list[list[str]]:
    """The root's help and that of every sub-command installed here (those that load at all)."""
    names = sorted({point.name for point in entry_points(group=GROUP)})
    return [["--help"], ["--version"], *([name, "--help"] for name in names)]


@pytest.mark.parametrize("words", every_help(), ids=" ".join)
def test_no_help_imports_anything_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom pellucid.core.cli import main\nmain(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'ray', 'matplotlib', 'scipy', 'pyarrow', 'diffusers'} & set(sys.modules)\n"
        "sys.exit('imported: ' + ', '.join(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
