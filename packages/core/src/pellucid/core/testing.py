"""Tiny random models of the real classes, for tests: no network, a few milliseconds each."""

from typing import Any

import torch

DECODERS = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def tiny_decoder(family: str = "llama", *, layers: int = 3, vocabulary: int = 97, seed: int = 0, **options: Any) -> Any:
    """A random decoder of a real class: width 32, four query heads, two key-value heads, in eval mode.

    Args:
        family: a key of `DECODERS`.
        layers: number of layers.
        vocabulary: number of tokens.
        seed: of the weights, which are drawn wide so that components differ in their effects.
        options: further fields of the class's config.
    """
    import transformers

    model_class = getattr(transformers, DECODERS[family])
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "phi3":
        settings.pop("head_dim")
    config = model_class.config_class(**(settings | options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
                else:
                    parameter.normal_(std=0.25)
    return model.eval().requires_grad_(False)


def word_tokenizer(text: str, **options: Any) -> Any:
    """A tokenizer of the real class of the words and marks in a text, at most as many as `tiny_decoder` has.

    Args:
        text: all that is to be told apart; other words become `<unk>`.
        options: of `PreTrainedTokenizerFast`, such as `chat_template`.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Whitespace()
    words = dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", *(word for word, _ in split.pre_tokenize_str(text))])
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(list(words)[:97])}, unk_token="<unk>"))
    raw.pre_tokenizer = split
    settings = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"} | options
    return PreTrainedTokenizerFast(tokenizer_object=raw, **settings)
