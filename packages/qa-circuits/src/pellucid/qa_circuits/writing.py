"""Probes with contexts that a language model writes (thesis section 11.7.8), in place of sentences of our own."""

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pellucid.core.errors import DataError, OptionError
from pellucid.core.progress import progress

from .facts import Fact, Pool, altered, ask, tell
from .memory import forgotten, gives_away
from .probes import Probe, flaw, stands
from .prompts import complete

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SENTENCES = (1, 8)  # fewest and most that are asked for
MOST_WORDS = 220  # in a context; the thesis's are of this length at most
_TOKENS_A_SENTENCE = 40
_TRIES = 20  # changes tried on one context


@dataclass(frozen=True)
class Written:
    """Probes over written contexts, and how many contexts were rejected on the way."""

    probes: list[Probe]
    rejected: int


def write_contexts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    facts: Sequence[Fact],
    n: int,
    *,
    seed: int = 0,
    batch: int = 8,
    of_memory: bool = False,
) -> Written:
    """Have a chat model write a paragraph about each fact's subject that states the fact, and make probes of them.

    A paragraph is rejected where it does not name subject and answer as given, is cut off before its first full
    stop, has over `MOST_WORDS` words, or cannot be altered so that `probes.flaw` (of D_memory: `memory.gives_away`)
    finds nothing. Decoding is greedy; lengths vary because 1 to 8 sentences are asked for.

    Args:
        model: any chat model.
        tokenizer: its tokenizer, with a chat template.
        facts: what to write about; relations take turns.
        n: how many probes to make; fewer come back where the facts run out.
        seed: of what is asked for and what is swapped.
        batch: paragraphs written at once.
        of_memory: strike the answer out (D_memory) rather than swap it (D_copy).

    Raises:
        DataError: the tokenizer has no chat template, or no probe came of any fact.
        OptionError: `n` or `batch` is less than 1.
    """
    if n < 1:
        raise OptionError(f"{n} probes asked for; ask for 1 or more")
    probes: list[Probe] = []
    rejected = 0
    with progress("Writing contexts", total=n) as advance:
        for probe in _attempts(model, tokenizer, facts, seed, batch, of_memory):
            if probe is None:
                rejected += 1
                continue
            probes.append(probe)
            advance(1)
            if len(probes) == n:
                break
    if not probes:
        raise DataError(
            f"none of {rejected} contexts that the model wrote states its fact so that it can be swapped; "
            "take a stronger writer, or more facts of each relation"
        )
    return Written(probes, rejected)


def stream_written_probes(
    writer: str, facts: Sequence[Fact], seed: int = 0, batch: int = 8, of_memory: bool = False
) -> Iterator[Probe]:
    """Load a chat model and yield probes over contexts that it writes, as long as there are facts.

    Args:
        writer: what `pellucid.core.load` takes: `zoo:NAME`, a folder or a hub id.
        facts: what to write about.
        seed: of what is asked for and what is swapped.
        batch: paragraphs written at once.
        of_memory: see `write_contexts`.

    Raises:
        DataError: the model's tokenizer has no chat template.
        ModelError: the model cannot be loaded.
    """
    from pellucid.core.loading import load

    loaded = load(writer)
    for probe in _attempts(loaded.model, loaded.tokenizer, facts, seed, batch, of_memory):
        if probe is not None:
            yield probe


def _attempts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    facts: Sequence[Fact],
    seed: int,
    batch: int,
    of_memory: bool,
) -> Iterator[Probe | None]:
    """One probe, or None for a rejected context, for each fact in turn."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("the writer's tokenizer has no chat template; take a model tuned to follow instructions")
    if batch < 1:
        raise OptionError(f"batch is {batch}; it must be 1 or more")
    pool = Pool(facts)
    for group in _groups(pool.shuffled(random.Random(f"order {seed}")), batch):
        rngs = [random.Random(f"{seed}\n{fact.subject}\n{fact.relation}\n{fact.answer}") for fact in group]
        counts = [rng.randint(*SENTENCES) for rng in rngs]
        prompts = [_prompt(tokenizer, *what) for what in zip(group, counts, rngs, strict=True)]
        texts = complete(model, tokenizer, prompts, _TOKENS_A_SENTENCE * max(counts))
        for fact, count, rng, text in zip(group, counts, rngs, texts, strict=True):
            yield _probe(fact, pool, paragraph(text, count), rng, of_memory)


def paragraph(text: str, sentences: int) -> str:
    """The first paragraph of a reply, up to a number of whole sentences; empty where not even one is whole."""
    first = re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0]
    # A stop ends a sentence where a space and a capital follow, so that "approx. 3.5" does not.
    whole = re.findall(r"\S.*?[.!?][\"')\]]*(?=\s+[^\Wa-z_]|\s*$)", " ".join(first.split()))
    return " ".join(whole[:sentences])


def _prompt(tokenizer: "PreTrainedTokenizerBase", fact: Fact, count: int, rng: random.Random) -> list[int]:
    length = "one sentence" if count == 1 else f"a paragraph of {count} sentences"
    request = (
        f"Write {length} about {fact.subject}. It must contain this statement, word for word: "
        f'"{tell(fact, rng)}" Write only that text, with no title and no list.'
    )
    turns = [{"role": "user", "content": request}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _probe(fact: Fact, pool: Pool, context: str, rng: random.Random, of_memory: bool) -> Probe | None:
    if len(context.split()) > MOST_WORDS or not (stands(fact.subject, context) and stands(fact.answer, context)):
        return None
    question = ask(fact, rng)
    for change in itertools.islice(pool.changes(fact, rng), _TRIES):
        if of_memory:
            probe = forgotten(fact, change.other, context, question)
            good = not gives_away(probe)
        else:
            probe = altered(fact, change, context, question)
            good = flaw(probe) is None
        if good:
            return probe
    return None


def _groups(items: Iterable[Fact], size: int) -> Iterator[list[Fact]]:
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group
