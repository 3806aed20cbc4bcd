"""The Python blocks of every README run as written, in this environment."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = [
    pytest.param(block, id=f"{file.parent.name}-{number}")
    for file in sorted([*ROOT.glob("*/*/README.md"), ROOT / "README.md"])
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_readme_block_runs(block, tmp_path):
    (tmp_path / "block.py").write_text(block)
    done = subprocess.run([sys.executable, "block.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_of_the_readme_exist():
    """Every `pellucid ...` line of a README is accepted up to its options' names."""
    files = [*ROOT.glob("*/*/README.md"), ROOT / "README.md"]
    lines = {
        line
        for f in files
        for line in re.findall(
            r"(?:uv run )?pellucid ((?:circuits|influence|fewshot|t2i|tour|bench|zoo)[^\n`]*)", f.read_text()
        )
    }
    assert lines
    for line in sorted(lines):
        words = line.split()
        commands = [word for word in words[:2] if re.fullmatch(r"[a-z][a-z0-9-]*", word)]
        done = subprocess.run(["pellucid", *commands, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, f"pellucid {line}: {done.stderr}"
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", line):
            assert option in done.stdout, f"`pellucid {line}`: no {option}"
