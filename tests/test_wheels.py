"""Each package works when installed alone from its wheel: nothing undeclared is needed, and its README's example runs.

The clean environments share uv's cache with the workspace, so that torch is linked rather than fetched again.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEMBERS = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


def run(*command, cwd=ROOT, **env):
    clean = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean | env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """Every package of the workspace, built."""
    out = tmp_path_factory.mktemp("wheels")
    for member in MEMBERS:
        run("uv", "build", "--wheel", "--quiet", "--out-dir", out, member)
    return out


@pytest.fixture(scope="session")
def pins(tmp_path_factory):
    """The lock's versions as constraints, so that no newer release is fetched in the middle of a test."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    once = {}
    for package in lock["package"]:
        once.setdefault(package["name"], set()).add(package.get("version"))
    lines = [
        f"{name}=={versions.pop()}" for name, versions in once.items() if len(versions) == 1 and "pellucid" not in name
    ]
    file = tmp_path_factory.mktemp("pins") / "constraints.txt"
    file.write_text("\n".join(lines))
    return file


def first_example(member):
    return re.search(r"```python\n(.*?)```", (member / "README.md").read_text(), re.DOTALL).group(1)


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: path.name)
def test_a_package_installs_alone_and_its_example_runs(member, wheels, pins, tmp_path):
    name = tomllib.loads((member / "pyproject.toml").read_text())["project"]["name"]
    run("uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    run("uv", "pip", "install", "--quiet", "--python", python, "--find-links", wheels, "--constraint", pins, name)
    (tmp_path / "example.py").write_text(first_example(member))
    module = f"pellucid.{member.name.replace('-', '_')}"
    run(python, "-W", "error", "-c", f"import {module}", cwd=tmp_path)
    run(python, "example.py", cwd=tmp_path)
    files = [file.stem for file in (member / "src").glob("pellucid/*/*.py") if file.stem != "__init__"]
    run(python, "-c", "\n".join(f"import {module}.{file}" for file in files), cwd=tmp_path)
    assert "doctor" in run(tmp_path / "env" / "bin" / "pellucid", "--help", cwd=tmp_path)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: path.name)
def test_wheels_hold_types_and_no_namespace_init(member, wheels):
    import zipfile

    (wheel,) = wheels.glob(f"pellucid_{member.name.replace('-', '_')}-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("py.typed") for name in names)
    assert "pellucid/__init__.py" not in names
    assert not [name for name in names if "/tests/" in name]


def test_siblings_accept_each_others_versions():
    versions, bounds = {}, []
    for file in ROOT.glob("*/*/pyproject.toml"):
        project = tomllib.loads(file.read_text())["project"]
        versions[project["name"]] = project["version"]
        bounds += [d for d in project["dependencies"] if d.startswith("pellucid-")]
        bounds += [d for extra in project.get("optional-dependencies", {}).values() for d in extra if "pellucid-" in d]
    from packaging.requirements import Requirement

    for bound in bounds:
        requirement = Requirement(bound)
        assert requirement.specifier.contains(versions[requirement.name]), bound
        assert {s.operator for s in requirement.specifier} == {">=", "<"}, f"{bound}: give both bounds"
