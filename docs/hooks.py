"""Pages that are written once elsewhere: READMEs, the options of every command, and what packages export."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pellucid.core.cli import app

ROOT = Path(__file__).parents[1]

# What a package answers, the command that asks, and where the thesis says it.
METHODS = {
    "qa-circuits": ("Which heads of a language model take an answer from the context?", "circuits", "chapters 8, 11.8"),
    "influence": ("Which training examples does a prediction rest on?", "influence", "chapter 3"),
    "fewshot-hard": ("On which small tasks does a few-shot classifier fail?", "fewshot", "chapter 4"),
    "t2i-edit": ("Where does a text-to-image model keep a style, an object, a fact?", "t2i", "chapter 5"),
    "mllm-edit": ("Where does a multimodal model keep a fact, and how is it corrected?", "mllm", "chapter 6"),
    "vit-components": ("What does each head and MLP of a vision transformer say?", "vit", "chapter 7"),
    "compose": ("Does a model know who has which colour?", "compose", "chapter 9"),
    "zoo": ("What is there to try all that on, without a hub?", "zoo", "Tinyworld is ours"),
}
_COPIED = {
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "how-to/cluster.md": "cluster/README.md",
    **{f"programs/{name}.md": f"apps/{name}/README.md" for name in ("tour", "studio", "reproduce", "bench")},
    **{f"results/{name}.md": f"apps/{name}/RESULTS.md" for name in ("reproduce", "bench")},
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written elsewhere."""
    pages = {name: _text(source) for name, source in _COPIED.items()}
    for package in METHODS:
        pages[f"methods/{package}.md"] = method_page(package)
    for package in ("core", *METHODS):
        pages[f"api/{package}.md"] = api_page(package)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=without_links(text)))
    return files


def method_page(package: str) -> str:
    """A package's README, with what it answers before it and its commands' options behind it."""
    question, command, thesis = METHODS[package]
    title, _, body = _text(f"packages/{package}/README.md").partition("\n")
    options = "\n\n".join(f"### pellucid {command} {name}\n```text\n{told}\n```" for name, told in helps(command))
    return (
        f"{title}\n\n**{question}** Thesis: {thesis}. Install: `pip install pellucid-{package}`.\n{body}\n"
        f"## Options\n{options}\n\n## In Python\nSee the [API](../api/{package}.md).\n"
    )


def api_page(package: str) -> str:
    """What a package exports, module by module, from its docstrings."""
    module = f"pellucid.{package.replace('-', '_')}"
    tree = ast.parse(_text(f"packages/{package}/src/{module.replace('.', '/')}/__init__.py"))
    homes = next(ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.Dict))
    own = sorted({f"{module}.{home}" for home in homes.values() if "." not in home})
    places = [*own, *sorted({home for home in homes.values() if "." in home})]
    return f"# {module}\n\n" + "\n\n".join(f"::: {place}" for place in places) + "\n"


def helps(name: str) -> Iterator[tuple[str, str]]:
    """A command's sub-commands, and what `--help` says of each."""
    root: Any = typer.main.get_command(app)
    group = root.commands[name]
    with group.make_context(f"pellucid {name}", [], resilient_parsing=True) as context:
        for sub, command in group.commands.items():
            with command.make_context(sub, [], parent=context, resilient_parsing=True) as inner:
                yield sub, str(command.get_help(inner)).strip()


def without_links(text: str) -> str:
    """The text without links into the repository, which lead nowhere on the site; the words stay."""
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#|\.\./api/)[^)]+\)", r"\1", text)


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
