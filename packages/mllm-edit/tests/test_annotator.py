import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.testing import tiny_decoder
from pellucid.mllm_edit.annotator import (
    EXAMPLES,
    Annotation,
    AnnotationJob,
    Turns,
    Worked,
    annotate,
    annotated,
    annotation_sweep,
    annotations_in,
    local_chat,
    read_reply,
    settled,
    turns_for,
    write_review,
)
from pellucid.mllm_edit.questions import VisualQuestion, read_questions

QUESTION = "Which prize did this baker win in winter?"
GOOD = "visual: this baker\ntext: winter"


def test_replies_that_agree_are_taken_as_the_question_spells_them() -> None:
    found = settled(
        QUESTION, ["Visual: This Baker\nText: Winter.", GOOD, " visual:  this  baker \n\n text: winter\nok?"]
    )
    assert found == Annotation("this baker", ("winter",), True, "", found.replies)
    assert read_reply("visual: this baker\ntext: none", QUESTION) == ("this baker", ())
    assert read_reply('visual: "this baker"\ntext: prize; winter', QUESTION) == ("this baker", ("prize", "winter"))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("this baker", "does not have the lines"),
        ("visual: this boat\ntext: none", "'this boat', which does not stand in the question"),
        ("visual: none\ntext: winter", "0 visual constraints"),
        ("visual: this baker; prize\ntext: winter", "2 visual constraints"),
        ("visual: this baker\ntext: baker", "part of the visual one"),
        ("visual: in\ntext: none", "names nothing"),
    ],
)
def test_a_reply_that_cannot_be_read_makes_unsure(reply: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_reply(reply, QUESTION)
    found = settled(QUESTION, [GOOD, reply, GOOD])
    assert not found.sure
    assert found.visual == "this baker"
    assert reason in found.reason


def test_replies_that_differ_make_unsure_and_leave_what_most_say() -> None:
    found = settled(QUESTION, ["visual: prize\ntext: none", GOOD, GOOD])
    assert (found.visual, found.textual, found.sure) == ("this baker", ("winter",), False)
    assert found.reason == "2 different replies, such as 'prize' beside 'this baker'"
    assert settled(QUESTION, ["", ""]).visual == ""


def test_each_question_is_asked_with_examples_in_several_orders() -> None:
    asked: list[Turns] = []

    def ask(conversations: Sequence[Turns]) -> list[str]:
        asked.extend(conversations)
        return [GOOD for _ in conversations]

    found = annotate([QUESTION, "What is this?"], ask, votes=3, seed=5)
    assert [one.sure for one in found] == [True, False]
    assert len(asked) == 6
    assert len({turns[1]["content"] for turns in asked[:3]}) > 1
    assert asked[0] == turns_for(QUESTION, EXAMPLES, "5 0")
    for turns in asked:
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * len(EXAMPLES) + ["user"]
        assert all(any(one.question in turn["content"] for turn in turns) for one in EXAMPLES)
    with pytest.raises(OptionError, match="1 replies to 3 conversations"):
        annotate([QUESTION], lambda _: [GOOD])
    with pytest.raises(OptionError, match="votes=0"):
        annotate([QUESTION], ask, votes=0)
    with pytest.raises(DataError, match="'hat' does not stand in the worked example"):
        annotate([QUESTION], ask, [Worked("Is that it?", "hat")])


def test_the_examples_are_right() -> None:
    for one in EXAMPLES:
        reply = turns_for("?", [one], "")[1]["content"]
        assert read_reply(reply, one.question) == (one.visual, one.textual)


def test_unsure_questions_go_into_a_review_file(tmp_path: Path) -> None:
    questions = [
        VisualQuestion(f"{n}.png", text, "", (), ("x",), id=f"q{n}") for n, text in enumerate((QUESTION, "Why?"))
    ]
    found = {QUESTION: settled(QUESTION, [GOOD])}
    sure, unsure = annotated(questions, found)
    assert [(one.id, one.visual, one.textual) for one in sure] == [("q0", "this baker", ("winter",))]
    assert [one.id for one in unsure] == ["q1"]
    write_review(tmp_path / "review.jsonl", unsure, found)
    [line] = (tmp_path / "review.jsonl").read_text().splitlines()
    (tmp_path / "corrected.jsonl").write_text(line.replace('"visual": ""', '"visual": "Why"'))
    [read] = read_questions(tmp_path / "corrected.jsonl")
    assert read == replace(questions[1], visual="Why", image=str(Path("1.png").absolute()))
    assert json.loads(line) | {"id": "q1", "question": "Why?", "reason": "it was not asked"} == json.loads(line)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model as a folder: what it says is noise."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<pad>", "<s>", "</s>", *letters]
    inner = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    folder = tmp_path_factory.mktemp("chat")
    tiny_decoder("llama", layers=1, vocabulary=len(tokens), max_position_embeddings=4096).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_model_is_asked_in_batches_and_resumed(chat: Path, tmp_path: Path) -> None:
    job = AnnotationJob(ModelSpec(str(chat)), EXAMPLES[:1], votes=2, seed=0)
    texts = [QUESTION, "What is this?", QUESTION]
    questions = [VisualQuestion(f"{n}.png", text, "", (), (), id=f"q{n}") for n, text in enumerate(texts)]
    sweep = annotation_sweep(job, questions)
    assert len(sweep.cells) == 2
    assert sweep.run(tmp_path / "ledger").done == 2
    again = annotation_sweep(job, questions)
    assert again.run(tmp_path / "ledger").skipped == 2
    found = annotations_in(again, tmp_path / "ledger")
    assert set(found) == {QUESTION, "What is this?"}
    assert all(len(one.replies) == 2 and not one.sure for one in found.values())
    sure, unsure = annotated(questions, found)
    assert (len(sure), len(unsure)) == (0, 3)


def test_a_local_model_without_a_chat_template(chat: Path) -> None:
    from pellucid.core.loading import load

    loaded: Any = load(str(chat))
    loaded.tokenizer.chat_template = None
    with pytest.raises(OptionError, match="has no chat template"):
        local_chat(loaded)
