from typing import Any

import pytest
from pellucid.core.errors import DataError, OptionError, PellucidError
from pellucid.core.testing import tiny_decoder
from pellucid.qa_circuits import writing
from pellucid.qa_circuits.facts import Fact
from pellucid.qa_circuits.memory import gives_away
from pellucid.qa_circuits.probes import flaw, stands
from pellucid.qa_circuits.writing import MOST_WORDS, paragraph, stream_written_probes, write_contexts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
FACTS = [
    Fact(*line.split("|"))
    for line in ("Rex|owner|Anna", "Tom|owner|Ben", "Kit|owner|Eve", "Rex|food|ham", "Tom|food|fish", "Kit|food|hay")
]


def bytes_tokenizer(template: str | None = TEMPLATE) -> Any:
    """A token for every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )


class Writer:
    """Stands in for the model: it answers each request with a form filled with subject, answer and statement."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.requests: list[str] = []

    def __call__(self, model: Any, tokenizer: Any, prompts: list[list[int]], length: int) -> list[str]:
        texts = [tokenizer.decode(prompt) for prompt in prompts]
        self.requests += texts
        return [self._reply(text) for text in texts]

    def _reply(self, text: str) -> str:
        # The pair that the quoted statement names, in the tests' own facts.
        statement = text.split('"')[1]
        fact = next(f for f in FACTS if f.subject in statement and f.answer in statement)
        return self.form.format(subject=fact.subject, answer=fact.answer, statement=statement)


def use(monkeypatch: pytest.MonkeyPatch, form: str) -> Writer:
    writer = Writer(form)
    monkeypatch.setattr(writing, "complete", writer)
    return writer


def write(n: int, **options: Any) -> writing.Written:
    return write_contexts(None, bytes_tokenizer(), FACTS, n, **options)  # type: ignore[arg-type]


def test_what_the_model_writes_becomes_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = use(monkeypatch, "{statement} No one but {answer} will do for {subject}.\n\nI hope this helps!")
    written = write(6, batch=4)
    assert written.rejected == 0
    assert {(p.subject, p.relation, p.original_answer) for p in written.probes} == {
        (fact.subject, fact.relation, fact.answer) for fact in FACTS
    }
    for probe in written.probes:
        assert flaw(probe) is None
        assert "I hope" not in probe.context
        assert not stands(probe.original_answer, probe.modified_context)
    asked = [request.split(" about ")[0] for request in writer.requests]
    assert len(set(asked)) > 1  # lengths vary
    assert all(request.endswith("\n") for request in writer.requests)


def test_probes_of_memory_have_the_answer_struck_out(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "{statement} No one but {answer} will do for {subject}.")
    written = write(6, of_memory=True)
    assert len(written.probes) == 6
    for probe in written.probes:
        assert probe.of_memory
        assert probe.modified_context == probe.context.replace(probe.answer, "—")
        assert not gives_away(probe)
        assert not stands(probe.subject, probe.corrupted_context)


def test_it_stops_at_n_and_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "{statement}")
    assert len(write(2).probes) == 2
    assert write(6, seed=5, batch=1) == write(6, seed=5, batch=6)
    assert write(6, seed=5) != write(6, seed=6)


@pytest.mark.parametrize(
    "form",
    [
        "It is {answer}.",
        "It is {subject}.",
        "{statement}" + " so it is" * MOST_WORDS + ".",
        "of {subject} and {answer} no sentence comes to an end",
        "",
    ],
)
def test_contexts_that_cannot_serve_are_rejected(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    use(monkeypatch, form)
    with pytest.raises(DataError, match="none of 6 contexts"):
        write(6)


def test_an_answer_within_a_word_is_neither_swapped_nor_minded(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "{answer}Town is where {subject} is: {statement}")
    written = write(6)
    assert written.rejected == 0
    assert all(f"{probe.original_answer}Town" in probe.modified_context for probe in written.probes)


def test_rejected_contexts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the owners, all stand in the text: no other one can be put in. Of the foods, none does.
    use(monkeypatch, "{statement} Anna, Ben and Eve know it.")
    written = write(6)
    assert written.rejected == 3
    assert {probe.relation for probe in written.probes} == {"food"}


@pytest.mark.parametrize(
    ("text", "sentences", "expected"),
    [
        ("One. Two. Three.", 2, "One. Two."),
        ("One.\nStill one! Unfinished", 5, "One. Still one!"),
        ("It is 3.5 km wide. Yes?", 1, "It is 3.5 km wide."),
        ('He said "Go." Then he left.', 1, 'He said "Go."'),
        ("First.\n\nSecond.", 5, "First."),
        ("never ends", 5, ""),
        ("", 1, ""),
    ],
)
def test_paragraph(text: str, sentences: int, expected: str) -> None:
    assert paragraph(text, sentences) == expected


def test_a_writer_needs_a_chat_template() -> None:
    with pytest.raises(DataError, match="no chat template"):
        write_contexts(None, bytes_tokenizer(None), FACTS, 1)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="0 probes"):
        write(0)
    with pytest.raises(OptionError, match="batch is 0"):
        write(1, batch=0)


def test_a_random_model_writes_nothing_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_TOKENS_A_SENTENCE", 3)
    tokenizer = bytes_tokenizer()
    model = tiny_decoder("llama", vocabulary=len(tokenizer), max_position_embeddings=1024)
    with pytest.raises(DataError, match="none of 6 contexts"):
        write_contexts(model, tokenizer, FACTS, 1, batch=6)


@pytest.mark.slow
def test_smollm2_writes_contexts() -> None:
    from pellucid.core.loading import load

    try:
        loaded = load("zoo:smollm2")
    except PellucidError as error:
        pytest.skip(str(error))
    facts = [
        Fact(*line.split("|"))
        for line in (
            "Kenya|capital|Nairobi", "Peru|capital|Lima", "Norway|capital|Oslo",
            "Kenya|language|Swahili", "Peru|language|Spanish", "Norway|language|Norwegian",
        )
    ]  # fmt: skip
    written = write_contexts(loaded.model, loaded.tokenizer, facts, 6, batch=6)
    assert 1 <= len(written.probes) == 6 - written.rejected
    assert all(flaw(probe) is None for probe in written.probes)
    streamed = stream_written_probes("zoo:smollm2", facts, batch=6)
    assert next(streamed) == written.probes[0]
