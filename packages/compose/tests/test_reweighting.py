import pytest
import torch
from pellucid.compose.generation import encode_prompts
from pellucid.compose.prompts_data import parse_two_objects
from pellucid.compose.reweighting import Reweighting, reweighted, reweighted_prompts
from pellucid.compose.text_contributions import pipeline_encoders, unintended_attention, word_tokens
from pellucid.core.errors import OptionError, SiteError
from pellucid.core.testing_pipelines import tiny_pipeline

PROMPTS = [parse_two_objects(prompt) for prompt in ("a red dog and a blue car", "a green tree and a red house")]
TEXTS = [prompt.prompt for prompt in PROMPTS]


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3", "pixart"])
def pipe(request):
    return tiny_pipeline(request.param)


def test_nothing_added_changes_nothing(pipe):
    plain = encode_prompts(pipe, TEXTS)
    same = reweighted_prompts(pipe, PROMPTS, Reweighting(0.0, 0.0))
    for name, value in plain.items():
        assert torch.equal(same[name], value)


def test_only_the_prompts_change_and_only_in_the_block(pipe):
    plain = encode_prompts(pipe, [*TEXTS, "a cat"])
    with reweighted(pipeline_encoders(pipe), PROMPTS):
        changed = encode_prompts(pipe, [*TEXTS, "a cat"])
    assert not torch.allclose(changed["prompt_embeds"][:2], plain["prompt_embeds"][:2], atol=1e-3)
    assert torch.allclose(changed["prompt_embeds"][2], plain["prompt_embeds"][2], atol=1e-5)
    negative = "negative_prompt_embeds"
    assert torch.allclose(changed[negative], plain[negative], atol=1e-5)
    after = encode_prompts(pipe, [*TEXTS, "a cat"])
    for name, value in plain.items():
        assert torch.equal(after[name], value)


def test_the_softmax_moves_by_what_was_added():
    """Against a plain eager encoder whose last layer's logits are changed by hand."""
    pipe = tiny_pipeline("sd")
    (encoder,) = pipeline_encoders(pipe)
    tokens = encoder.tokens(TEXTS[:1])
    ids = tokens["input_ids"]
    where = tokens["offset_mapping"][0], tokens["special_tokens_mask"][0]
    attributes = [word_tokens(*where, span, TEXTS[0])[0] for span in PROMPTS[0].attributes]
    objects = [word_tokens(*where, span, TEXTS[0])[0] for span in PROMPTS[0].objects]
    encoder.model.set_attn_implementation("eager")
    with torch.no_grad():
        plain = encoder.model(input_ids=ids, output_attentions=True).attentions
        with reweighted([encoder], PROMPTS, Reweighting(0.7, 1.3, layers=1)):
            changed = encoder.model(input_ids=ids, output_attentions=True).attentions
    for before, after in zip(plain[:-1], changed[:-1], strict=True):
        assert torch.allclose(before, after, atol=1e-6)
    logits = plain[-1].log()
    for own in range(2):
        logits[:, :, objects[own], attributes[own]] += 0.7
        logits[:, :, objects[own], attributes[1 - own]] -= 1.3
    assert torch.allclose(logits.softmax(-1), changed[-1], atol=1e-5)


@pytest.mark.parametrize("family", ["sd", "pixart"])
def test_unintended_attention_falls(family):
    encoder = pipeline_encoders(tiny_pipeline(family))[0]
    plain = unintended_attention(encoder, PROMPTS).contributions
    how = Reweighting(4.0, 4.0, layers=1)
    changed = unintended_attention(encoder, PROMPTS, within=lambda: reweighted([encoder], PROMPTS, how)).contributions
    assert (changed[:, -1, 1, 1] > plain[:, -1, 1, 1]).all()
    assert (changed[:, -1, 1, 0] < plain[:, -1, 1, 0]).all()


def test_what_cannot_work_is_named():
    pipe = tiny_pipeline("sd")
    encoders = pipeline_encoders(pipe)
    with pytest.raises(OptionError, match="layers is 0"):
        Reweighting(layers=0)
    with pytest.raises(OptionError, match="3 layers, and 4"), reweighted(encoders, PROMPTS, Reweighting(layers=4)):
        pass
    with pytest.raises(SiteError, match="a red dog and a blue car"), reweighted(encoders, PROMPTS):
        encode_prompts(pipe, ["a cat"])
