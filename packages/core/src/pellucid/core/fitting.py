"""Whether a model's weights fit where they are to go, told before they are read."""

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelError

if TYPE_CHECKING:
    from .loading import ModelSpec

_STORED = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_ASKED = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
_QUANTIZED = {"nf4": 0.516, "int8": 1.0}  # bytes a weight, the blocks' scales included


def check_fits(spec: "ModelSpec", folder: Path) -> None:
    """Refuse a model whose weights cannot go whole where the spec puts them.

    A model that is spread (`device_map`, `max_memory`) always finds a place: what is left over stays on disk.

    Args:
        spec: what is asked for.
        folder: where its safetensors lie.

    Raises:
        ModelError: the weights need more than is free there; the message has the arithmetic and the mend.
    """
    if spec.device_map is not None or spec.max_memory is not None:
        return
    count, stored = count_weights(folder)
    each = _QUANTIZED[spec.quantize] if spec.quantize else _ASKED.get(spec.dtype, stored / max(count, 1))
    device = spec.device or "cpu"
    free = free_memory(device)
    if count * each <= free:
        return
    kind = spec.quantize or spec.dtype
    mends = [f"quantize to nf4 ({count * _QUANTIZED['nf4'] / 1e9:.1f} GB)"] if spec.quantize != "nf4" else []
    mends.append('spread it (device_map="auto" or max_memory, without a device)')
    raise ModelError(
        f"{spec.name}: {count / 1e9:.3g} billion weights x {each:.3g} bytes ({kind}) = {count * each / 1e9:.3g} GB do "
        f"not fit into the {free / 1e9:.3g} GB that are free on {device}: {', or '.join(mends)}"
    )


def count_weights(folder: Path) -> tuple[int, int]:
    """How many numbers a folder's safetensors hold, and how many bytes they take there, from their headers alone.

    Raises:
        ModelError: a file is cut off or no safetensors.
    """
    count = size = 0
    for path in sorted(folder.glob("model*.safetensors")):
        for about in _header(path).values():
            numbers = 1
            for length in about["shape"]:
                numbers *= length
            count += numbers
            size += numbers * _STORED.get(about["dtype"], 1)
    return count, size


def free_memory(device: str) -> int:
    """Bytes that are free on a device: "cpu", or one of CUDA's; a device of another kind is taken as the machine."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error, MemoryError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: copy or download it again") from error
    header.pop("__metadata__", None)
    return dict(header)
