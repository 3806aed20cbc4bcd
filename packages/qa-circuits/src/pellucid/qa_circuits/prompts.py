"""From a probe to token ids: the prompt a model answers from its context, and the answer as it would go on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pellucid.core.errors import DataError, OptionError

from .probes import Probe

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Style = Literal["plain", "chat"]

_BEFORE = "Context: "
_SLACK = 4  # tokens a reply may go on for after the answer's length, so that "Paris, the" is seen not to be "Paris"

# Settings of `generate` for greedy decoding without penalties, whatever the model's own settings are.
GREEDY: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    # These have no say in greedy decoding, and are warned of where a model's own settings carry them.
    "temperature": None,
    "top_p": None,
    "top_k": None,
}


@dataclass(frozen=True)
class Example:
    """A worked example: it shows that the answer is short and taken from the context, be it true or not."""

    context: str
    question: str
    answer: str


# Each holds a second answer of the asked kind, so that what is shown is to look the subject up, not to take what fits.
EXAMPLES = (
    Example(
        "The favourite food of Ben is soup. The favourite food of Anna is rice. Many people know Ben. "
        "Ben plays the drums.",
        "What is the favourite food of Ben?",
        "soup",
    ),
    Example(
        "Marie Curie founded Apple. The head office of Nokia is in Oslo. The head office of Apple is in Lima. "
        "Apple is rich.",
        "Where is the head office of Apple?",
        "Lima",
    ),
)


@dataclass(frozen=True)
class Encoded:
    """A probe as token ids, without padding.

    Attributes:
        clean: the prompt with the question and the modified context.
        corrupted: the prompt with the corrupted question and context.
        answer: the tokens that the model would have to go on with after either prompt to give the swapped answer.
    """

    clean: list[int]
    corrupted: list[int]
    answer: list[int]


def check_style(style: str) -> Style:
    """Return a prompt style that was given as text.

    Raises:
        OptionError: there is no such style.
    """
    if style not in get_args(Style):
        raise OptionError(f"no prompt style {style!r}: choose {', '.join(get_args(Style))}")
    return style  # type: ignore[return-value]


def render(tokenizer: "PreTrainedTokenizerBase", context: str, question: str, style: Style = "plain") -> str:
    """The prompt for a question over a context, two worked examples in front.

    Args:
        tokenizer: of the model that will read it.
        context: what the answer is to be taken from.
        question: what is asked.
        style: "chat" renders the tokenizer's chat template, the examples being earlier turns; "plain" is text that
            ends in "Answer:", which any model takes, tuned for chat or not (SmolLM2-135M answers more from it).

    Raises:
        OptionError: no such style, or chat without a chat template.
    """
    if _is_chat(tokenizer, style):
        return _chat(tokenizer, _turns(context, question))
    shown = [f"{_ask(e.context, e.question)} {e.answer}" for e in EXAMPLES]
    return "\n\n".join([*shown, _ask(context, question)])


def render_located(
    tokenizer: "PreTrainedTokenizerBase", context: str, question: str, style: Style = "plain"
) -> tuple[str, tuple[int, int]]:
    """The prompt of `render`, and the characters of it that are the context: `(start, stop)`.

    Raises:
        OptionError: as `render`; or the chat template does not give the context as it is.
    """
    prompt = render(tokenizer, context, question, style)
    asked = prompt.rfind(_ask(context, question))
    if asked < 0:
        raise OptionError("the tokenizer's chat template alters the context, which cannot be found in it: take 'plain'")
    start = asked + len(_BEFORE)
    return prompt, (start, start + len(context))


def render_answered(
    tokenizer: "PreTrainedTokenizerBase", context: str, question: str, answer: str, style: Style = "plain"
) -> str:
    """The prompt of `render` with an answer as the model would write it, with or without a space between.

    Raises:
        OptionError: as `render`.
    """
    prompt = render(tokenizer, context, question, style)
    return _continued(tokenizer, prompt, context, question, answer, _is_chat(tokenizer, style))


def encode(tokenizer: "PreTrainedTokenizerBase", probes: Sequence[Probe], style: Style = "plain") -> list[Encoded]:
    """Token ids of every probe's clean prompt, corrupted prompt and swapped answer.

    Prompt and answer are tokenised together, because a tokenizer may cut an answer otherwise when it stands alone.

    Raises:
        DataError: an answer leaves no tokens; the message names the probe.
        OptionError: as `render`.
    """
    chat = _is_chat(tokenizer, style)
    encoded = []
    for probe in probes:
        prompt = render(tokenizer, probe.modified_context, probe.question, style)
        answered = _continued(tokenizer, prompt, probe.modified_context, probe.question, probe.answer, chat)
        joint = _tokens(tokenizer, answered, chat)
        clean = _tokens(tokenizer, prompt, chat)
        other = render(tokenizer, probe.corrupted_context, probe.corrupted_question, style)
        corrupted = _tokens(tokenizer, other, chat)
        shared = _common(clean, joint)
        if shared == len(joint):
            raise DataError(
                f"the answer {probe.answer!r} to {probe.question!r} leaves no tokens in this model's vocabulary; "
                "leave the probe out or give it another answer"
            )
        # Where the answer's first letters join the prompt's last token, both prompts end before that token.
        cut = len(clean) - shared
        encoded.append(Encoded(joint[:shared], corrupted[: len(corrupted) - cut], joint[shared:]))
    return encoded


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple["Tensor", "Tensor"]:
    """Stack token ids of differing lengths so that all end in the last column.

    Returns:
        `input_ids` and `attention_mask`, both `(sequences, longest)` and int64; the mask is 0 where there is padding.
    """
    import torch

    longest = max((len(sequence) for sequence in sequences), default=0)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        start = longest - len(sequence)
        ids[row, start:] = torch.tensor(sequence, dtype=torch.long)
        mask[row, start:] = 1
    return ids, mask


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the indices of `lengths` in lists of up to `size`, like lengths together, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def keeps_to_context(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    probes: Sequence[Probe],
    batch: int = 8,
    style: Style = "plain",
) -> list[tuple[bool, str]]:
    """Ask a model every probe's question over its modified context.

    Decoding is greedy and without penalties, whatever the model's own settings are (a repetition penalty would
    punish copying). Case of letters, spaces and a full stop at the end do not count.

    Args:
        model: a causal language model, in eval mode.
        tokenizer: its tokenizer.
        probes: what to ask.
        batch: prompts in one forward pass.
        style: see `render`.

    Returns:
        For every probe, in order, whether the reply's first line is the swapped answer, and that line.
    """
    encoded = encode(tokenizer, probes, style)
    replies = [""] * len(probes)
    for chosen in batches([len(e.clean) for e in encoded], max(batch, 1)):
        length = max(len(encoded[i].answer) for i in chosen) + _SLACK
        texts = complete(model, tokenizer, [encoded[i].clean for i in chosen], length)
        for i, text in zip(chosen, texts, strict=True):
            replies[i] = first_line(text)
    return [(_plainly(reply) == _plainly(probe.answer), reply) for reply, probe in zip(replies, probes, strict=True)]


def complete(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Sequence[int]], length: int
) -> list[str]:
    """Go on from prompts greedily, by at most `length` tokens.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: token ids, lengths may differ.
        length: most tokens to add to each.

    Returns:
        The added text of each, without special tokens.
    """
    import torch

    pad = pad_token(tokenizer)
    ids, mask = pad_left(prompts, pad)
    device = model.device if model.device.type != "meta" else torch.device("cpu")
    with torch.inference_mode():
        got = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=length,
            pad_token_id=pad,
            **GREEDY,
        )
    return list(tokenizer.batch_decode(got[:, ids.shape[1] :], skip_special_tokens=True))


def pad_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """A token to pad with; which one does not matter, since it is masked."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def first_line(text: str) -> str:
    """The first line of a reply that is not blank, without spaces around it."""
    return text.strip().split("\n", 1)[0].strip()


def _plainly(text: str) -> str:
    return " ".join(text.strip().rstrip(".").split()).casefold()


def _is_chat(tokenizer: "PreTrainedTokenizerBase", style: str) -> bool:
    template = getattr(tokenizer, "chat_template", None)
    if check_style(style) == "chat" and not template:
        raise OptionError("style 'chat' needs a tokenizer with a chat template, which this one lacks: take 'plain'")
    return style == "chat"


def _ask(context: str, question: str) -> str:
    return f"{_BEFORE}{context}\nQuestion: {question}\nAnswer:"


def _turns(context: str, question: str) -> list[dict[str, str]]:
    # No system turn: some templates refuse one.
    turns = []
    for example in EXAMPLES:
        turns.append({"role": "user", "content": _ask(example.context, example.question)})
        turns.append({"role": "assistant", "content": example.answer})
    return [*turns, {"role": "user", "content": _ask(context, question)}]


def _chat(tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]], *, asks: bool = True) -> str:
    # Templates of models that think aloud heed `enable_thinking`; the others pass over it.
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks, enable_thinking=False))


def _continued(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, context: str, question: str, answer: str, chat: bool
) -> str:
    if not chat:
        return f"{prompt} {answer}"
    # A template may put a space before a reply (Llama 2, Mistral): let it render one.
    turns = [*_turns(context, question), {"role": "assistant", "content": answer}]
    whole = _chat(tokenizer, turns, asks=False)
    if whole.startswith(prompt):
        rest = whole[len(prompt) :]
        blank = len(rest) - len(rest.lstrip())
        if rest[blank:].startswith(answer):
            return prompt + rest[:blank] + answer
    return prompt + answer


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str, chat: bool) -> list[int]:
    # A chat template writes its own BOS.
    ids = list(tokenizer(text, add_special_tokens=not chat)["input_ids"])
    # Some tokenizers end every text; what is read here goes on.
    while ids and not chat and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
