"""A release is refused unless tag, version and CHANGELOG agree; one that passes was built and tried out."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def release(tag: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ".ci/release.py", tag], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("core-0.1", "write PACKAGE-vVERSION"),
        ("pellucid-nothing-v0.1.0", "there is no package 'pellucid-nothing'"),
        ("pellucid-zoo-v9.9.9", "pellucid-zoo declares version"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(tag: str, reason: str) -> None:
    done = release(tag)
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_package_is_built_and_tried_out() -> None:
    done = release("pellucid-core-v0.1.0")
    assert done.returncode == 0, done.stderr
    assert "pellucid-core-v0.1.0 is ready" in done.stdout
    assert {path.suffix for path in (ROOT / "dist/pellucid-core-v0.1.0").iterdir()} >= {".whl", ".gz"}


@pytest.mark.slow
def test_cores_lowest_declared_versions_go_together(tmp_path: Path) -> None:
    """Resolved, not installed: an old torch is gigabytes."""
    command = ["uv", "pip", "compile", "--quiet", "--no-sources", "--resolution", "lowest-direct", "--python-version",
               "3.11", "packages/core/pyproject.toml", "--output-file", str(tmp_path / "lowest.txt")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode and "error sending request" in done.stderr.lower():
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "lowest.txt").read_text()
    assert "torch==2.6.0" in text
    assert "transformers==5.0.0" in text
