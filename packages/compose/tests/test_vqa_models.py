import types

import numpy as np
import pytest
import torch
from pellucid.compose import vqa_models
from pellucid.compose.vqa_models import BlipVqa, ChatVqa, load_vqa
from pellucid.core.errors import DataError, ModelError
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.testing_multimodal import tiny_multimodal

KNOWN = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue dog cat ? yes no two old"
WORDS = KNOWN.split()
QUESTIONS = [["a red dog?", "a cat?"], ["a blue cat?"], ["old dog?", "a red blue old dog?", "cat?"]]


def tiny_blip(tmp_path):
    """A real BLIP for VQA with two tokens, [DEC] and [ENC], behind its vocabulary, as the published ones have."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = size | {
        "vocab_size": len(WORDS) + 2,
        "encoder_hidden_size": 16,
        "bos_token_id": len(WORDS),
        "pad_token_id": 0,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "max_position_embeddings": 40,
        "projection_dim": 16,
    }
    config = BlipConfig(text_config=text, vision_config=size | {"image_size": 16, "patch_size": 8}, projection_dim=16)
    torch.manual_seed(0)
    model = BlipForQuestionAnswering(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    processor = BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer)
    return model, processor


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def shown():
    return np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)


@torch.no_grad()
def slow_states(blip, picture, question):
    """One question alone, without padding, in transformers' own words."""
    _, processor = blip
    pixels = processor.image_processor(images=[picture], return_tensors="pt").pixel_values
    ids = processor.tokenizer(question, return_tensors="pt").input_ids
    ids[:, 0] = len(WORDS) + 1
    return pixels, ids


def test_yes_is_measured_as_generation_would(blip, shown):
    model, _ = blip
    yes, no = WORDS.index("yes"), WORDS.index("no")
    found = BlipVqa(*blip).yes_probabilities(shown, QUESTIONS)
    assert [len(one) for one in found] == [2, 1, 3]
    for picture, asked, chances in zip(shown, QUESTIONS, found, strict=True):
        for question, chance in zip(asked, chances, strict=True):
            pixels, ids = slow_states(blip, picture, question)
            made = model.generate(
                ids, pixels, max_new_tokens=1, return_dict_in_generate=True, output_logits=True, do_sample=False
            )
            odds = made.logits[0][0].double().softmax(0)
            assert chance == pytest.approx(float(odds[yes] / (odds[yes] + odds[no])), abs=1e-6)
    assert np.ptp(np.concatenate(found)) > 1e-3


def test_choices_are_whole_answers(blip, shown):
    model, processor = blip
    choices = [[["red dog", "cat"], ["two", "a old cat"]], [["yes", "no", "blue"]], [["dog", "cat"]] * 3]
    found = BlipVqa(*blip).choice_scores(shown, QUESTIONS, choices)
    for picture, asked, offered, rows in zip(shown, QUESTIONS, choices, found, strict=True):
        for question, texts, scores in zip(asked, offered, rows, strict=True):
            for text, score in zip(texts, scores, strict=True):
                pixels, ids = slow_states(blip, picture, question)
                answer = processor.tokenizer(text, return_tensors="pt").input_ids
                answer[:, 0] = len(WORDS)
                with torch.no_grad():
                    loss = model(input_ids=ids, pixel_values=pixels, labels=answer).loss
                # transformers divides the loss by the number of words, and smooths labels: done by hand instead.
                logits = slow_logits(model, pixels, ids, answer)
                plain = sum(logits[at].log_softmax(0)[answer[0, at + 1]] for at in range(answer.shape[1] - 1))
                assert torch.isfinite(loss)
                assert score == pytest.approx(float(plain), abs=1e-4)


@torch.no_grad()
def slow_logits(model, pixels, ids, answer):
    seen = model.vision_model(pixel_values=pixels).last_hidden_state
    states = model.text_encoder(input_ids=ids, encoder_hidden_states=seen, return_dict=True).last_hidden_state
    return model.text_decoder(input_ids=answer, encoder_hidden_states=states, return_dict=True).logits[0].double()


def test_a_tokenizer_without_the_answers_is_refused(blip):
    model, processor = blip
    strange = types.SimpleNamespace(tokenizer=Strange(), image_processor=processor.image_processor)
    with pytest.raises(ModelError, match="'yes'"):
        BlipVqa(model, strange)


class Strange:
    unk_token_id = 1

    def __len__(self):
        return 5

    def get_vocab(self):
        return {}

    def __call__(self, text, add_special_tokens):
        return types.SimpleNamespace(input_ids=[1])


@pytest.fixture(params=["llava", "qwen2_vl"])
def chat(request, monkeypatch):
    """A tiny model whose tokenizer spells yes and no letter by letter: words that it knows stand for them."""
    model, processor = tiny_multimodal(request.param)
    with pytest.raises(ModelError, match="same token"):
        ChatVqa(LoadedMultimodal(model, processor, None))
    monkeypatch.setattr(vqa_models, "_YES", ("goat", "dog"))
    monkeypatch.setattr(vqa_models, "_NO", ("mill", "soup"))
    return LoadedMultimodal(model, processor, None)


def test_a_chat_model_is_asked_row_by_row(chat, shown):
    asked = [["a red dog?", "cat?"], ["a blue cat?"], ["old dog?"]]
    model = ChatVqa(chat)
    together = model.yes_probabilities(shown, asked)
    for place, one in enumerate(asked):
        for number, question in enumerate(one):
            (alone,) = model.yes_probabilities(shown[place : place + 1], [[question]])
            assert together[place][number] == pytest.approx(alone[0], abs=1e-5)
    assert np.ptp(np.concatenate(together)) > 1e-4


def test_a_chat_models_choices_are_likelihoods(chat, shown):
    choices = [[["red", "a dog or a cat"]]]
    (found,) = ChatVqa(chat).choice_scores(shown[:1], [["which?"]], choices)
    model = ChatVqa(chat)
    for text, score in zip(choices[0][0], found[0], strict=True):
        (alone,) = model.choice_scores(shown[:1], [["which?"]], [[[text, text]]])
        assert score == pytest.approx(alone[0][0], abs=1e-4)
        assert score < 0


def test_questions_are_checked(blip, shown):
    model = BlipVqa(*blip)
    with pytest.raises(DataError, match="3 pictures and 2"):
        model.yes_probabilities(shown, [["a?"]] * 2)
    with pytest.raises(DataError, match="picture 1"):
        model.yes_probabilities(shown, [["a?"], [" "], ["a?"]])
    with pytest.raises(DataError, match="two choices"):
        model.choice_scores(shown[:1], [["a?"]], [[["one"]]])
    assert model.yes_probabilities(shown[:0], []) == []


def test_loads_from_a_folder(blip, shown, tmp_path):
    model, processor = blip
    model.save_pretrained(tmp_path / "vqa")
    processor.save_pretrained(tmp_path / "vqa")
    loaded = load_vqa(str(tmp_path / "vqa"))
    same = BlipVqa(*blip).yes_probabilities(shown, QUESTIONS)
    for one, other in zip(loaded.yes_probabilities(shown, QUESTIONS), same, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    with pytest.raises(ModelError):
        load_vqa(str(tmp_path))
