import numpy as np
import pytest
import torch
from pellucid.core.errors import OptionError
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.prototypes import (
    SCALE,
    accuracy,
    gather,
    losses,
    pieces,
    query_loss,
    slopes,
    weight_slopes,
)
from pellucid.fewshot_hard.tasks import Task, flat


@pytest.fixture(scope="module")
def pool():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 30)
    embeddings = random.normal(size=(180, 7)) + random.normal(size=(6, 7))[labels]
    return Pool(embeddings.astype(np.float32), labels, tuple("abcdef"), [str(i) for i in range(180)])


def tasks_of(pool, count, seed=0):
    """Tasks of any way, shots and query sizes."""
    made = []
    for i in range(count):
        random = np.random.default_rng([seed, i])
        classes = random.permutation(len(pool.classes))[: random.integers(2, len(pool.classes) + 1)]
        support, query = [], []
        for c in classes:
            shots, asked = random.integers(1, 6), random.integers(1, 9)
            rows = random.choice(pool.members[c], shots + asked, replace=False).tolist()
            support.append(tuple(rows[:shots]))
            query.append(tuple(rows[shots:]))
        made.append(Task(tuple(classes.tolist()), tuple(support), tuple(query), seed=i))
    return made


def slow(embeddings, task, distance):
    """Loss and accuracy of one task, query by query."""
    prototypes = [embeddings[list(rows)].mean(axis=0) for rows in task.support]
    loss, right = 0.0, 0
    for row, label in zip(*flat(task.query), strict=True):
        q = embeddings[row]
        if distance == "euclidean":
            scores = np.array([-np.sum((q - c) ** 2) for c in prototypes])
        else:
            scores = np.array([SCALE * q @ c / np.linalg.norm(q) / np.linalg.norm(c) for c in prototypes])
        loss += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label]
        right += int(scores.argmax() == label)
    return loss, right / len(flat(task.query)[0])


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_loss_and_accuracy_against_one_query_at_a_time(pool, distance):
    tasks = tasks_of(pool, 40)
    expected = np.array([slow(pool.embeddings.astype(np.float64), task, distance) for task in tasks])
    np.testing.assert_allclose(query_loss(pool, tasks, distance), expected[:, 0], rtol=1e-10)
    np.testing.assert_array_equal(accuracy(pool, tasks, distance), expected[:, 1])


def test_the_origin_may_be_far(pool):
    tasks = tasks_of(pool, 10)
    # Multiples of 1/16, so that the shift loses nothing in float64.
    near = np.round(pool.embeddings.astype(np.float64) * 16) / 16
    here = Pool(near, pool.labels, pool.classes, pool.ids)
    far = Pool(near + 2.0**30, pool.labels, pool.classes, pool.ids)
    np.testing.assert_allclose(query_loss(far, tasks), query_loss(here, tasks), rtol=1e-9)
    np.testing.assert_array_equal(accuracy(far, tasks), accuracy(here, tasks))


def test_no_tasks_no_numbers(pool):
    assert query_loss(pool, []).shape == accuracy(pool, []).shape == (0,)


def test_pieces_keep_order_and_size(pool):
    tasks = tasks_of(pool, 23)
    cut = list(pieces(tasks, pool.dim, 5))
    assert [task for part in cut for task in part] == tasks
    assert max(map(len, cut)) == 5
    # Where one task's queries alone fill the memory, it goes alone.
    assert [len(part) for part in pieces(tasks, 1 << 22, 5)] == [1] * 23


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_gradients_are_those_of_autograd(pool, distance):
    tasks = tasks_of(pool, 6, seed=1)
    random = np.random.default_rng(2)
    batch = gather(pool, tasks, np.zeros(pool.dim))
    way = batch.present.shape[1]
    weights = [[random.random(30) for _ in task.classes] for task in tasks]
    features = [pool.embeddings[rows].astype(np.float64) for rows in pool.members]
    prototypes = np.zeros((len(tasks), way, pool.dim))
    for t, task in enumerate(tasks):
        for j, c in enumerate(task.classes):
            prototypes[t, j] = weights[t][j] @ features[c] / weights[t][j].sum()
    found, gradient = slopes(batch, prototypes, distance)
    np.testing.assert_allclose(found, losses(batch, prototypes, distance))
    for t, task in enumerate(tasks):
        held = [torch.tensor(w, requires_grad=True) for w in weights[t]]
        centres = torch.stack(
            [w @ torch.tensor(features[c]) / w.sum() for w, c in zip(held, task.classes, strict=True)]
        )
        centres.retain_grad()
        rows, labels = flat(task.query)
        queries = torch.tensor(pool.embeddings[rows].astype(np.float64))
        if distance == "euclidean":
            scores = -(torch.cdist(queries, centres, compute_mode="donot_use_mm_for_euclid_dist") ** 2)
        else:
            scores = SCALE * torch.cosine_similarity(queries[:, None], centres[None], dim=2)
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels), reduction="sum")
        loss.backward()
        assert found[t] == pytest.approx(loss.item(), rel=1e-9)
        wanted = centres.grad.numpy()
        assert np.abs(gradient[t, : task.way] - wanted).max() <= 1e-9 * np.abs(wanted).max()
        assert (gradient[t, task.way :] == 0).all()
        for j, c in enumerate(task.classes):
            ours = weight_slopes(features[c], weights[t][j][None], prototypes[t, j][None], gradient[t, j][None])[0]
            theirs = held[j].grad.numpy()
            assert np.abs(ours - theirs).max() <= 1e-9 * np.abs(theirs).max()


def test_an_unknown_distance_is_refused(pool):
    with pytest.raises(OptionError, match="distance is 'manhattan'"):
        query_loss(pool, tasks_of(pool, 1), "manhattan")
