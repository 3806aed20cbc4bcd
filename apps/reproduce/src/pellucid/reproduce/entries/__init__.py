"""The entries, a file a package, in the order of the thesis."""

from pellucid.core.errors import OptionError

from ..entry import Entry
from .circuits import CIRCUITS
from .compose import COMPOSE
from .fewshot import FEWSHOT
from .influence import INFLUENCE
from .mllm import MLLM
from .t2i import T2I
from .vit import VIT


def _order(entry: Entry) -> tuple[int, int, str]:
    kind, _, number = entry.id.partition("-")
    chapter, _, place = number.partition(".")
    return int(chapter), int(place), kind


ENTRIES = tuple(sorted((*INFLUENCE, *FEWSHOT, *T2I, *MLLM, *VIT, *CIRCUITS, *COMPOSE), key=_order))
PACKAGES = tuple(dict.fromkeys(entry.package for entry in ENTRIES))


def find(name: str) -> Entry:
    """The entry of that id, such as `figure-3.2` (`fig-3.2` and `3.2`, where a figure, are understood).

    Raises:
        OptionError: there is none.
    """
    number = name.lower().replace("fig-", "figure-")
    for wanted in (number, f"figure-{number}"):
        for entry in ENTRIES:
            if entry.id == wanted:
                return entry
    raise OptionError(f"there is no entry {name!r}: pellucid reproduce --list shows them, such as {ENTRIES[0].id}")


def of_package(package: str) -> tuple[Entry, ...]:
    """The entries of a package.

    Raises:
        OptionError: there are none.
    """
    some = tuple(entry for entry in ENTRIES if entry.package == package)
    if not some:
        raise OptionError(f"--package {package!r}: choose {', '.join(PACKAGES)}")
    return some
