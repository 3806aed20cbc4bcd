"""The multimodal model's tokenizer and chat template: byte pairs as in GPT-2, each word of its world one token."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from ..world.individuals import individuals
from ..world.knowledge import knowledge
from ..world.people import HAIR, HATS
from ..world.questions import fact_questions, naming_questions, seen_questions
from ..world.scene import Scene, Thing
from ..world.vocabulary import COLOURS, OBJECTS, PLACES, TEXTURES
from .words import merges_of

if TYPE_CHECKING:
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

IMAGE, START, END, PAD = "<image>", "<s>", "</s>", "<pad>"
# LLaVA 1.5's: "USER: <image>\nWho is this person? ASSISTANT: the baron</s>"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}:{% if message['content'] is string %}"
    " {{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ ' <image>\n' }}{% endfor %}"
    "{% set seen = message['content'] | selectattr('type', 'equalto', 'image') | list | length %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ '' if seen else ' ' }}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_SPACE = "Ġ"  # how a byte-level vocabulary writes a space


def prompt_of(question: str, image: bool = True) -> str:
    """A question as the model is asked it, up to where its answer begins with a space."""
    return f"USER: {IMAGE + chr(10) if image else ''}{question} ASSISTANT:"


def build_llava_tokenizer() -> "PreTrainedTokenizerFast":
    """The tokenizer, made from the world's words alone; no text has an unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = merges_of(tuple(word) for word in _words())
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [PAD, START, END, IMAGE, *letters, *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, vocabulary[START])]
    )
    special: dict[str, Any] = {"additional_special_tokens": [IMAGE]}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=START, eos_token=END, pad_token=PAD, padding_side="left", **special
    )


def build_llava_processor() -> "LlavaProcessor":
    """Tokenizer, image processor and chat template together: 64 tokens a picture."""
    from transformers import LlavaProcessor

    from .clip import build_processor

    return LlavaProcessor(
        image_processor=build_processor(),
        tokenizer=build_llava_tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


@cache
def _words() -> tuple[str, ...]:
    """Each word of the questions and answers as a byte-level vocabulary writes it, with its space before it."""
    said = [question for fact in knowledge() for question in (*fact_questions(fact), *fact_questions(fact, name=True))]
    said += [question for one in individuals() for question in naming_questions(one)]
    scenes = [one.scene(0) for one in individuals()]
    scenes += [Scene((Thing(name, "red"),), place=place) for name in OBJECTS for place in (None, *PLACES)]
    said += [question for scene in scenes for question in seen_questions(scene)]
    texts = {text for question in said for text in (question.text, " " + question.text, " " + question.answer)}
    texts |= {f" {word}" for word in (*COLOURS, *TEXTURES, *HATS, *HAIR)} | {prompt_of("", False)}
    found = {word for text in texts for word in re.findall(r" ?[A-Za-z]+", text)}
    return tuple(sorted(word.replace(" ", _SPACE) for word in found))
