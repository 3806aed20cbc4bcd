"""A sentence encoder on transformers alone: mean over the tokens' last states, scaled to length one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.assets import find_folder
from pellucid.core.errors import DataError, ModelError
from pellucid.core.quiet import quiet
from torch import Tensor

from .prompts import batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "sentence-transformers/all-mpnet-base-v2"
BATCH = 32  # texts in one forward pass


@dataclass(frozen=True)
class SentenceEncoder:
    """A text encoder whose tokens are averaged into one vector a text.

    Attributes:
        model: an encoder such as MPNet or BERT, in eval mode.
        tokenizer: its tokenizer.
        longest: tokens read of each text; the rest is cut off.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    longest: int

    @classmethod
    def load(cls, name: str | Path = DEFAULT, device: str = "cpu") -> "SentenceEncoder":
        """Load an encoder from `zoo:minilm`, a folder or the hub; safetensors only, and none of its own code is run.

        Raises:
            ModelError: it is not there, or cannot be loaded.
            OptionError: the name can be neither a folder nor a hub id.
        """
        from transformers import AutoModel, AutoTokenizer

        folder = find_folder(str(name))
        where = str(name) if folder is None else str(folder)
        source: dict[str, Any] = {} if folder is None else {"local_files_only": True}
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(where, **source)
                model: Any = AutoModel.from_pretrained(where, use_safetensors=True, **source)
        except Exception as error:  # transformers raises a dozen classes for what is wrong with a checkpoint
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(
                f"the sentence encoder {name} cannot be loaded ({reason}): "
                "give a folder, or zoo:minilm, which needs no hub"
            ) from error
        # MPNet and RoBERTa begin to count their positions at 2.
        longest = min(int(tokenizer.model_max_length), int(model.config.max_position_embeddings) - 2)
        return cls(model.to(device).eval().requires_grad_(False), tokenizer, longest)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of length one for texts: `(texts, width)`, float32, on the processor.

        Raises:
            DataError: there are no texts.
        """
        if not texts:
            raise DataError("there is no text to encode: give one or more")
        vectors: dict[int, Tensor] = {}
        for chosen in batches([len(text) for text in texts], BATCH):
            batch = self.tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=self.longest,
                return_tensors="pt",
            ).to(self.model.device)
            states = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            vectors |= dict(zip(chosen, torch.nn.functional.normalize(mean, dim=-1).cpu(), strict=True))
        return torch.stack([vectors[i] for i in range(len(texts))])
