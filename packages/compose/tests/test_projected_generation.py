import numpy as np
import pytest
import torch
from pellucid.compose.attach import attach
from pellucid.compose.captioned import read_captions
from pellucid.compose.generation import Sampling, encode_prompts, generate, with_embeds
from pellucid.compose.projected_generation import arm_of, embedding_pictures, projected_pictures
from pellucid.compose.projection import text_projection
from pellucid.compose.token_subsets import token_subset
from pellucid.compose.trained import Trained
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.testing_pipelines import tiny_pipeline
from PIL import Image

PROMPTS, SEEDS = ("a red cat and a blue dog", "a green car"), (3, 8)
FAST = Sampling(steps=2, guidance=4.0, chunk=3)
FAMILIES = ("sd", "sdxl", "sd3", "pixart", "if")


def drawn(pipe):
    projection = text_projection(pipe, 1)
    chance = torch.Generator().manual_seed(1)
    for weight in projection.parameters():
        weight.data = torch.randn(weight.shape, generator=chance) * 0.1
    return projection


def alike(left, right):
    """Equal but for the rounding of batches of another size, which may turn a byte."""
    return np.abs(left.astype(int) - right.astype(int)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_what_the_pipeline_draws_for_its_prompt_and_seed(family):
    pipe = tiny_pipeline(family)
    rows = encode_prompts(pipe, PROMPTS)
    found = generate(pipe, {name: value[[0, 0, 1, 1]] for name, value in rows.items()}, [*SEEDS, *SEEDS], FAST)
    fixed = {"pixart": {"use_resolution_binning": False, "clean_caption": False}, "if": {"clean_caption": False}}
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, **fixed.get(family, {})}
    for place, (prompt, seed) in enumerate((prompt, seed) for prompt in PROMPTS for seed in SEEDS):
        alone = pipe(prompt, generator=torch.Generator().manual_seed(seed), output_type="np", **options).images[0]
        assert alike(found[place], (alone * 255).round().astype(np.uint8))


def test_arms_are_the_pipeline_with_and_without_the_projection():
    pipe = tiny_pipeline("sd")
    projection = drawn(pipe)
    made = projected_pictures(pipe, PROMPTS, SEEDS, Trained(projection), (0, 800, 1.0), sampling=FAST)
    assert list(made.arms) == ["base", "tau-0", "tau-0.8", "tau-1"]
    assert all(pictures.shape == (2, 2, 16, 16, 3) for pictures in made.arms.values())
    assert np.array_equal(made.arms["tau-1"], made.arms["base"])
    assert not np.array_equal(made.arms["tau-0"], made.arms["base"])
    rows = encode_prompts(pipe, PROMPTS)
    rows = {name: value[[0, 0, 1, 1]] for name, value in rows.items()}
    with attach(pipe, projection, 0):
        expected = generate(pipe, rows, [*SEEDS, *SEEDS], FAST)
    assert np.array_equal(made.arms["tau-0"].reshape(expected.shape), expected)
    again = projected_pictures(pipe, PROMPTS, SEEDS, Trained(projection), (0,), sampling=FAST, base=False)
    assert list(again.arms) == ["tau-0"]


def test_text_encoders_weights_work_while_prompts_are_encoded():
    pipe = tiny_pipeline("sd")
    name = "text_encoder.final_layer_norm.bias"
    trained = Trained(None, {name: pipe.text_encoder.final_layer_norm.bias.detach() + 1})
    made = projected_pictures(pipe, PROMPTS[:1], SEEDS, trained, (0,), sampling=FAST)
    assert not np.array_equal(made.arms["tau-0"], made.arms["base"])
    again = projected_pictures(pipe, PROMPTS[:1], SEEDS, trained, (), sampling=FAST)
    assert np.array_equal(again.arms["base"], made.arms["base"])


def test_a_choice_of_tokens_a_prompt():
    pipe = tiny_pipeline("sd")
    projection = drawn(pipe)
    tokens = torch.stack(
        [
            token_subset(pipe, PROMPTS[0], "nouns", ["cat", "dog"]),
            token_subset(pipe, PROMPTS[1], "nouns", ["car"]),
        ]
    )
    whole = projected_pictures(pipe, PROMPTS, SEEDS, Trained(projection), (0,), sampling=FAST, tokens=tokens)
    for row, prompt in enumerate(PROMPTS):
        alone = projected_pictures(pipe, [prompt], SEEDS, Trained(projection), (0,), sampling=FAST, tokens=tokens[row])
        assert np.array_equal(alone.arms["tau-0"][0], whole.arms["tau-0"][row])
    everything = projected_pictures(pipe, PROMPTS, SEEDS, Trained(projection), (0,), sampling=FAST)
    assert not np.array_equal(whole.arms["tau-0"], everything.arms["tau-0"])


def test_pictures_are_written_with_their_captions(tmp_path):
    pipe = tiny_pipeline("sd")
    made = projected_pictures(pipe, PROMPTS, SEEDS, Trained(drawn(pipe)), (800,), sampling=FAST)
    made.save(tmp_path)
    items = read_captions(tmp_path / arm_of(0.8))
    assert [item.id for item in items] == ["0000-3", "0000-8", "0001-3", "0001-8"]
    assert items[2].caption == PROMPTS[1]
    assert np.array_equal(np.asarray(Image.open(items[1].image)), made.arms["tau-0.8"][0, 1])


def test_an_embedding_in_the_prompt_s_place():
    pipe = tiny_pipeline("sdxl")
    own = encode_prompts(pipe, PROMPTS[:1])
    same = embedding_pictures(pipe, PROMPTS[0], own["prompt_embeds"], SEEDS, FAST)
    made = projected_pictures(pipe, PROMPTS[:1], SEEDS, Trained(drawn(pipe)), (), sampling=FAST)
    assert np.array_equal(same, made.arms["base"][0])
    other = embedding_pictures(pipe, PROMPTS[0], own["prompt_embeds"] + 1, SEEDS, FAST)
    assert not np.array_equal(other, same)
    with pytest.raises(OptionError, match="optimise them with the same pipeline"):
        with_embeds(own, own["prompt_embeds"][:, :5])


def test_what_cannot_be_generated_is_told():
    pipe = tiny_pipeline("sd")
    trained = Trained(drawn(pipe))
    with pytest.raises(OptionError, match="prompt 'a' is given twice"):
        projected_pictures(pipe, ["a", "a"], SEEDS, trained)
    with pytest.raises(OptionError, match=r"SWITCH-OFF point 0\.8 is given twice"):
        projected_pictures(pipe, PROMPTS, SEEDS, trained, (800, 0.8))
    with pytest.raises(OptionError, match="give at least one of both"):
        projected_pictures(pipe, PROMPTS, [], trained)
    with pytest.raises(OptionError, match="tokens has 3 rows for 2 prompts"):
        projected_pictures(pipe, PROMPTS, SEEDS, trained, tokens=torch.ones(3, 77, dtype=torch.bool))
    with pytest.raises(OptionError, match="1 seeds for 2 rows"):
        generate(pipe, encode_prompts(pipe, PROMPTS), [1], FAST)
    with pytest.raises(OptionError, match="steps=0"):
        Sampling(steps=0)
    with pytest.raises(OptionError, match="prompts must be a list"):
        encode_prompts(pipe, "a red cat")
    trained.projection.maps["text_encoder"].bias.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        projected_pictures(pipe, PROMPTS, SEEDS, trained, (0,), sampling=FAST)


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ("nouns", ["cat", "dog"]),
        ("nouns+adjectives", ["red", "cat", "blue", "dog"]),
        ("nouns+adjectives+eos", ["red", "cat", "blue", "dog", "EOS"]),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_subsets_are_the_words_own_tokens(family, subset, expected):
    pipe, prompt = tiny_pipeline(family), PROMPTS[0]
    marks = token_subset(pipe, prompt, subset, ["cat", "dog"], ["red", "blue"])
    assert marks.shape == encode_prompts(pipe, [prompt])["prompt_embeds"].shape[1:2]
    segments = {"sd3": [("tokenizer", 77), ("tokenizer_3", 256)]}.get(family, [("tokenizer", len(marks))])
    for name, length in segments:
        tokenizer, part, marks = getattr(pipe, name), marks[:length], marks[length:]
        ids = tokenizer(prompt, padding="max_length", max_length=length).input_ids
        words = [tokenizer.decode([ids[place]]).strip() for place in part.nonzero()[:, 0].tolist()]
        ends = ("<|endoftext|>", "</s>")
        assert ["EOS" if word in ends else word for word in words] == expected


def test_sentence_and_all():
    pipe = tiny_pipeline("sd")
    sentence = token_subset(pipe, PROMPTS[1], "sentence")
    assert sentence.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]  # begin, a, green, car, end
    assert token_subset(pipe, PROMPTS[1], "all").all()
    long = " ".join(["a red cat"] * 40)
    assert token_subset(pipe, long, "sentence").all()


def test_subsets_that_cannot_be_found_are_told():
    pipe = tiny_pipeline("sd")
    with pytest.raises(OptionError, match="subset 'verbs'"):
        token_subset(pipe, PROMPTS[0], "verbs")
    with pytest.raises(OptionError, match="needs the prompt's nouns"):
        token_subset(pipe, PROMPTS[0], "nouns")
    with pytest.raises(DataError, match="the word 'do' does not stand"):
        token_subset(pipe, PROMPTS[0], "nouns", ["do"])
