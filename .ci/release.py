"""Build one package for release and check it: `python .ci/release.py pellucid-core-v0.2.0`. It uploads nothing."""

import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TAG = re.compile(r"(pellucid-[a-z0-9-]+)-v(\d+\.\d+\.\d+)")


def main(tag: str) -> int:
    """Check the tag against the package, build it, try it out, and say what would be uploaded."""
    found = TAG.fullmatch(tag)
    if found is None:
        return _refuse(f"{tag!r} is no tag of a release: write PACKAGE-vVERSION, such as pellucid-core-v0.2.0")
    name, version = found[1], found[2]
    members = {_project(path)["name"]: path.parent for path in ROOT.glob("*/*/pyproject.toml")}
    if name not in members:
        return _refuse(f"there is no package {name!r}: the workspace has {', '.join(sorted(members))}")
    member = members[name]
    if (declared := _project(member / "pyproject.toml")["version"]) != version:
        return _refuse(f"{name} declares version {declared}, not {version}: change its pyproject.toml or the tag")
    if f"## {version}\n" not in (member / "CHANGELOG.md").read_text():
        return _refuse(f'{name}\'s CHANGELOG.md has no heading "## {version}": say what changed')
    out = ROOT / "dist" / tag
    _run("uv", "build", "--quiet", "--clear", "--out-dir", out, member)
    (wheel,) = out.glob("*.whl")
    about = _metadata(wheel)
    if (about["Name"], about["Version"]) != (name, version):
        return _refuse(f"{wheel.name} says {about['Name']} {about['Version']}, not {name} {version}")
    for field in ("Summary", "License-Expression", "Requires-Python", "Description-Content-Type"):
        if not about[field]:
            return _refuse(f"{wheel.name} has no {field}: complete {member.relative_to(ROOT)}/pyproject.toml")
    _try_out(name, member, wheel, [path for path in members.values() if path != member])
    print(f"{tag} is ready; to upload: " + " ".join(str(file.relative_to(ROOT)) for file in sorted(out.iterdir())))
    return 0


def _try_out(name: str, member: Path, wheel: Path, siblings: list[Path]) -> None:
    """Install the wheel into an environment of its own, and run the first example of its README there."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for sibling in siblings:  # as they are in this commit
            _run("uv", "build", "--quiet", "--wheel", "--out-dir", place / "wheels", sibling)
        _run("uv", "venv", "--quiet", "--python", sys.executable, place / "env")
        python = place / "env/bin/python"
        _run("uv", "pip", "install", "--quiet", "--python", python, "--find-links", place / "wheels", wheel)
        example = re.search(r"```python\n(.*?)```", (member / "README.md").read_text(), re.DOTALL)
        module = name.replace("pellucid-", "pellucid.").replace("-", "_")
        (place / "example.py").write_text(example[1] if example else f"import {module}")
        _run(python, "example.py", cwd=place)


def _project(path: Path) -> dict[str, Any]:
    return dict(tomllib.loads(path.read_text())["project"])


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as content:
        file = next(entry for entry in content.namelist() if entry.endswith(".dist-info/METADATA"))
        return Parser().parsestr(content.read(file).decode())


def _run(*command: object, cwd: Path = ROOT) -> None:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


def _refuse(reason: str) -> int:
    print(f"no release: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("give one tag, such as pellucid-core-v0.2.0")
    raise SystemExit(main(sys.argv[1]))
