import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.errors import OptionError
from pellucid.qa_circuits.spans import (
    ScoredSpan,
    Span,
    SpanIndex,
    cut,
    max_span,
    rank_spans,
    sentences,
    span_scores,
    tokens_of,
    windows,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    ["Ben owns Rex.", "Eve owns Tom."],
    ["Dr. J. K. Rowling paid $3.50 in the U.S.", "The end."],
    ["She met Mr. Brown of St. Ives, e.g. at 5 p.m. on Jan. 5.", "It rained..."],
    ["Is it so?", "Yes!", "No."],
    ['He said "Go."', "Then he left!", '"Why?" she asked.', "“Fine.”", "(She went.)", "He stayed."],
    ["It rose by 2.5 percent to 1,000.75 metres.", "Visit www.x.com today.", "See fig. 3 of vol. 2."],
    ["He won vs. Ali in the No. 1 ring.", "Apple Inc. grew.", "It sold Beats etc. Then it stopped."[:15]],
    ["Washington D.C. Mayor Lee spoke.", "He left Washington D.C.", "It was late."],
    ["1. Open it.", "2. Close it."],
    ["- first item", "- second item.", "* third"],
    ["A heading", "The text begins here\nand goes on."],
    ["他来了。", "她走了！", "好。"],
    ["No mark at the end"],
    ["Wait... what?", "Well… Perhaps."[:5], "Perhaps."],
]
JOINTS = {8: " ", 9: "\n", 10: "\n\n", 11: ""}


@pytest.mark.parametrize("number", range(len(SENTENCES)))
def test_sentences(number: int) -> None:
    text = JOINTS.get(number, " ").join(SENTENCES[number])
    assert [span.of(text) for span in sentences(text)] == SENTENCES[number]
    spaced = f" \n{text}\n "
    assert [span.of(spaced) for span in sentences(spaced)] == SENTENCES[number]


def covers(text: str, spans: list[Span]) -> None:
    owners = [sum(span.start <= i < span.stop for span in spans) for i in range(len(text))]
    assert all(owner <= 1 for owner in owners)
    assert all(owner == 1 for owner, letter in zip(owners, text, strict=True) if not letter.isspace())
    assert spans == sorted(spans)
    assert all(span.of(text) == span.of(text).strip() != "" for span in spans)


TEXTS = st.text(alphabet="aB .!?\n\"')(“”-1…。é\u00a0\t", max_size=60)


@given(TEXTS, st.integers(1, 5))
def test_sentences_and_windows_cover_every_letter_once(text: str, words: int) -> None:
    covers(text, sentences(text))
    covers(text, windows(text, words))
    assert [len(span.of(text).split()) for span in windows(text, words)][:-1] == [words] * (
        max(-(-len(text.split()) // words), 1) - 1
    )


def test_cut_takes_sentences_or_words() -> None:
    text = "Ben owns Rex. Eve  owns Tom."
    assert cut(text) == cut(text, "sentence") == sentences(text)
    assert [span.of(text) for span in cut(text, 4)] == ["Ben owns Rex. Eve", "owns Tom."]
    with pytest.raises(OptionError, match="windows of 0 words"):
        cut(text, 0)
    for wrong in ("words", True, 2.0):
        with pytest.raises(OptionError, match="choose 'sentence', or a number of words"):
            cut(text, wrong)  # type: ignore[arg-type]


@given(TEXTS, st.integers(1, 4), st.data())
def test_span_scores_are_the_largest_weight_among_a_spans_letters(text: str, words: int, data: st.DataObject) -> None:
    # Tokens of any length, blanks around them cut off as `tokens_of` does.
    ends = sorted(data.draw(st.sets(st.integers(1, max(len(text), 1)))) | {len(text)})
    offsets = []
    for start, stop in zip([0, *ends], ends, strict=False):
        piece = text[start:stop]
        first = start + len(piece) - len(piece.lstrip())
        offsets.append((first, first + len(piece.strip())))
    weights = torch.rand(3, len(offsets), generator=torch.Generator().manual_seed(len(text)))
    spans = windows(text, words)
    slow = torch.zeros(3, len(spans))
    for row in range(3):
        for i, span in enumerate(spans):
            for token, (start, stop) in enumerate(offsets):
                if set(range(start, stop)) & set(range(span.start, span.stop)):
                    slow[row, i] = max(slow[row, i], weights[row, token])
    assert torch.equal(span_scores(weights, offsets, spans), slow)
    assert torch.equal(SpanIndex.of(offsets, spans).scores(weights), slow)
    if spans:
        best = max_span(weights[0], offsets, spans)
        assert best.score == pytest.approx(float(slow[0].max()))
        assert best.span == spans[int(slow[0].argmax())]


def test_a_span_without_tokens_scores_nothing() -> None:
    assert span_scores(torch.ones(1, 1), [(0, 3)], [Span(0, 3), Span(4, 5)]).tolist() == [[1, 0]]
    assert span_scores(torch.ones(2, 0), [], [Span(0, 3)]).tolist() == [[0], [0]]


def test_ranking_is_by_score_then_place_and_gives_a_span_once() -> None:
    a, b, c = Span(0, 3), Span(4, 7), Span(8, 9)
    assert rank_spans([c, b, a, c], [0.2, 0.5, 0.5, 0.9], 5) == (
        ScoredSpan(c, 0.9),
        ScoredSpan(a, 0.5),
        ScoredSpan(b, 0.5),
    )
    assert rank_spans([a, b], [0.1, 0.2], 1) == (ScoredSpan(b, 0.2),)
    assert rank_spans([], [], 3) == ()
    with pytest.raises(OptionError, match="ask for 1 or more"):
        rank_spans([a], [0.1], 0)


def words_tokenizer(*, ends: bool = False) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "Ben": 3, "owns": 4, "Rex": 5, ".": 6, "\n": 7}))
    raw.model = models.WordLevel(
        {"<s>": 0, "</s>": 1, "<unk>": 2, "Ben": 3, "owns": 4, "Rex": 5, ".": 6, "\n": 7}, unk_token="<unk>"
    )
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    raw.post_processor = processors.TemplateProcessing(
        single=f"<s> $A{' </s>' if ends else ''}", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("ends", [False, True])
def test_tokens_know_their_letters_in_the_context(ends: bool) -> None:
    # Tokens: <s> "Context:" " Ben" " owns" " " " Rex.\nAnswer:"; the first of the context begins before it, and the
    # last goes on after it.
    prompt = "Context: Ben owns  Rex.\nAnswer:"
    got = tokens_of(words_tokenizer(ends=ends), prompt, (9, 23))
    context = prompt[9:23]
    assert got.first == 2
    assert got.stop == 6 == len(got.ids)
    assert [context[a:b] for a, b in got.offsets] == ["Ben", "owns", "", "Rex."]
    bare = tokens_of(words_tokenizer(ends=ends), prompt, (9, 23), special=False)
    assert bare.ids == got.ids[1:]
    assert (bare.first, bare.offsets) == (1, got.offsets)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(OptionError, match=r"Slow does not tell which characters .* fast tokenizer"):
        tokens_of(Slow(), "Ben owns Rex.", (0, 3))  # type: ignore[arg-type]
