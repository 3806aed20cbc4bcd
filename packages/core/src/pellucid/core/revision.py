"""What identifies a model's weights: the hub's commit, or a hash over a local folder's content."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .assets import check_folder, check_weights
from .errors import ModelError, OptionError

# What changes a model's output: its config and code, its weights, and how text becomes tokens.
_PATTERNS = (
    *("config.json", "*.py", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.jinja"),
)
_FIXED = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}")
TIMEOUT = 10.0  # seconds that the hub has for its first answer


@dataclass(frozen=True)
class Snapshot:
    """A commit of a hub model.

    Attributes:
        name: the hub id.
        commit: its hash.
        folder: where it lies in the hub's local cache, if that had to be asked.
    """

    name: str
    commit: str
    folder: Path | None


def is_fixed(revision: str | None) -> bool:
    """Whether a revision is a commit or a content hash, not a branch or tag, which can move."""
    return revision is not None and _FIXED.fullmatch(revision) is not None


def content_hash(folder: Path) -> str:
    """`sha256:` and a hash over the names and contents of a model folder's config, weights and tokenizer.

    Within a process a file is read once, as long as its size and time of change stay.
    """
    paths = {path for pattern in _PATTERNS for path in folder.glob(pattern)}
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        found = path.stat()
        total.update(f"{path.name}\0{_file_hash(path.resolve(), found.st_size, found.st_mtime_ns)}\n".encode())
    return f"sha256:{total.hexdigest()}"


@cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_on_hub(name: str, revision: str | None) -> Snapshot:
    """Find the commit that a hub id and revision mean; asks the local cache where the hub cannot be reached.

    Raises:
        OptionError: the hub has no such model or revision.
        ModelError: the model needs a licence, has no safetensors, or neither the hub nor the cache can be asked.
    """
    snapshot, files = ask_hub(name, revision, "zoo:smollm2")
    if snapshot.folder is None:
        check_weights(name, files, name)
    else:
        check_folder(snapshot.folder)
    return snapshot


def ask_hub(name: str, revision: str | None, instead: str) -> tuple[Snapshot, list[str]]:
    """The commit that a hub id and revision mean, and its files' names where the hub itself was reached.

    Args:
        name: the hub id.
        revision: a branch, tag or commit.
        instead: what an error names as a model that needs no hub, such as "zoo:smollm2".

    Raises:
        OptionError: the hub has no such model or revision.
        ModelError: the model needs a licence, or neither the hub nor the cache can be asked.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import model_info, snapshot_download

    try:
        # `model_info` tries once. Downloads and `from_pretrained` try for half a minute before they give up.
        found = model_info(name, revision=revision, timeout=TIMEOUT)
    except hub.GatedRepoError as error:
        raise ModelError(
            f"{name} asks for its licence: accept it at huggingface.co/{name}, then `hf auth login`"
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise OptionError(
            f"the hub has no model {name!r}: check the name, or `hf auth login` if it is private"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise OptionError(f"{name} has no revision {revision!r} on the hub") from error
    except Exception as reason:  # offline mode, no network, a proxy's refusal: several libraries' classes
        try:
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        except Exception as error:
            said = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
            raise ModelError(
                f"{name} is neither a folder here nor in the hub's cache, and the hub was not reached ({said}): "
                f"connect, or give a local folder or {instead}"
            ) from error
        return Snapshot(name, folder.name, folder), []
    if found.sha is None:
        raise ModelError(f"the hub gave no commit for {name}: try again, or download it and give the folder")
    return Snapshot(name, found.sha, None), [file.rfilename for file in found.siblings or ()]
