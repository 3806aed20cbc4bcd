"""What the page takes from a visitor, and the line that says so where it does not."""

from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

UPLOAD = 5 * 2**20  # bytes of a file; the server itself refuses more
DOCUMENT = 60_000  # characters
PIXELS = 4096 * 4096
WORDS = 500  # characters of a question, prompt or answer


def document(path: str | Path) -> str:
    """Read an uploaded text.

    Args:
        path: a UTF-8 text file.

    Raises:
        DataError: it is too large, empty, or no text.
    """
    file = Path(path)
    if file.stat().st_size > 4 * DOCUMENT:
        raise DataError(
            f"{file.name} has {file.stat().st_size:,} bytes: give a text of at most {DOCUMENT:,} characters"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{file.name} is no UTF-8 text: save it as plain text (.txt or .md) first") from None
    return checked_document(text)


def checked_document(text: str) -> str:
    """Return a text that was pasted.

    Raises:
        DataError: it is empty or too long.
    """
    if not text.strip():
        raise DataError("the document is empty: paste a text, or upload one")
    if len(text) > DOCUMENT:
        raise DataError(f"the document has {len(text):,} characters: give at most {DOCUMENT:,}")
    if "\0" in text:
        raise DataError("the document holds zero bytes: save it as plain text (.txt or .md) first")
    return text


def words(text: str | None, what: str) -> str:
    """Return what was typed, without the white space around it.

    Args:
        text: it.
        what: its name in an error, such as "question".

    Raises:
        DataError: it is empty or too long.
    """
    found = (text or "").strip()
    if not found:
        raise DataError(f"the {what} is empty: type one")
    if len(found) > WORDS:
        raise DataError(f"the {what} has {len(found)} characters: give at most {WORDS}")
    return found


def picture(path: str | Path | None) -> "Image":
    """Open an uploaded picture, as RGB.

    Raises:
        DataError: there is none, it is too large, or no picture.
    """
    from PIL import Image, UnidentifiedImageError

    if path is None:
        raise DataError("there is no picture: choose one, or upload one")
    file = Path(path)
    if file.stat().st_size > UPLOAD:
        raise DataError(f"{file.name} has {file.stat().st_size:,} bytes: give a picture of at most {UPLOAD:,}")
    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP", "GIF")) as opened:
            if opened.width * opened.height > PIXELS:
                raise DataError(f"{file.name} has {opened.width} x {opened.height} pixels: give at most 4096 x 4096")
            return opened.convert("RGB")
    except UnidentifiedImageError:
        raise DataError(f"{file.name} is no picture that can be read: give a PNG, JPEG, WebP, BMP or GIF") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise DataError(f"{file.name} is damaged: it cannot be decoded") from None
