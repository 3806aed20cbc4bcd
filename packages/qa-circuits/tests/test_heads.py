import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.qa_circuits.heads import HeadStatistics, choose_head, head_statistics
from pellucid.qa_circuits.probes import Probe
from pellucid.qa_circuits.prompts import EXAMPLES, render_located
from pellucid.qa_circuits.published import CIRCUITS
from pellucid.qa_circuits.registry import HeadFile, as_head_file, published_circuit, read_heads, write_heads
from pellucid.qa_circuits.spans import sentences
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

HEADS = [(2, 1), (0, 3), (1, 0), (2, 2)]


def probe(context: str, question: str, answer: str) -> Probe:
    return Probe("Rex", question, "Anna", answer, context, context, "Eve owns Tom.", "Who owns Tom?")


PROBES = [
    probe("Anna has Tom. Ben owns Rex. Ben is old. Eve sings.", "Who owns Rex?", "Ben"),
    probe("Eve sings.", "Who sings?", "Eve"),
    probe("Tom lives in New York. Eve sings in Rome. Ben owns Rex.", "Where does Tom live?", "New York"),
]


def make_tokenizer() -> Any:
    split = pre_tokenizers.Split(" ", "merged_with_next")
    texts = [p.modified_context + " " + p.question for p in PROBES] + [f"{e.context} {e.answer}" for e in EXAMPLES]
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *sorted(words)])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


TOKENIZER = make_tokenizer()


def slowly(model: Any, item: Probe, head: tuple[int, int]) -> tuple[float, bool, bool]:
    """The slow twin: one probe and head, from the eager model's whole maps, letter by letter."""
    context = item.modified_context
    prompt, (begin, end) = render_located(TOKENIZER, context, item.question, "plain")
    encoded = TOKENIZER(prompt, return_offsets_mapping=True)
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    ids = torch.tensor([encoded["input_ids"]])
    row = twin(input_ids=ids, use_cache=False, output_attentions=True).attentions[head[0]][0, head[1], -1]
    weights = [
        (float(row[t]), [i - begin for i in range(a, b) if begin <= i < end and not prompt[i].isspace()])
        for t, (a, b) in enumerate(encoded["offset_mapping"])
        if a < end and b > begin
    ]
    total = sum(weight for weight, _ in weights)
    entropy = -sum(weight / total * math.log(weight / total) for weight, _ in weights if weight)
    best = max(weights)[1]
    right = {i for i in range(len(context)) if context.startswith(item.answer, i)}
    right = {i + j for i in right for j in range(len(item.answer))}
    (sentence,) = [span for span in sentences(context) if span.start <= best[0] < span.stop]
    return entropy, bool(right & set(range(sentence.start, sentence.stop))), bool(right & set(best))


@pytest.mark.parametrize("family", DECODERS)
def test_statistics_are_those_of_the_eager_models_maps(family: str) -> None:
    model = tiny_decoder(family, vocabulary=len(TOKENIZER))
    got = head_statistics(model, TOKENIZER, PROBES, HEADS, batch=2)
    assert got.heads == tuple(HEADS)
    for i, item in enumerate(PROBES):
        for j, head in enumerate(HEADS):
            entropy, sentence, token = slowly(model, item, head)
            assert got.entropy[i, j] == pytest.approx(entropy, abs=1e-4)
            assert (got.sentence[i, j], got.token[i, j]) == (sentence, token)
    # Sentences with the answer: 2 of 4, 1 of 1, 1 of 3; tokens: 2 of 11, 1 of 2, 2 of 12.
    assert got.sentence_chance == pytest.approx([2 / 4, 1, 1 / 3])
    assert got.token_chance == pytest.approx([2 / 11, 1 / 2, 2 / 12])


def test_another_phrase_may_be_sought() -> None:
    model = tiny_decoder("llama", vocabulary=len(TOKENIZER))
    got = head_statistics(model, TOKENIZER, PROBES, HEADS, sought=["Anna", "sings", "Rome"])
    assert got.sentence_chance == pytest.approx([1 / 4, 1, 1 / 3])
    with pytest.raises(DataError, match=r"'An' does not stand in the context of 'Who owns Rex\?'"):
        head_statistics(model, TOKENIZER, PROBES[:1], HEADS, sought=["An"])
    with pytest.raises(DataError, match="no probes"):
        head_statistics(model, TOKENIZER, [], HEADS)
    with pytest.raises(OptionError, match=r"no head 9\.0"):
        head_statistics(model, TOKENIZER, PROBES, [(9, 0)])


def test_a_head_that_sees_nothing_of_the_context_has_the_largest_entropy() -> None:
    # Two tokens stand behind the context: a window of 2 hides it.
    model = tiny_decoder("mistral", vocabulary=len(TOKENIZER), sliding_window=2)
    got = head_statistics(model, TOKENIZER, PROBES[1:2], HEADS)
    assert got.entropy == pytest.approx(np.full((1, 4), math.log(2)))


def test_the_summary_has_means_within_their_intervals() -> None:
    model = tiny_decoder("llama", vocabulary=len(TOKENIZER))
    got = head_statistics(model, TOKENIZER, PROBES, HEADS)
    for j, row in enumerate(got.summary(seed=3)):
        assert row.head == HEADS[j]
        assert row.entropy.value == pytest.approx(got.entropy[:, j].mean())
        assert row.sentence.value == pytest.approx(got.sentence[:, j].mean())
        assert row.sentence.low <= row.sentence.value <= row.sentence.high
        assert row.token.value == pytest.approx(got.token[:, j].mean())


def test_the_head_is_chosen_by_entropy_or_accuracy() -> None:
    statistics = HeadStatistics(
        ((0, 0), (1, 1), (2, 2), (3, 3)),
        np.array([[1.0, 3.0, 2.0, 2.0], [1.0, 3.0, 2.0, 1.0]]),
        np.array([[False, True, True, True], [False, True, True, True]]),
        np.array([[False, False, True, True], [True, True, True, True]]),
        np.ones(2),
        np.ones(2),
    )
    assert choose_head(statistics) == choose_head(statistics, "entropy") == (0, 0)
    assert choose_head(statistics, "accuracy") == (3, 3)
    with pytest.raises(OptionError, match="no way 'luck' to choose a head: choose entropy, accuracy"):
        choose_head(statistics, "luck")  # type: ignore[arg-type]


def test_published_circuits_fit_their_models() -> None:
    sizes = {"vicuna": (32, 32), "llama-3-8b": (32, 32), "phi-3": (32, 32), "llama-3-70b": (80, 64)}
    counts = {(c.model, c.knowledge, c.probes): (len(c.layers), len(c.heads), len(c.mlps)) for c in CIRCUITS}
    assert counts == {
        ("vicuna", "context", 1000): (9, 14, 32),
        ("vicuna", "memory", 1000): (13, 30, 10),
        ("llama-3-8b", "context", 1000): (8, 14, 4),
        ("llama-3-8b", "memory", 1000): (32, 83, 7),
        ("phi-3", "context", 1000): (8, 14, 32),
        ("phi-3", "memory", 1000): (12, 55, 5),
        ("llama-3-70b", "context", 1000): (10, 13, 0),
        ("llama-3-8b", "context", 200): (8, 14, 4),
    }
    for circuit in CIRCUITS:
        layers, heads = sizes[circuit.model]
        for numbers in (circuit.layers, circuit.mlps, circuit.heads):
            assert len(set(numbers)) == len(numbers)
        assert all(0 <= layer < layers and 0 <= head < heads for layer, head in circuit.heads)
        assert all(0 <= layer < layers for layer in (*circuit.layers, *circuit.mlps))
    large = published_circuit("llama-3-70b")
    assert large.attribution_head == (52, 19)
    assert large.attribution_head in large.heads
    assert published_circuit("llama-3-8b").probes == 1000
    assert published_circuit("phi-3", "memory").heads[0] == (23, 4)
    assert published_circuit("vicuna").attribution_head is None
    with pytest.raises(OptionError, match="no memory circuit of 'llama-3-70b'; there are vicuna"):
        published_circuit("llama-3-70b", "memory")


def test_heads_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    for heads in (HeadFile("zoo:x", (2, 1), ((2, 1), (0, 3)), "50 probes"), as_head_file(published_circuit("vicuna"))):
        write_heads(path, heads)
        assert read_heads(path) == heads
    assert list(tmp_path.iterdir()) == [path]
    assert read_heads(path).source == "thesis section 11.7.4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "not a file of heads of schema 1"),
        ({"model": 3}, "the field 'model' must be a text"),
        ({"source": None}, "the field 'source' must be a text"),
        ({"heads": "2.1"}, "the field 'heads' must be a list"),
        ({"heads": [[1, 2], [3]]}, r"\[3\] in the field 'heads' is not a head"),
        ({"heads": [[1, -2]]}, "is not a head"),
        ({"attribution_head": [1, True]}, "in the field 'attribution_head' is not a head"),
    ],
)
def test_what_is_wrong_with_a_file_of_heads_is_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "heads.json"
    write_heads(path, HeadFile("x", None, ((1, 2),), "s"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message) as caught:
        read_heads(path)
    assert str(path) in str(caught.value)


def test_a_file_of_heads_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_heads(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json is not a JSON file of heads"):
        read_heads(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="not a file of heads"):
        read_heads(tmp_path / "list.json")
