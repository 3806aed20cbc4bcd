import numpy as np
import pytest
import torch
from pellucid.compose.image_scores import clip_score
from pellucid.core.scorers import images_of
from torch.nn.functional import normalize


def test_clip_scores_are_cosines(make_clip):
    clip = make_clip()
    shown = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    captions = ["a red dog", "a blue car", "a red dog", "a green tree"]
    found, mean = clip_score(clip, shown, captions)
    for picture, caption, score in zip(images_of(shown), captions, found, strict=True):
        with torch.no_grad():
            seen = normalize(clip.image_features(clip.prepare([picture])))
            said = normalize(clip.text_features(clip.tokenize([caption])))
        assert score == pytest.approx(float((seen * said).sum()), abs=1e-5)
    assert mean.value == pytest.approx(found.mean())
    scaled, _ = clip_score(clip, shown, captions, scale=2.5)
    np.testing.assert_allclose(scaled, 2.5 * found.clip(min=0))
