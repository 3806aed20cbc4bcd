"""Files inside installed wheels, found and checked by the wheel's own RECORD, without importing the package."""

import base64
import importlib.metadata
from pathlib import Path

from pellucid.core.errors import ModelError

from .cache import sha256_of


def wheel_file(distribution: str, suffix: str) -> importlib.metadata.PackagePath | None:
    """The first file with that suffix in an installed wheel's RECORD; None where it is not installed."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((file for file in files if file.suffix == suffix), None)


def promised_digest(distribution: str, record: importlib.metadata.PackagePath) -> str:
    """The SHA-256 that the wheel promises for the file, in hex.

    Raises:
        ModelError: the wheel promises none.
    """
    if record.hash is None or record.hash.mode != "sha256":
        raise ModelError(f"{distribution} is installed without a checksum for {record.name}: {reinstall(distribution)}")
    return base64.urlsafe_b64decode(record.hash.value + "=" * (-len(record.hash.value) % 4)).hex()


def checked_source(distribution: str, record: importlib.metadata.PackagePath) -> Path:
    """Where the file lies, once its content is found to be what the wheel promises.

    Raises:
        ModelError: it is missing or altered.
    """
    source = Path(str(record.locate()))
    if not source.is_file():
        raise ModelError(f"{source} is missing: {reinstall(distribution)}")
    if sha256_of(source) != promised_digest(distribution, record):
        raise ModelError(f"{source} is not the file that {distribution} was published with: {reinstall(distribution)}")
    return source


def reinstall(distribution: str) -> str:
    """The command that mends a damaged installation."""
    return f"pip install --no-deps --force-reinstall {distribution}"
