"""What every command leaves in its `--out` folder: result.json, tables, figures and one page that shows them all.

`Report.write` checks everything first, then writes each file whole (a temporary file beside the target, then
`os.replace`), result.json last: a folder with a result.json holds a finished run.
"""

import base64
import csv
import dataclasses
import importlib.metadata
import io
import json
import math
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from .errors import DataError, OptionError
from .figures import COLOURS, figure_style, new_figure
from .outfolder import PAGE, RESULT, SCHEMA, listed_files, prepare_out, write_file, writing
from .passages import Mark, Passage

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "COLOURS",
    "RESULT",
    "SCHEMA",
    "Figure",
    "Mark",
    "Passage",
    "Report",
    "Section",
    "Table",
    "figure_style",
    "new_figure",
    "plain",
    "prepare_out",
    "versions",
]

_ROWS_SHOWN = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        name: of its file, `figures/NAME.png`: letters, digits, dots, dashes.
        figure: from `new_figure`, or any matplotlib figure.
        caption: what it shows, for everybody.
        alt: what can be read off it, for who cannot see it.
    """

    name: str
    figure: "Canvas"
    caption: str
    alt: str


@dataclass(frozen=True)
class Table:
    """A table; None is an empty cell.

    Attributes:
        name: of its file, `tables/NAME.csv`: letters, digits, dots, dashes.
        columns: their headings, units included.
        rows: each as long as `columns`: text, numbers, booleans or None.
        caption: what it shows.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a report: paragraphs, then marked texts, then figures, then tables.

    `lead` is what it found, in a sentence that stands below its title in the contents.
    """

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    passages: Sequence[Passage] = ()
    lead: str = ""

    def prefixed(self, prefix: str) -> "Section":
        """Return the section with `PREFIX-` before every file's name, so that several methods fit one report."""
        return dataclasses.replace(
            self,
            figures=[dataclasses.replace(figure, name=f"{prefix}-{figure.name}") for figure in self.figures],
            tables=[dataclasses.replace(table, name=f"{prefix}-{table.name}") for table in self.tables],
        )


@dataclass(frozen=True)
class Report:
    """The outcome of one command.

    Attributes:
        title: the page's heading.
        command: as the user typed it, such as `circuits extract`.
        config: what the run was asked to do: a mapping or a dataclass.
        seed: of every random choice; None where there is none.
        device: where it ran, such as `cpu` or `cuda (NVIDIA H100)`.
        sections: what the page shows, in order.
        results: the command's own numbers: mappings, sequences, dataclasses, paths, arrays, tensors.
        summary: the finding in one sentence.
        notes: what the reader should bear in mind.
    """

    title: str
    command: str
    config: Any
    seed: int | None
    device: str
    sections: Sequence[Section]
    results: Any
    summary: str
    notes: Sequence[str] = ()

    def write(self, out: Path, seconds: float) -> Path:
        """Write result.json, tables, figures and report.html.

        Files that an earlier result.json in the same folder lists and this one does not are removed.

        Args:
            out: the folder; see `prepare_out`.
            seconds: how long the run took.

        Returns:
            The path of report.html.

        Raises:
            DataError: if a number is not finite or a value has no form in JSON (naming where it stands), if a name
                is used twice or a row is too short, or if the folder cannot be written. Only the last of these can
                leave anything half done.
        """
        figures = [figure for section in self.sections for figure in section.figures]
        tables = [table for section in self.sections for table in section.tables]
        _check_names("figure", [figure.name for figure in figures])
        _check_names("table", [table.name for table in tables])
        cells = {table.name: _cells(table) for table in tables}
        result = plain(
            {
                "schema": SCHEMA,
                "command": self.command,
                "config": self.config,
                "seed": self.seed,
                "versions": versions(),
                "device": self.device,
                "seconds": seconds,
                "summary": self.summary,
                "figures": [
                    {"name": figure.name, "file": f"figures/{figure.name}.png", **_words(figure)} for figure in figures
                ],
                "tables": [
                    {
                        "name": table.name,
                        "file": f"tables/{table.name}.csv",
                        "caption": table.caption,
                        "columns": list(table.columns),
                        "rows": len(table.rows),
                    }
                    for table in tables
                ],
                "results": self.results,
            }
        )
        if not isinstance(result["config"], dict):
            raise OptionError(f"config is a {type(self.config).__name__}: give a mapping or a dataclass")
        images = {figure.name: _png(figure.figure) for figure in figures}
        page = _page(self, result, images, cells)
        earlier = listed_files(out)
        for name, image in images.items():
            write_file(out / "figures" / f"{name}.png", image)
        for table in tables:
            write_file(out / "tables" / f"{table.name}.csv", _csv(table.columns, cells[table.name]))
        write_file(out / PAGE, page.encode("utf-8", "replace"))
        # A lone surrogate (from an odd file name) becomes \udcXX, which is how JSON itself spells it.
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_file(out / RESULT, text.encode("utf-8", "backslashreplace"))
        for file in earlier - {entry["file"] for entry in result["figures"] + result["tables"]}:
            with writing(out / file):
                (out / file).unlink(missing_ok=True)
        return out / PAGE


def plain(value: Any, where: str = "") -> Any:
    """Return the value as JSON knows it: dict, list, str, int, float, bool, None.

    Args:
        value: mappings with simple keys, sequences, dataclasses, enums, paths, numpy and torch scalars, arrays and
            tensors (on any device), torch dtypes and devices, or a mixture of them.
        where: how errors name the value.

    Raises:
        DataError: for NaN, infinities and anything else, naming where it stands, such as `results.curve[3].effect`.
    """
    if value is None or (isinstance(value, bool | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return plain(value.value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{where or 'the value'} is {value}: JSON has no such number, and a result should not")
        return float(value)
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return _plain_mapping(value, where)
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    # Whoever holds an array has imported its library; nobody else should pay for it.
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy and isinstance(value, numpy.ndarray | numpy.generic):
        if value.dtype.kind in "biufU":
            return plain(value.tolist(), where)
    elif torch and isinstance(value, torch.Tensor):
        return plain(value.detach().cpu().tolist(), where)
    elif torch and isinstance(value, torch.dtype | torch.device):
        return str(value)
    raise DataError(f"{where or 'the value'} is a {type(value).__name__}, which cannot be written as JSON")


def versions() -> dict[str, str]:
    """Return the versions of Python, the libraries below and every installed Pellucid package, importing none."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "ray"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    ours: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        if (each.name or "").startswith("pellucid-"):
            ours.setdefault(each.name, each.version)  # the first on the path is the one that is imported
    return found | dict(sorted(ours.items()))


def _plain_mapping(value: Mapping[Any, Any], where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = str(plain(key, f"a key of {where}")) if not isinstance(key, tuple | list | Mapping) else None
        if name is None or name in result:
            raise DataError(f"{where or 'the value'} has the key {key!r}, which JSON cannot hold or holds already")
        result[name] = plain(item, f"{where}.{name}" if where else name)
    return result


def _words(figure: Figure) -> dict[str, str]:
    if not figure.alt.strip():
        raise OptionError(f"figure {figure.name!r} has no alt text: say what can be read off it")
    return {"caption": figure.caption, "alt": figure.alt}


def _cells(table: Table) -> list[list[Any]]:
    rows = []
    for index, row in enumerate(table.rows):
        where = f"tables.{table.name}.rows[{index}]"
        if len(row) != len(table.columns):
            raise DataError(f"{where} has {len(row)} cells for {len(table.columns)} columns")
        rows.append([plain(cell, f"{where}.{column}") for column, cell in zip(table.columns, row, strict=True)])
    return rows


def _check_names(kind: str, names: list[str]) -> None:
    # Case does not tell files apart everywhere.
    seen: set[str] = set()
    for name in names:
        if not _NAME.fullmatch(name):
            raise OptionError(f"{kind} {name!r} cannot name a file: use letters, digits, dots, dashes, underscores")
        if name.lower() in seen:
            raise OptionError(f"two {kind}s are named {name!r}: give each its own name (see Section.prefixed)")
        seen.add(name.lower())


def _png(canvas: "Canvas") -> bytes:
    buffer = io.BytesIO()
    with figure_style():
        # No software tag: the same figure gives the same bytes.
        canvas.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _csv(columns: Sequence[str], rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _shown(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, dict | list):
        return json.dumps(cell, ensure_ascii=False)
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _page(report: Report, result: Mapping[str, Any], images: dict[str, bytes], cells: dict[str, Any]) -> str:
    import jinja2

    template = Path(__file__).with_suffix(".html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"shown": _shown, "duration": _duration}
    return environment.from_string(template).render(
        report=report,
        result=result,
        images={name: "data:image/png;base64," + base64.b64encode(image).decode() for name, image in images.items()},
        cells=cells,
        shown_rows=_ROWS_SHOWN,
    )
