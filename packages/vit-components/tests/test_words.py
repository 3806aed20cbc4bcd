"""Maps into a CLIP's space, descriptions, scores and retrieval, each beside its slow twin."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.vit_components.compalign import (
    METHODS,
    align,
    alignment_loss,
    cosine_distances,
    departure,
    procrustes,
    read_alignment,
)
from pellucid.vit_components.components import Component
from pellucid.vit_components.features import Feature
from pellucid.vit_components.mapped import Mapped, through
from pellucid.vit_components.pictures import Pictures
from pellucid.vit_components.retrieval import (
    by_picture,
    by_text,
    picture_precision,
    text_precision,
    top_components,
)
from pellucid.vit_components.scoring import component_scores, orthogonalized, retrieval_scores, score_gaps
from pellucid.vit_components.separation import macro_auroc, macro_aurocs, separations
from pellucid.vit_components.store import Contributions
from pellucid.vit_components.textspan import match_rate, text_span

PICTURES, WIDTH, CLIP = 60, 6, 8


@pytest.fixture
def found() -> Contributions:
    """Four components' parts: three that vary and one that is the same for all."""
    random = np.random.default_rng(0)
    parts = random.standard_normal((4, PICTURES, WIDTH)).astype(np.float32)
    parts[3] = parts[3, :1]
    names = tuple(Component(f"blocks.{place}.attn.head0", "head", place, 0) for place in range(3))
    paths = tuple(Path(f"{place}.png") for place in range(PICTURES))
    pictures = Pictures(paths, tuple(map(str, paths)))
    return Contributions((*names, Component("bias", "bias")), parts, parts.sum(0), pictures, "sha256:abc")


@pytest.fixture
def feature() -> Feature:
    directions = np.random.default_rng(1).standard_normal((3, CLIP))
    return Feature("colour", ("red", "blue", "green"), directions / np.linalg.norm(directions, axis=1, keepdims=True))


@pytest.fixture
def mapped(found: Contributions) -> Mapped:
    return Mapped(found, np.random.default_rng(2).standard_normal((4, WIDTH, CLIP)).astype(np.float32))


@pytest.mark.parametrize(("width", "other"), [(WIDTH, CLIP), (CLIP, WIDTH), (WIDTH, WIDTH)])
def test_the_start_is_orthogonal_on_the_narrower_side(width: int, other: int) -> None:
    random = torch.Generator().manual_seed(0)
    start = procrustes(torch.randn(50, width, generator=random), torch.randn(50, other, generator=random))
    assert departure(start[None]).item() < 1e-4
    assert departure(2 * start[None]).item() == pytest.approx(3 * min(width, other) ** 0.5, rel=1e-4)


def test_the_loss_is_the_thesis_formula() -> None:
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(3, WIDTH, CLIP, generator=random)
    parts = torch.randn(3, 5, WIDTH, generator=random)
    goal = torch.randn(5, CLIP, generator=random)
    by_hand = 0.0
    for picture in range(5):
        total = sum((maps[one].T @ parts[one, picture] for one in range(3)), torch.zeros(CLIP))
        by_hand += (1 - (total @ goal[picture]) / (total.norm() * goal[picture].norm())).item() / 5
    by_hand += 0.3 * sum((maps[one] @ maps[one].T - torch.eye(WIDTH)).norm().item() for one in range(3))
    assert alignment_loss(maps, parts, goal, 0.3).item() == pytest.approx(by_hand, rel=1e-5)


def test_a_rotation_is_found_again_and_kept_orthogonal(found: Contributions) -> None:
    rotation = torch.linalg.qr(torch.randn(CLIP, WIDTH, generator=torch.Generator().manual_seed(3)))[0].T
    target = found.representation @ rotation.numpy()
    maps = align(found, target, clip="c", clip_model="d", steps=20)
    assert cosine_distances(found, maps, target).max() < 1e-3
    assert departure(maps.maps).max() < 0.1
    assert (align(found, target, clip="c", clip_model="d", steps=20).maps == maps.maps).all()


def test_every_method_lowers_the_distance_and_the_regulariser_keeps_maps_orthogonal(found: Contributions) -> None:
    own = np.random.default_rng(4).standard_normal((4, WIDTH, CLIP))
    target = np.einsum("cpw,cwe->pe", found.parts, own)
    start = torch.nn.functional.normalize(torch.from_numpy(target).float(), dim=1)
    first = procrustes(torch.from_numpy(found.representation), start).expand(4, -1, -1)
    distances, away = {}, {}
    for method in METHODS:
        maps = align(found, target, clip="c", clip_model="d", method=method, steps=150, rate=0.02, penalty=0.1)
        distances[method] = cosine_distances(found, maps, target).mean()
        away[method] = departure(maps.maps).mean().item()
        begun = cosine_distances(found, type(maps)(maps.components, first.clone(), "", "", ""), target).mean()
        assert distances[method] < begun
    assert distances["free"] < distances["one"]
    assert away["compalign"] < 0.1 * away["free"]
    one = align(found, target, clip="c", clip_model="d", method="one", steps=5)
    assert (one.maps[0] == one.maps[1]).all()


def test_maps_are_kept_in_a_file_and_refused_for_another_model(found: Contributions, tmp_path: Path) -> None:
    target = np.random.default_rng(5).standard_normal((PICTURES, CLIP))
    maps = align(found, target, clip="zoo:x", clip_model="d", steps=2, last_layers=3)
    again = read_alignment(maps.save(tmp_path / "alignment.safetensors"))
    assert (again.maps == maps.maps).all()
    assert (again.clip, again.last_layers, again.components) == ("zoo:x", 3, maps.components)
    assert through(found, again).width == CLIP
    other = Contributions(found.components, found.parts, found.representation, found.pictures, "sha256:other")
    with pytest.raises(DataError, match="made for another model"):
        through(other, again)
    with pytest.raises(DataError, match="there is no alignment"):
        read_alignment(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"123")
    with pytest.raises(DataError, match="is damaged"):
        read_alignment(tmp_path / "bad")
    with pytest.raises(OptionError, match="choose from"):
        align(found, target, clip="", clip_model="", method="two")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="targets for"):
        align(found, target[:3], clip="", clip_model="")
    target[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        align(found, target, clip="", clip_model="")


def test_totals_are_sums_of_mapped_parts(mapped: Mapped) -> None:
    assert mapped.maps is not None
    whole = np.einsum("cpw,cwe->pe", mapped.found.parts.astype(float), mapped.maps.astype(float))
    assert np.allclose(mapped.total(), whole)
    assert np.allclose(mapped.total(np.array([2])), mapped.part(2))
    assert np.allclose(Mapped(mapped.found).part(1), mapped.found.parts[1])


def _slow_text_span(part: np.ndarray, words: np.ndarray, count: int) -> list[int]:
    """Each step anew: what the texts taken so far leave of parts and texts."""
    part = part - part.mean(0)
    inner = part.T @ np.linalg.pinv(part.T)  # onto what parts span
    taken: list[int] = []
    for _ in range(count):
        span = np.zeros((part.shape[1], 0))
        for place in taken:
            inside = inner @ words[place]
            inside = inside - span @ (span.T @ inside)
            span = np.column_stack([span, inside / np.linalg.norm(inside)])
        spreads = []
        for word in words:
            inside = inner @ word
            inside = inside - span @ (span.T @ inside)
            spreads.append(np.std((part - part @ span @ span.T) @ inside))
        taken.append(int(np.argmax(spreads)))
    return taken


def test_text_span_takes_texts_greedily(mapped: Mapped) -> None:
    words = np.random.default_rng(6).standard_normal((12, CLIP))
    texts = [f"w{place}" for place in range(12)]
    found = text_span(mapped.part(0), words, texts, 4)
    assert [one.place for one in found] == _slow_text_span(mapped.part(0), words, 4)
    assert [one.explained for one in found] == sorted(one.explained for one in found)
    assert text_span(mapped.part(0), words, texts, 20)[-1].explained == pytest.approx(1)
    assert text_span(mapped.part(3), words, texts) == []  # the same for all pictures
    assert match_rate([found, found[:2]], [found, found]).tolist() == [1.0, 0.5]
    with pytest.raises(DataError, match="do not agree"):
        text_span(mapped.part(0), words[:, 1:], texts)


def test_scores_are_algorithm_5_word_for_word(mapped: Mapped, feature: Feature) -> None:
    base = orthogonalized(feature)
    assert np.allclose(base @ base.T, np.eye(3))
    scores = component_scores(mapped, [feature])
    whole = sum(mapped.part(place) for place in range(4))
    for place in range(3):
        by_hand = [np.corrcoef(mapped.part(place) @ row, whole @ row)[0, 1] for row in base]
        assert scores[place, 0] == pytest.approx(np.mean(by_hand))
    assert scores[3, 0] == 0
    turned = Feature("colour", feature.values, feature.directions[[2, 0, 1]])
    assert np.allclose(component_scores(mapped, [turned]), scores)  # whatever the order of the texts
    alike = Feature("colour", ("red", "crimson"), feature.directions[[0, 0]])
    with pytest.raises(DataError, match="mean the same"):
        component_scores(mapped, [alike])


def test_retrieval_scores_are_correlations_of_cosines(mapped: Mapped, feature: Feature) -> None:
    clip = np.random.default_rng(7).standard_normal((PICTURES, CLIP)).astype(np.float32)
    scores = retrieval_scores(mapped, clip, [feature])
    by_hand = []
    for direction in feature.directions:
        mine = [row @ direction / np.linalg.norm(row) for row in mapped.part(1)]
        own = [row @ direction / np.linalg.norm(row) for row in clip.astype(float)]
        by_hand.append(np.corrcoef(mine, own)[0, 1])
    assert scores[1, 0] == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_gaps_and_top_components(mapped: Mapped) -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.1, 0.2], [0.2, 0.9, 0.0], [1.0, 0.0, 0.0]])
    assert score_gaps(scores, 0) == pytest.approx([0.1, 0.5, -0.7, 1.0])
    assert top_components(mapped, scores, 0, 2).tolist() == [0, 1]  # the bias is never among them
    assert top_components(mapped, scores, 0, 2, gap=True).tolist() == [1, 0]
    with pytest.raises(OptionError, match="give 1 to 3"):
        top_components(mapped, scores, 0, 4)
    with pytest.raises(DataError, match="two features"):
        score_gaps(scores[:, :1], 0)


def test_retrieval_equals_cosines_by_hand(mapped: Mapped, feature: Feature) -> None:
    chosen = np.array([0, 2])
    direction = feature.directions[1]
    total = mapped.part(0) + mapped.part(2)
    by_hand = [row @ direction / (np.linalg.norm(row) * np.linalg.norm(direction)) for row in total]
    assert np.allclose(by_text(mapped, chosen, direction), by_hand)
    own = (mapped.found.parts[0] + mapped.found.parts[2]).astype(float)
    similar = by_picture(mapped, chosen)
    assert similar[3, 9] == pytest.approx(own[3] @ own[9] / (np.linalg.norm(own[3]) * np.linalg.norm(own[9])), abs=1e-5)
    assert np.allclose(np.diag(similar), 1)


def test_precision_counts_the_nearest() -> None:
    similarity = np.array([[0.9, 0.5, 0.1, 0.4], [0.1, 0.2, 0.3, 0.4]])
    right = np.array([[True, False, True, True], [False, False, True, True]])
    assert text_precision(similarity, right, 0, k=2).value == pytest.approx((0.5 + 1) / 2)
    labels = np.array(["a", "a", "b", "b"])
    each = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0, 0.1], [0.1, 0, 1, 0.9], [0.2, 0.9, 0.1, 1]])
    assert picture_precision(each, labels, 0, k=1).value == pytest.approx(0.75)


def test_macro_auroc_is_the_mean_over_values(mapped: Mapped, feature: Feature) -> None:
    random = np.random.default_rng(8)
    labels = tuple(random.choice(["red", "blue", "none"], PICTURES))
    scores, shown = separations(mapped, feature, labels)
    assert (scores.shape, shown.shape) == ((4, PICTURES, 2), (PICTURES, 2))  # green is never shown
    by_hand = []
    for column in range(2):
        pairs = [
            float(a > b) + 0.5 * float(a == b)
            for a in scores[1, shown[:, column], column]
            for b in scores[1, ~shown[:, column], column]
        ]
        by_hand.append(np.mean(pairs))
    assert macro_aurocs(scores, shown)[1] == pytest.approx(np.mean(by_hand))
    estimate = macro_auroc(scores[1], shown, 0)
    assert estimate.low <= estimate.value <= estimate.high
    with pytest.raises(DataError, match="check the names"):
        separations(mapped, feature, ("pink",) * PICTURES)
