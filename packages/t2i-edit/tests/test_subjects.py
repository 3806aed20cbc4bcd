import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core import testing_pipelines
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.t2i_edit.subjects import last_subject_position, occurrences, subject_positions
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, PreTrainedTokenizer, T5Tokenizer


@cache
def clip_tokenizer():
    """CLIP's: letters by bytes, with some merges, so that words have one token, two, or one a letter."""
    letters = sorted(ByteLevel.alphabet())
    merges = [("v", "a"), ("va", "n</w>"), ("o", "f</w>"), ("g", "o"), ("h", "o"), ("u", "s"), ("us", "e</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    vocab = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


@cache
def t5_tokenizer(length=512):
    letters = "abcdefghijklmnopqrstuvwxyzVG,.-'"
    pieces = ["▁van", "▁go", "gh", "▁a", "▁dog", "▁house", "s", "▁", *letters]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    vocab += [(piece, -float(9 - len(piece))) for piece in dict.fromkeys(pieces)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


class SlowTokenizer(PreTrainedTokenizer):
    """Words in pieces of three letters, a start and an end around them; gives no offsets."""

    def __init__(self, **options):
        self.pieces = {"<s>": 0, "</s>": 1}
        super().__init__(bos_token="<s>", eos_token="</s>", special_tokens_pattern="bos_eos", **options)

    def get_vocab(self):
        return dict(self.pieces)

    @property
    def vocab_size(self):
        return len(self.pieces)

    def _tokenize(self, text, **options):
        return re.findall(r"\w{1,3}|[^\w\s]", text)

    def _convert_token_to_id(self, token):
        return self.pieces.setdefault(token, len(self.pieces))

    def _convert_id_to_token(self, index):
        return list(self.pieces)[index]


def tokens_at(tokenizer, prompt, positions):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"])
    return [tokens[position] for position in positions]


def test_occurrences_are_whole_words():
    assert occurrences("dog", "A dog, dogs, hotdog, DOG.") == [(2, 5), (21, 24)]
    assert occurrences("van gogh", "by Van  Gogh") == [(3, 12)]
    assert occurrences("r2-d2!", "an r2-d2! here") == [(3, 9)]
    assert occurrences(" ", "a b") == occurrences("", "a b") == []


def test_clip_by_hand():
    prompt = "A house in the style of Van Gogh"
    tokenizer = clip_tokenizer()
    # <start> a ho use i n t h e s t y l e of van go g h <end>
    assert subject_positions(tokenizer, prompt, "van gogh") == [15, 16, 17, 18]
    assert tokens_at(tokenizer, prompt, [15, 16, 17, 18]) == ["van</w>", "go", "g", "h</w>"]
    assert last_subject_position(tokenizer, prompt, "van gogh") == 18
    assert subject_positions(tokenizer, prompt, "a") == [1]
    assert subject_positions(tokenizer, "a van of a van", "van") == [2, 5]
    assert last_subject_position(tokenizer, "a van of a van", "van") == 5


def test_clip_of_letters_in_several_bytes_and_signs():
    tokenizer, prompt = clip_tokenizer(), "ein grüner würfel, rot"
    found = subject_positions(tokenizer, prompt, "würfel")
    assert tokenizer.decode([tokenizer(prompt)["input_ids"][position] for position in found]).strip() == "würfel"
    assert len(found) == 7
    assert tokens_at(tokenizer, prompt, [found[-1] + 1]) == [",</w>"]


def test_t5_by_hand():
    tokenizer, prompt = t5_tokenizer(), "a dog, van gogh"
    # ▁a ▁dog , ▁van ▁go gh </s>
    assert tokens_at(tokenizer, prompt, range(7)) == ["▁a", "▁dog", ",", "▁van", "▁go", "gh", "</s>"]
    assert subject_positions(tokenizer, prompt, "dog") == [1]
    assert subject_positions(tokenizer, prompt, "van gogh") == [3, 4, 5]
    # A capital is another token to T5, but the same subject.
    assert subject_positions(tokenizer, "a Van", "van") == [1, 2, 3, 4]


def test_slow_by_hand():
    tokenizer, prompt = SlowTokenizer(model_max_length=77), "a house, house of Van Gogh"
    # <s> a hou se , hou se of Van Gog h </s>
    assert not tokenizer.is_fast
    assert subject_positions(tokenizer, prompt, "van gogh") == [8, 9, 10]
    assert subject_positions(tokenizer, prompt, "house") == [2, 3, 5, 6]


@pytest.mark.parametrize("make", [clip_tokenizer, t5_tokenizer, lambda: SlowTokenizer(model_max_length=77)])
@settings(max_examples=40, deadline=None)
@given(
    before=st.lists(st.sampled_from(["a", "house", "of", "dogs,", "van"]), max_size=4),
    subject=st.lists(st.sampled_from(["van", "gogh", "dog", "house", "x-ray"]), min_size=1, max_size=3),
    after=st.lists(st.sampled_from(["in", "a", "gogh's", "vans", "."]), max_size=4),
)
def test_the_tokens_found_spell_the_subject_and_the_others_the_rest(make, before, subject, after):
    tokenizer, words, prompt = make(), " ".join(subject), " ".join([*before, *subject, *after])
    found = subject_positions(tokenizer, prompt, words)
    assert found == sorted(set(found))
    spelt = re.sub(r"</w>|▁", "", "".join(tokens_at(tokenizer, prompt, found)))
    places = len(occurrences(words, prompt))
    assert spelt == words.replace(" ", "") * places
    everything = tokens_at(tokenizer, prompt, range(len(tokenizer(prompt)["input_ids"])))
    rest = [token for position, token in enumerate(everything) if position not in found]
    rest = [token for token in rest if token not in ("<s>", "</s>", "<|startoftext|>", "<|endoftext|>")]
    left = prompt
    for start, end in reversed(occurrences(words, prompt)):
        left = left[:start] + left[end:]
    assert re.sub(r"</w>|▁", "", "".join(rest)) == left.replace(" ", "")


@pytest.mark.parametrize("subject", ["dog", "", "hous"])
def test_absent_subjects(subject):
    with pytest.raises(DataError, match=f"the subject '{subject}' does not stand in the prompt 'a house of dogs'"):
        subject_positions(clip_tokenizer(), "a house of dogs", subject)


@pytest.mark.parametrize(
    ("make", "room"),
    [
        (clip_tokenizer, 75),
        (lambda: t5_tokenizer(77), 76),
        (lambda: SlowTokenizer(model_max_length=77), 75),
    ],
)
def test_subjects_that_are_cut_off(make, room):
    tokenizer = make()
    fits = " ".join(["a"] * (room - 1) + ["van"])
    assert last_subject_position(tokenizer, fits, "van") == (room if room == 75 else room - 1)
    cut = f"a {fits}"
    with pytest.raises(DataError, match=r"but only the first 76 of its 78 are read \(length 77\): shorten the prompt"):
        subject_positions(tokenizer, cut, "van")
    # What the text encoder reads says the same: after the cut the subject is gone.
    kept = tokenizer(cut, truncation=True)["input_ids"]
    assert len(kept) == 77
    assert not any("van" in token for token in tokenizer.convert_ids_to_tokens(kept))
    assert last_subject_position(tokenizer, f"van {cut}".removesuffix(" van"), "van") == (1 if room == 75 else 0)


def test_a_subject_cut_in_its_middle_is_cut_off():
    with pytest.raises(DataError, match="the subject 'van gogh' reaches token 5"):
        subject_positions(clip_tokenizer(), "a van gogh", "van gogh", length=6)
    assert subject_positions(clip_tokenizer(), "a van gogh", "van gogh", length=7) == [2, 3, 4, 5]


def test_the_pipeline_s_length_counts_where_it_is_given():
    prompt = " ".join(["a"] * 100 + ["dog"])
    assert last_subject_position(t5_tokenizer(), prompt, "dog") == 100
    with pytest.raises(DataError, match="length 77"):
        last_subject_position(t5_tokenizer(), prompt, "dog", length=77)
    with pytest.raises(OptionError, match="a length of 1 leaves no room"):
        last_subject_position(t5_tokenizer(), "dog", "dog", length=1)


def test_a_subject_without_tokens():
    class Deaf(SlowTokenizer):
        def _tokenize(self, text, **options):
            return [piece for piece in super()._tokenize(text) if piece.isascii()]

    with pytest.raises(DataError, match="makes no token of '犬'"):
        subject_positions(Deaf(model_max_length=77), "a 犬", "犬")


def test_a_slow_tokenizer_whose_beginnings_differ():
    class Backwards(SlowTokenizer):
        def _tokenize(self, text, **options):
            return super()._tokenize(text)[::-1]

    with pytest.raises(ModelError, match="Backwards splits 'a' in another way"):
        subject_positions(Backwards(model_max_length=77), "a dog here", "dog")


@pytest.mark.parametrize("make", [testing_pipelines.clip_tokenizer, testing_pipelines.t5_tokenizer])
def test_tokenizers_of_the_tiny_pipelines_padded_as_pipelines_do(make):
    tokenizer, prompt = make(), "a house in the style of van gogh with a zebra"
    padded = tokenizer(prompt, padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    tokens = tokenizer.convert_ids_to_tokens(padded["input_ids"])
    for subject in ("van gogh", "zebra"):
        found = subject_positions(tokenizer, prompt, subject)
        assert re.sub(r"</w>|▁", "", "".join(tokens[position] for position in found)) == subject.replace(" ", "")
