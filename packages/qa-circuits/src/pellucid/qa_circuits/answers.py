"""An answer's text as it grows, token by token."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AnswerText:
    """Tells what each token adds to an answer, and when the answer has ended.

    It ends with a token that ends a text, after `limit` tokens, and, if it is to be one line, where its first line that
    is not blank ends.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", ends: Collection[int], limit: int, *, one_line: bool
    ) -> None:
        self.done = False
        self._tokenizer = tokenizer
        self._ends = ends
        self._hidden = frozenset(tokenizer.all_special_ids)
        self._limit = limit
        self._one_line = one_line
        self._ids: list[int] = []
        self._count = 0
        self._text = ""

    def add(self, token: int) -> str | None:
        """Take in a token; its text, empty where its letter is not whole yet, or None where it is no part of it."""
        if self.done:
            return None
        self._count += 1
        self.done = token in self._ends or self._count >= self._limit
        if token in self._ends or token in self._hidden:
            return None
        self._ids.append(token)
        text = str(self._tokenizer.decode(self._ids, clean_up_tokenization_spaces=False))
        if text.endswith("\ufffd"):
            return ""
        known, self._text = len(self._text), text
        if self._one_line:
            blank = len(text) - len(text.lstrip())
            end = text.find("\n", blank)
            if end >= 0:
                self.done = True
                return text[known:end] or None
        return text[known:]
