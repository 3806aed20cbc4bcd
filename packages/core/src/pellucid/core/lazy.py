"""Lazy package exports (PEP 562), so that `import pellucid.x` and every `--help` stay quick."""

import importlib
from collections.abc import Callable
from typing import Any


def lazy_exports(package: str, homes: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's module-level `__getattr__` and `__dir__`.

    Args:
        package: the package's `__name__`.
        homes: exported name -> module that defines it: a submodule, as in `{"Site": "tracing"}`, or one of another
            package by its full name, as in `{"load_clip": "pellucid.core.clips"}`.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        return getattr(importlib.import_module(home if "." in home else f"{package}.{home}"), name)

    return get, lambda: sorted(homes)
