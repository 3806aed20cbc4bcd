import contextlib
import json

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.fewshot_hard import meta_training
from pellucid.fewshot_hard.backbones import load_backbone
from pellucid.fewshot_hard.images import ImageSet, load_images
from pellucid.fewshot_hard.meta_training import Episodes, _split, episode_loss, meta_train
from pellucid.fewshot_hard.tasks import Task
from safetensors.torch import load_file

SHORT = Episodes(count=6, way=3, shot=2, query=3)
OPTIONS = {"weights": "random", "every": 2, "tasks": 8}

CONV = "conv4:16/16"


@pytest.fixture(scope="module")
def images():
    return load_images("digits").subset(range(500))


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    return meta_train(images, CONV, tmp_path_factory.mktemp("whole"), SHORT, held_out=["7", "8", "9"], **OPTIONS)


def test_a_training_that_was_killed_ends_with_the_same_bits(images, whole, tmp_path, monkeypatch):
    steps = []

    @contextlib.contextmanager
    def dying(description, total):
        def advance(count):
            steps.append(count)
            if sum(steps) == 5:
                raise KeyboardInterrupt

        yield advance

    with monkeypatch.context() as patch:
        patch.setattr(meta_training, "progress", dying)
        with pytest.raises(KeyboardInterrupt):
            meta_train(images, CONV, tmp_path, SHORT, held_out=["7", "8", "9"], **OPTIONS)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["done"] == 4
    assert not (tmp_path / "weights.safetensors").exists()
    torch.rand(7)
    again = meta_train(images, CONV, tmp_path, SHORT, held_out=["7", "8", "9"], **OPTIONS)
    first, second = load_file(whole.weights), load_file(again.weights)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert again.curve == whole.curve
    # What is finished stays so, and its weights are the same.
    finished = meta_train(images, CONV, tmp_path, SHORT, held_out=["7", "8", "9"], **OPTIONS)
    assert finished.curve == whole.curve
    assert finished.seconds == again.seconds


def test_what_is_written_can_be_loaded(images, whole):
    record = json.loads(whole.weights.with_name("meta-training.json").read_text())
    assert record["held_out"] == ["7", "8", "9"]
    assert record["train_classes"] == list("0123456")
    assert [point["episodes"] for point in record["curve"]] == [0, 2, 4, 6]
    assert record["episodes"]["way"] == 3
    trained = load_backbone(CONV, weights=str(whole.weights))
    fresh = load_backbone(CONV, weights="random")
    assert trained.revision != fresh.revision
    pictures = list(images.read([0, 1]))
    assert not np.allclose(trained(pictures), fresh(pictures))


def test_training_helps_on_classes_that_were_held_out(images, tmp_path):
    episodes = Episodes(count=60, way=5, shot=3, query=5, augmented=False)
    found = meta_train(images, CONV, tmp_path, episodes, held_out=["7", "8", "9"], every=60, tasks=60,
                       weights="random")  # fmt: skip
    before, after = found.curve[0], found.curve[-1]
    assert before.loss is None
    assert after.accuracy.low > before.accuracy.value


def test_another_training_is_not_taken_up(images, whole, tmp_path):
    folder = whole.weights.parent
    with pytest.raises(DataError, match="is of another training"):
        meta_train(images, CONV, folder, Episodes(6, 3, 2, 3, lr=0.01), held_out=["7", "8", "9"], **OPTIONS)
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="is no checkpoint that can be read: remove it"):
        meta_train(images, CONV, tmp_path, SHORT, held_out=["7", "8", "9"], **OPTIONS)


def test_images_held_out_share_no_content_with_those_trained_on():
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (60, 4, 4), dtype=np.uint8)
    pictures[::3] = pictures[1::3]  # each a duplicate of another
    images = ImageSet(pictures, np.arange(60) // 30, ("a", "b"), tuple(str(i) for i in range(60)))
    train, kept = _split(images, (), Episodes(way=2, shot=2, query=3))
    assert sorted([*train, *kept]) == list(range(60))
    assert not set(images.contents[train]) & set(images.contents[kept])
    for label in (0, 1):
        assert len(np.unique(images.contents[kept][images.labels[kept] == label])) == 5
    train, kept = _split(images, ["b"], Episodes())
    assert set(images.labels[train]) == {0}
    assert set(images.labels[kept]) == {1}


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_episode_loss_against_one_query_at_a_time(distance):
    task = Task((3, 1, 0), ((1, 2), (3,), (4, 5, 6)), ((7,), (8, 9), (10,)))
    embeddings = np.random.default_rng(0).normal(size=(10, 4))
    groups = [embeddings[:2], embeddings[2:3], embeddings[3:6]]
    means = [group.mean(axis=0) for group in groups]
    losses = []
    for query, label in zip(embeddings[6:], (0, 1, 1, 2), strict=True):
        if distance == "euclidean":
            scores = np.array([-np.sum((query - mean) ** 2) for mean in means])
        else:
            scores = np.array([10 * query @ m / np.linalg.norm(query) / np.linalg.norm(m) for m in means])
        losses.append(np.log(np.exp(scores).sum()) - scores[label])
    found = episode_loss(torch.tensor(embeddings), task, distance)
    assert float(found) == pytest.approx(np.mean(losses))


def test_what_cannot_be_trained_is_told(images, tmp_path):
    with pytest.raises(OptionError, match="there is no class 'ten' to hold out"):
        meta_train(images, CONV, tmp_path, SHORT, held_out=["ten"], **OPTIONS)
    with pytest.raises(OptionError, match="held_out is the text"):
        meta_train(images, CONV, tmp_path, SHORT, held_out="789", **OPTIONS)
    with pytest.raises(DataError, match="no images are left"):
        meta_train(images, CONV, tmp_path, SHORT, held_out=list("0123456789"), **OPTIONS)
    with pytest.raises(OptionError, match="'pixels' has no weights to train"):
        meta_train(images, "pixels", tmp_path, SHORT, held_out=["7", "8", "9"])
    with pytest.raises(DataError, match=r"diverged at episode .* lower lr"):
        meta_train(images, CONV, tmp_path / "lost", Episodes(6, 3, 2, 3, lr=1e30), held_out=["7", "8"], **OPTIONS)
    for wrong in ({"count": 0}, {"lr": -1.0}, {"optimizer": "lion"}, {"distance": "far"}):
        with pytest.raises(OptionError):
            Episodes(**wrong)
