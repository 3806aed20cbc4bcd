"""Models that answer questions about pictures, as probabilities of answers: BLIP's, and generative chat models."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.assets import find_model
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.progress import progress
from pellucid.core.quiet import quiet
from pellucid.core.scorers import Pictures, check_pictures, images_of
from torch import Tensor

if TYPE_CHECKING:
    from pellucid.core.multimodal import LoadedMultimodal

Floats = NDArray[np.float64]

_LONGEST = 35  # tokens of a question, as T2I-CompBench cuts them
_PICTURES, _ROWS = 16, 64  # pictures, and questions, in one forward pass
_YES, _NO = ("yes", "Yes", "YES"), ("no", "No", "NO")
_INSTRUCTION = "Answer yes or no."
_PLAIN = "USER: {image}{question} ASSISTANT:"  # LLaVA's words, for processors without a chat template


class VqaModel(Protocol):
    """What is needed of a model that answers questions; any object with these two methods will do."""

    def yes_probabilities(self, pictures: Pictures, questions: Sequence[Sequence[str]]) -> list[Floats]:
        """For each picture the chance of "yes" among "yes" and "no" for each of its questions."""

    def choice_scores(
        self, pictures: Pictures, questions: Sequence[Sequence[str]], choices: Sequence[Sequence[Sequence[str]]]
    ) -> list[list[Floats]]:
        """For each picture and question the log-probability of each of its choices, as a whole answer."""


def load_vqa(name: str, *, device: str = "cpu", dtype: str = "float32") -> VqaModel:
    """Load a model that answers questions about pictures.

    Args:
        name: `zoo:NAME`, a folder or a hub id: of a `BlipForQuestionAnswering` with its processor (the benchmark's is
            Salesforce/blip-vqa-capfilt-large), or of any model that core's `load_multimodal` reads.
        device: where it goes.
        dtype: of its weights.

    Raises:
        OptionError: there is no such model, or the device cannot be used.
        ModelError: it cannot be read, or answers no questions about pictures.
    """
    from transformers import AutoConfig

    folder = find_model(name)
    where = str(folder or name)
    try:
        with quiet():
            kind = AutoConfig.from_pretrained(where).model_type
    except Exception as error:  # transformers raises a dozen classes for what is wrong with a config
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{name} has no config that can be read ({line}): give a VQA model") from error
    if kind != "blip":
        from pellucid.core.multimodal import load_multimodal

        return ChatVqa(load_multimodal(name, device=device, dtype=dtype))
    return BlipVqa(*_load_blip(name, where, device, dtype))


class BlipVqa:
    """BLIP's question answering, as T2I-CompBench asks it.

    Args:
        model: `BlipForQuestionAnswering`, in eval mode.
        processor: its `BlipProcessor`.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model.eval(), processor
        config, known = model.config.text_config, len(processor.tokenizer)
        encode = processor.tokenizer.get_vocab().get("[ENC]")
        if encode is None and known <= config.bos_token_id + 1 < config.vocab_size:
            encode = config.bos_token_id + 1  # published weights have it behind the vocabulary, unnamed
        self._first, self._start = encode, config.bos_token_id
        self._answers = [self._only_token(word) for word in ("yes", "no")]

    @torch.inference_mode()
    def yes_probabilities(self, pictures: Pictures, questions: Sequence[Sequence[str]]) -> list[Floats]:
        """For each picture the chance of "yes" among "yes" and "no" for each of its questions.

        That is p(yes) / (p(yes) + p(no)) of the first word of the answer.

        Raises:
            DataError: pictures and lists of questions do not pair up, or a question is empty.
            ModelError: probabilities are not finite.
        """
        _check(pictures, questions)
        found: list[Floats] = []
        for some, asked in _pieces(pictures, questions):
            chances = torch.zeros(sum(map(len, asked)), dtype=torch.float64)
            for states, rows in self._read(some, asked):
                start = torch.full((len(states), 1), self._start, device=states.device)
                logits = self._model.text_decoder(
                    input_ids=start, encoder_hidden_states=states, return_dict=True
                ).logits[:, 0]
                chances[rows] = logits[:, self._answers].double().softmax(1)[:, 0].cpu()
            found += _grouped(chances, asked)
        return found

    @torch.inference_mode()
    def choice_scores(
        self, pictures: Pictures, questions: Sequence[Sequence[str]], choices: Sequence[Sequence[Sequence[str]]]
    ) -> list[list[Floats]]:
        """For each picture and question the log-probability of each choice, its end included.

        Raises:
            DataError: pictures, questions and choices do not pair up.
            ModelError: probabilities are not finite.
        """
        _check(pictures, questions, choices)
        found: list[list[Floats]] = []
        place = 0
        for some, asked in _pieces(pictures, questions):
            offered = [texts for one in choices[place : place + len(asked)] for texts in one]
            place += len(asked)
            scores: dict[int, Floats] = {}
            for states, rows in self._read(some, asked):
                for state, row in zip(states, rows, strict=True):
                    scores[row] = self._likelihoods(state, offered[row])
            taken = iter(range(len(scores)))
            found += [[scores[next(taken)] for _ in one] for one in asked]
        return found

    def _only_token(self, word: str) -> int:
        ids = self._processor.tokenizer(word, add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == self._processor.tokenizer.unk_token_id:
            raise ModelError(f"the tokenizer has no token for {word!r}: give BLIP's own processor")
        return int(ids[0])

    def _read(self, pictures: Pictures, asked: Sequence[Sequence[str]]) -> Iterator[tuple[Tensor, list[int]]]:
        """What the encoder makes of the questions, those of one length at a time, and their places.

        Nothing is padded, since transformers' BLIP looks at padding when it answers.
        """
        device = self._model.device
        pixels = self._processor.image_processor(images=images_of(pictures), return_tensors="pt").pixel_values
        shown = self._model.vision_model(pixel_values=pixels.to(device, self._model.dtype)).last_hidden_state
        owners = [row for row, one in enumerate(asked) for _ in one]
        texts = [_plain(question) for one in asked for question in one]
        tokens = self._processor.tokenizer(texts, truncation=True, max_length=_LONGEST).input_ids if texts else []
        for length in sorted(set(map(len, tokens))):
            alike = [place for place, one in enumerate(tokens) if len(one) == length]
            for start in range(0, len(alike), _ROWS):
                rows = alike[start : start + _ROWS]
                ids = torch.tensor([tokens[row] for row in rows], device=device)
                if self._first is not None:
                    ids[:, 0] = self._first
                pictured = shown[[owners[row] for row in rows]]
                yield (
                    self._model.text_encoder(
                        input_ids=ids, encoder_hidden_states=pictured, return_dict=True
                    ).last_hidden_state,
                    rows,
                )

    def _likelihoods(self, state: Tensor, choices: Sequence[str]) -> Floats:
        tokens = self._processor.tokenizer(list(choices), padding=True, return_tensors="pt").to(state.device)
        ids, real = tokens.input_ids, tokens.attention_mask
        ids[:, 0] = self._start
        logits = self._model.text_decoder(
            input_ids=ids,
            attention_mask=real,
            encoder_hidden_states=state[None].expand(len(ids), -1, -1),
            return_dict=True,
        ).logits[:, :-1]
        chances = logits.double().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return _finite((chances * real[:, 1:]).sum(1).cpu().numpy())


class ChatVqa:
    """A generative multimodal model, asked in its own chat template.

    Args:
        loaded: from `load_multimodal`.

    Raises:
        ModelError: its tokenizer does not tell "yes" from "no" by the first token.
    """

    def __init__(self, loaded: "LoadedMultimodal") -> None:
        self._model: Any = loaded.model
        self._processor: Any = loaded.processor
        self._answers = [self._first_tokens(words) for words in (_YES, _NO)]
        if set(self._answers[0]) & set(self._answers[1]):
            raise ModelError('the tokenizer begins "yes" and "no" with the same token: give another model')

    @torch.inference_mode()
    def yes_probabilities(self, pictures: Pictures, questions: Sequence[Sequence[str]]) -> list[Floats]:
        """For each picture the chance of "yes" among "yes" and "no" for each of its questions.

        The question is followed by "Answer yes or no."; the chances of "yes", "Yes" and "YES" as the first token are
        added up, and those of "no" likewise.

        Raises:
            DataError: pictures and lists of questions do not pair up, or a question is empty.
            ModelError: probabilities are not finite.
        """
        _check(pictures, questions)
        rows = [(row, f"{question} {_INSTRUCTION}", "") for row, one in enumerate(questions) for question in one]
        chances = []
        with progress("questions", len(rows)) as advance:
            for some in _batches(rows):
                logits = self._logits(pictures, some, 1)[0][:, -1].double().log_softmax(-1)
                both = torch.stack([logits[:, list(ids)].logsumexp(1) for ids in self._answers], 1)
                chances.append(both.softmax(1)[:, 0].cpu())
                advance(len(some))
        return _grouped(torch.cat(chances) if chances else torch.zeros(0).double(), questions)

    @torch.inference_mode()
    def choice_scores(
        self, pictures: Pictures, questions: Sequence[Sequence[str]], choices: Sequence[Sequence[Sequence[str]]]
    ) -> list[list[Floats]]:
        """For each picture and question the log-probability of each choice, all its tokens in turn.

        Raises:
            DataError: pictures, questions and choices do not pair up.
            ModelError: probabilities are not finite.
        """
        _check(pictures, questions, choices)
        rows = [
            (row, question, text)
            for row, (one, offered) in enumerate(zip(questions, choices, strict=True))
            for question, texts in zip(one, offered, strict=True)
            for text in texts
        ]
        scores: list[float] = []
        for some in _batches(rows):
            lengths = [len(self._tokens_behind(question, text)) for _, question, text in some]
            logits, ids = self._logits(pictures, some, max(lengths) + 1)
            chances = logits[:, :-1].double().log_softmax(-1)
            said = ids[:, -chances.shape[1] :].to(chances.device)
            each = chances.gather(-1, said[..., None])[..., 0]
            scores += [float(one[-length:].sum()) for one, length in zip(each, lengths, strict=True)]
        taken = iter(scores)
        return [[_finite(np.array([next(taken) for _ in texts])) for texts in offered] for offered in choices]

    def _logits(self, pictures: Pictures, rows: Sequence[tuple[int, str, str]], kept: int) -> tuple[Tensor, Tensor]:
        """Logits at the last tokens of prompts with their answers behind them, and all token ids."""
        shown = images_of(pictures[[row for row, _, _ in rows]])
        texts = [self._written(question) + self._gap(question, answer) for _, question, answer in rows]
        inputs = self._processor(
            images=[[picture] for picture in shown], text=texts, padding=True, return_tensors="pt"
        ).to(self._model.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        return self._model(**inputs, use_cache=False, logits_to_keep=kept).logits, inputs["input_ids"]

    def _written(self, question: str) -> str:
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            said: str = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            return said
        token = getattr(self._processor, "image_token", "<image>")
        return _PLAIN.format(image=f"{token}\n", question=question)

    def _gap(self, question: str, answer: str) -> str:
        """The answer with a blank before it, unless the prompt ends on one."""
        return answer if not answer or self._written(question)[-1:].isspace() else f" {answer}"

    def _tokens_behind(self, question: str, answer: str) -> list[int]:
        """The tokens that an answer adds to its prompt."""
        alone = self._processor.tokenizer(self._written(question)).input_ids
        whole = self._processor.tokenizer(self._written(question) + self._gap(question, answer)).input_ids
        if len(whole) <= len(alone):
            raise DataError(f"the answer {answer!r} to {question!r} has no tokens: give at least a word")
        return list(whole[len(alone) :])

    def _first_tokens(self, words: Sequence[str]) -> tuple[int, ...]:
        return tuple(sorted({self._tokens_behind("?", word)[0] for word in words}))


def _load_blip(name: str, where: str, device: str, dtype: str) -> tuple[Any, Any]:
    from transformers import AutoProcessor, BlipForQuestionAnswering

    try:
        with quiet():
            model, keys = BlipForQuestionAnswering.from_pretrained(
                where, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
            )
            processor = AutoProcessor.from_pretrained(where)
    except Exception as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{name} cannot be loaded as a BLIP for VQA ({line}): give its folder or id") from error
    if missing := sorted(keys["missing_keys"]):
        raise ModelError(f"{name} lacks {len(missing)} of its weights, such as {missing[0]}: give a BLIP for VQA")
    try:
        return model.requires_grad_(False).to(device), processor
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error


def _plain(question: str) -> str:
    """A question as BLIP was trained to read it: in small letters, without stops but its question mark."""
    return re.sub(r"[.!\"()*#:;~]", "", question.lower()).rstrip()


def _check(pictures: Pictures, questions: Sequence[Sequence[str]], choices: Sequence[Any] | None = None) -> None:
    check_pictures(pictures, questions)
    empty = next((row for row, one in enumerate(questions) for question in one if not question.strip()), None)
    if empty is not None:
        raise DataError(f"picture {empty} has an empty question: leave it out")
    if choices is None:
        return
    if [len(one) for one in questions] != [len(offered) for offered in choices]:
        raise DataError("questions and choices do not pair up: give one list of choices a question")
    if any(len(texts) < 2 for offered in choices for texts in offered):
        raise DataError("a question has fewer than two choices: give at least two")


def _pieces(pictures: Pictures, asked: Sequence[Sequence[str]]) -> Iterator[tuple[Pictures, Sequence[Sequence[str]]]]:
    with progress("pictures", len(pictures)) as advance:
        for start in range(0, len(pictures), _PICTURES):
            piece = slice(start, start + _PICTURES)
            yield pictures[piece], asked[piece]
            advance(len(asked[piece]))


def _batches(rows: list[tuple[int, str, str]]) -> Iterator[list[tuple[int, str, str]]]:
    for start in range(0, len(rows), _PICTURES):
        yield rows[start : start + _PICTURES]


def _grouped(chances: Tensor, asked: Sequence[Sequence[str]]) -> list[Floats]:
    flat = _finite(chances.numpy())
    return list(np.split(flat, np.cumsum([len(one) for one in asked])[:-1])) if len(asked) else []


def _finite(values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise ModelError("the model's probabilities are not finite: load it in float32 or bfloat16")
    return values
