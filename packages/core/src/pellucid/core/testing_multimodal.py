"""Tiny random multimodal models of the real classes, with their real processors, for tests: no network."""

from collections.abc import Callable
from typing import Any

import torch

FAMILIES = ("llava", "llava_phi", "llava_next", "llava_onevision", "qwen2_vl", "idefics3", "smolvlm")
"""LLaVA 1.5, LLaVA over Phi-2 (as Bunny is), LLaVA 1.6, LLaVA-OneVision, and the others by their own names."""

LAYERS = 3

_WORDS = """
USER: ASSISTANT: Which mill belongs to this person? the red mill the blue mill Which pet does this person keep? the goat
What city is this building in? Where is the Taj Mahal? Seattle Paris Agra Who has painted this picture in winter?
Which dish does this person cook in winter? an old boat Anna Berta the old tower What is shown here? User: Assistant:
Which mill does this person own? summer autumn spring the green dish soup fish a dog a cat Name the pet of this person.
"""

_SPECIAL = (
    "<pad>", "<s>", "</s>", "<image>", "<video>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>",
    "<|vision_end|>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
)  # fmt: skip

_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tiny_multimodal(family: str = "llava", *, seed: int = 0) -> tuple[Any, Any]:
    """A random multimodal model of a real class and its processor; width 32, `LAYERS` layers, in eval mode.

    Args:
        family: one of `FAMILIES`.
        seed: of the weights, which are drawn wide so that parts differ in their effects.
    """
    model, processor = _BUILDERS[family](_tokenizer())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or "ln_" in name:
                    parameter.copy_(1 + torch.randn_like(parameter) * 0.2)
                else:
                    parameter.normal_(std=0.25)
    processor.tokenizer.padding_side = "left"
    return model.eval().requires_grad_(False), processor


def _tokenizer() -> Any:
    """A byte-level tokenizer that knows a few words, with every special token that the families use."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(_SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(_WORDS.split("\n"), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=list(_SPECIAL[3:]),
    )  # fmt: skip


def _sizes(tokenizer: Any) -> dict[str, Any]:
    """Of the language model."""
    return {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def _eyes(side: int) -> dict[str, Any]:
    """Of the vision tower: pictures of `side` pixels in patches of 4."""
    return {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": side, "patch_size": 4,
    }  # fmt: skip


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )  # fmt: skip

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_eyes(12)), text_config=LlamaConfig(**_sizes(tokenizer)),
        image_token_index=_code(tokenizer, "<image>"), image_seq_length=9,
    )  # fmt: skip
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}), tokenizer, patch_size=4,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def _llava_phi(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PhiConfig,
        SiglipImageProcessor,
        SiglipVisionConfig,
    )  # fmt: skip

    text = PhiConfig(**_sizes(tokenizer) | {"num_key_value_heads": 4, "partial_rotary_factor": 0.5})
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**_eyes(16), vision_use_head=False), text_config=text,
        image_token_index=_code(tokenizer, "<image>"), image_seq_length=16, vision_feature_select_strategy="full",
    )  # fmt: skip
    processor = LlavaProcessor(
        SiglipImageProcessor(size={"height": 16, "width": 16}), tokenizer, patch_size=4,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def _llava_next(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
        MistralConfig,
    )  # fmt: skip

    grids = [[12, 24], [24, 12], [24, 24]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_eyes(12)), text_config=MistralConfig(**_sizes(tokenizer)),
        image_token_index=_code(tokenizer, "<image>"), image_grid_pinpoints=grids, image_seq_length=9,
    )  # fmt: skip
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}, image_grid_pinpoints=grids
    )
    processor = LlavaNextProcessor(
        pictures, tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return LlavaNextForConditionalGeneration(config), processor


def _llava_onevision(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )  # fmt: skip

    grids = [[12, 24], [24, 12], [24, 24]]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_eyes(12), vision_use_head=False),
        text_config=Qwen2Config(**_sizes(tokenizer)), image_grid_pinpoints=grids,
        image_token_index=_code(tokenizer, "<image>"), video_token_index=_code(tokenizer, "<video>"),
    )  # fmt: skip
    pictures = LlavaOnevisionImageProcessor(size={"height": 12, "width": 12}, image_grid_pinpoints=grids)
    processor = LlavaOnevisionProcessor(
        pictures, tokenizer, LlavaOnevisionVideoProcessor(size={"height": 12, "width": 12}), num_image_tokens=9,
        vision_feature_select_strategy="full", chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config), processor


def _qwen2_vl(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )  # fmt: skip

    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    text = _sizes(tokenizer) | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={
            "depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
        },
        image_token_id=_code(tokenizer, "<|image_pad|>"), video_token_id=_code(tokenizer, "<|video_pad|>"),
        vision_start_token_id=_code(tokenizer, "<|vision_start|>"),
        vision_end_token_id=_code(tokenizer, "<|vision_end|>"),
    )  # fmt: skip
    sizes = {"patch_size": 4, "size": {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes),
        chat_template=_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )  # fmt: skip
    return Qwen2VLForConditionalGeneration(config), processor


def _idefics3(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
        LlamaConfig,
    )  # fmt: skip

    config = Idefics3Config(**_idefics(tokenizer, LlamaConfig(**_sizes(tokenizer))))
    pictures = Idefics3ImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    template = _TEMPLATE.replace("IMAGE", "<image>")
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=template)
    return Idefics3ForConditionalGeneration(config), processor


def _smolvlm(tokenizer: Any) -> tuple[Any, Any]:
    # SmolVLM's own processor needs a package that spells numbers, for videos; pictures go through as in Idefics3.
    from transformers import (
        Idefics3Processor,
        LlamaConfig,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
    )  # fmt: skip

    config = SmolVLMConfig(**_idefics(tokenizer, LlamaConfig(**_sizes(tokenizer))))
    pictures = SmolVLMImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    template = _TEMPLATE.replace("IMAGE", "<image>")
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=template)
    return SmolVLMForConditionalGeneration(config), processor


def _idefics(tokenizer: Any, text: Any) -> dict[str, Any]:
    return {
        "vision_config": _eyes(16), "text_config": text, "scale_factor": 2, "pad_token_id": 0,
        "image_token_id": _code(tokenizer, "<image>"),
    }  # fmt: skip


def _code(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


_BUILDERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "llava": _llava,
    "llava_phi": _llava_phi,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
}
