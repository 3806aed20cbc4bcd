"""The Python blocks of every README and of the documentation run as written, in this environment."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from pellucid.core.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*/*/README.md"), ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
COMMANDS = (
    *("circuits", "influence", "fewshot", "t2i", "vit", "mllm", "compose", "tour", "bench", "zoo", "doctor"),
    *("reproduce", "studio", "submit", "jobs"),
)
BLOCKS = [
    pytest.param(block, id=f"{page.parent.name}-{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_readme_block_runs(block, tmp_path):
    (tmp_path / "block.py").write_text(block)
    done = subprocess.run([sys.executable, "block.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_pages_exist():
    """Every `pellucid ...` line is of a command that there is, with options that it has."""
    pattern = rf"(?:uv run )?pellucid ((?:{'|'.join(COMMANDS)})[^\n`]*)"
    lines = {line for page in PAGES for line in re.findall(pattern, page.read_text())}
    assert len(lines) > 50
    for line in sorted(lines):
        named = itertools.takewhile(lambda word: re.fullmatch(r"[a-z][a-z0-9-]*", word), line.split()[:2])
        command: Any = typer.main.get_command(app)
        for name in named:
            if name not in getattr(command, "commands", {}):
                assert not getattr(command, "commands", {}), f"`pellucid {line}`: no {name}"
                break
            command = command.commands[name]
        known = {"--help"} | {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", line.partition(" -- ")[0]):
            assert option in known, f"`pellucid {line}`: no {option}"
