"""Git clean filter for `uv.lock`: keeps every pinned version, drops every registry address.

Reads a lock file on standard input, writes the same lock on standard output without file lists
(`sdist`, `wheels`), without `[package.metadata]` tables, and with `registry = "."`. From that uv
re-resolves in seconds to the same versions and fills the addresses in again locally.
Set it up once a clone:  git config filter.uvlock.clean "python3 .ci/clean_lock.py"
"""

import re
import sys


def clean(text: str) -> str:
    """Return the lock `text` without addresses; cleaning twice changes nothing."""
    text = re.sub(r"^wheels = \[\n(?:    .*\n)*\]\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(?:sdist|wheels) = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\[package\.metadata(?:\.[\w-]+)?\]\n(?:(?!\[)(?:.+\n|\n(?!\[)))*\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r'registry = "[^"]*"', 'registry = "."', text)
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    sys.stdout.write(clean(sys.stdin.read()))
