"""Keys: what a value IS, as a hash that is the same in every process, on every machine, in any dict order."""

import dataclasses
import enum
import hashlib
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..errors import OptionError


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's content, as 64 hexadecimal digits.

    Known are None, bool, int, float, str, bytes, enums, paths (the path, not the file), lists and tuples (alike),
    dicts (whatever their order), NumPy arrays and scalars, torch tensors, and dataclasses of all these. A dataclass
    field declared `compare=False` is left out: that is for what changes how a thing is computed but not the result.

    Raises:
        OptionError: the value, or one inside it, is of another type.
    """
    hasher = hashlib.sha256()
    for piece in _pieces(value, "value"):
        hasher.update(piece)
    return hasher.hexdigest()


def function_name(function: Callable[..., Any]) -> str:
    """Return `module.qualname` of a function; a script run as `__main__` goes by its module's or file's name.

    Raises:
        OptionError: the function has no name that tells it from others (a lambda, a partial, a callable object).
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name or "<lambda>" in name:
        raise OptionError(f"a sweep needs a function with a name of its own, not {function!r}: define one with def")
    if module == "__main__":
        # Two scripts may both hold `__main__.measure`, and must not take each other's rows for their own.
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(file).stem if file else module
    return f"{module}.{name}"


def cell_key(function: str, version: str, shared_digest: str, cell: Any) -> str:
    """Return a cell's key: a hash of the function's name and version, the shared data's digest, and the parameters."""
    return digest([function, version, shared_digest, cell])


def cell_seed(key: str) -> int:
    """Return a cell's seed, from its key: below 2**32, which every generator takes (`numpy.random.seed` no more)."""
    return int(key[:8], 16)


def _pieces(value: Any, where: str) -> Iterator[bytes | memoryview]:
    """Yield bytes that no other value yields: each piece carries a tag, and a length where it has no fixed one."""
    # Enums first (IntEnum is an int), bool before int (bool is an int), NumPy scalars before float (float64 is one).
    if isinstance(value, enum.Enum):
        yield from _text(b"e", f"{type(value).__qualname__}.{value.name}")
    elif isinstance(value, np.generic):
        yield from _pieces(value.item(), where)
    elif value is None or isinstance(value, bool):
        yield {None: b"N", True: b"T", False: b"F"}[value]
    elif isinstance(value, int):
        yield from _text(b"i", str(value))
    elif isinstance(value, float):
        yield b"f" + struct.pack(">d", value)
    elif isinstance(value, str):
        yield from _text(b"s", value)
    elif isinstance(value, bytes):
        yield b"b%d:" % len(value)
        yield value
    elif isinstance(value, PurePath):
        yield from _text(b"p", value.as_posix())
    elif isinstance(value, list | tuple):
        yield b"l%d:" % len(value)
        for place, item in enumerate(value):
            yield from _pieces(item, f"{where}[{place}]")
    elif isinstance(value, dict):
        yield b"d%d:" % len(value)
        for key_digest, key in sorted((digest(key), key) for key in value):
            yield key_digest.encode()
            yield from _pieces(value[key], f"{where}[{key!r}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = [field.name for field in dataclasses.fields(value) if field.compare]
        yield from _text(b"D", type(value).__qualname__)
        yield b"%d:" % len(known)
        for name in known:
            yield from _text(b"s", name)
            yield from _pieces(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, np.ndarray):
        yield from _array(b"a", value, value.dtype.str, value.shape, where)
    elif "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        yield from _tensor(value, where)
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise OptionError(
            f"{where} is a {kind}, whose content cannot be hashed: give plain values, arrays, tensors or dataclasses"
        )


def _text(tag: bytes, text: str) -> Iterator[bytes]:
    encoded = text.encode("utf-8", "surrogatepass")
    yield b"%s%d:" % (tag, len(encoded))
    yield encoded


def _array(
    tag: bytes, array: np.ndarray, kind: str, shape: tuple[int, ...], where: str
) -> Iterator[bytes | memoryview]:
    if array.dtype.hasobject:
        raise OptionError(f"{where} is an array of Python objects, whose content cannot be hashed: give numbers")
    yield from _text(tag, f"{kind}{tuple(shape)}")
    if array.size:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _tensor(tensor: Any, where: str) -> Iterator[bytes | memoryview]:
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise OptionError(f"{where} is a {tensor.layout} tensor on {tensor.device}: give a dense one that holds values")
    # Viewed as bytes because NumPy has no bfloat16; `resolve_conj` because a conjugate's bytes are its base's.
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
    yield from _array(b"t", dense, str(tensor.dtype), tuple(tensor.shape), where)
