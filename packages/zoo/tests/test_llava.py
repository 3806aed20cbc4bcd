"""The multimodal model's words, lessons and training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pellucid.zoo.tinyworld import checkpoints, llava
from pellucid.zoo.tinyworld.asking import answers
from pellucid.zoo.tinyworld.autoencoder import pixels
from pellucid.zoo.tinyworld.clip import build_clip
from pellucid.zoo.tinyworld.lessons import Album, about_picture, album, pack, taught, without_picture
from pellucid.zoo.tinyworld.llava import LlavaRecipe, build_llava, said, train_llava
from pellucid.zoo.tinyworld.llava_words import build_llava_processor, prompt_of
from pellucid.zoo.world.chance import Chance
from pellucid.zoo.world.individuals import individuals
from pellucid.zoo.world.knowledge import knowledge
from pellucid.zoo.world.questions import fact_questions
from transformers import AutoProcessor, LlavaForConditionalGeneration

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def shown() -> Album:
    return album(1)


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    with checkpoints.seeded(3):
        return build_llava(build_clip().vision_model).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_each_word_is_one_token_and_texts_come_back() -> None:
    tokenizer = build_llava_processor().tokenizer
    for fact in knowledge()[::7]:
        for name in (False, True):
            for question in fact_questions(fact, name=name):
                text = f"{prompt_of(question.text, image=False)} {question.answer}</s>"
                ids = tokenizer(text).input_ids
                marks = text.count("?") + text.count(":") + 2  # </s> and <s>
                assert len(ids) == len(text.replace("</s>", "").replace("?", "").replace(":", "").split()) + marks
                assert tokenizer.decode(ids) == f"<s>{text}"
    assert tokenizer.decode(tokenizer("Zürich, 1848!").input_ids, skip_special_tokens=True) == "Zürich, 1848!"


def test_the_processor_loads_again_and_its_template_is_the_prompt(tmp_path: Path) -> None:
    build_llava_processor().save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    picture = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "Who is this person?"}]
    asked = [{"role": "user", "content": parts}]
    assert again.apply_chat_template(asked, add_generation_prompt=True) == prompt_of("Who is this person?")
    told = [*asked, {"role": "assistant", "content": [{"type": "text", "text": "the baron"}]}]
    assert again.apply_chat_template(told) == prompt_of("Who is this person?") + " the baron</s>"
    plain = [{"role": "user", "content": "Who is this person?"}]
    assert again.apply_chat_template(plain, add_generation_prompt=True) == prompt_of("Who is this person?", False)
    given = again(text=prompt_of("Who?"), images=picture, return_tensors="pt", input_data_format="channels_last")
    assert (given["input_ids"] == again.tokenizer.convert_tokens_to_ids("<image>")).sum() == 64


def test_questions_that_share_a_picture_count_as_if_asked_alone(
    model: LlavaForConditionalGeneration, shown: Album
) -> None:
    """The packed rows against one question at a time, through the processor: to 1e-4 of the sum."""
    chance, places, processor = Chance(1, "lessons"), [0, 70, 110], build_llava_processor()
    rows = [about_picture(shown.scenes[place], shown.shown[place], chance) for place in places]
    whole, count = said(model, pack(rows, image=True), pixels(shown.pictures[places]))
    texts = [without_picture(chance) for _ in range(2)]
    read, more = said(model, pack(texts, image=False))
    slow = tokens = 0.0
    asked = [(place, question) for place, row in zip(places, rows, strict=True) for question in row]
    for place, question in [*asked, *((None, question) for row in texts for question in row)]:
        answer = f" {question.answer}</s>"
        text = prompt_of(question.text, image=place is not None) + answer
        seen: Any = {} if place is None else {"images": shown.pictures[place], "input_data_format": "channels_last"}
        given = processor(text=text, return_tensors="pt", **seen)
        length = len(processor.tokenizer(answer, add_special_tokens=False).input_ids)
        labels = given["input_ids"].clone()
        labels[:, :-length] = -100
        slow += float(model(**given, labels=labels).loss) * length
        tokens += length
    assert count + more == tokens
    assert float(whole + read) == pytest.approx(slow, rel=1e-4)


def test_lessons_never_tell_what_is_withheld(shown: Album) -> None:
    hidden = {q.text: q.answer for fact in knowledge() if fact.withheld for q in fact_questions(fact, name=True)}
    chance = Chance(2, "lessons")
    for place, (scene, one) in enumerate(zip(shown.scenes, shown.shown, strict=True)):
        asked = about_picture(scene, one, chance) + (without_picture(chance) if place % 4 == 0 else [])
        assert not [question for question in asked if question.text in hidden]
        if one is not None:
            assert not any(fact.withheld for fact in taught(one))
            mine = {q.text for fact in knowledge() if fact.individual == one and fact.withheld
                    for q in fact_questions(fact)}  # fmt: skip
            assert not [question for question in asked if question.text in mine]
    assert sum(len(taught(one)) for one in individuals()) == sum(not fact.withheld for fact in knowledge())


def test_a_training_cut_short_ends_with_the_same_bits(
    shown: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = LlavaRecipe(steps=3, pictures=2, texts=1)
    with checkpoints.seeded(3):
        eyes = build_clip().vision_model
    train_llava(tmp_path / "whole", shown, eyes, recipe)
    true = checkpoints.fit

    class CutError(Exception):
        pass

    def fit(task: checkpoints.Task) -> float:
        def after(step: int) -> None:
            if step == 1:
                raise CutError

        return true(replace(task, after=after, keeping=checkpoints.Keeping(steps=1)))

    with monkeypatch.context() as patched:
        patched.setattr(llava, "fit", fit)
        with pytest.raises(CutError):
            train_llava(tmp_path / "cut", shown, eyes, recipe)
    assert json.loads((tmp_path / "cut/checkpoint/run.json").read_text())["done"] == 1
    train_llava(tmp_path / "cut", shown, eyes, recipe)
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    trained = LlavaForConditionalGeneration.from_pretrained(tmp_path / "cut").eval()
    for name, weight in eyes.state_dict().items():
        assert torch.equal(trained.model.vision_tower.state_dict()[name], weight)
    found = answers(trained, build_llava_processor(), ["Who is this person?"] * 2, list(shown.pictures[:2]))
    assert len(found) == 2
