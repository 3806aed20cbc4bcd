import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.fewshot_hard.augmentation import augment, translate
from pellucid.fewshot_hard.classifiers import linear_accuracy
from pellucid.fewshot_hard.fine_tuning import FineTuning, class_means, fine_tuned_accuracy, prototype_logits
from pellucid.fewshot_hard.narrowing import placed, used_rows
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.prototypes import accuracy, logits
from pellucid.fewshot_hard.tasks import Task, flat
from sklearn.linear_model import LogisticRegression
from torch import nn


def pool_of(seed=0, classes=6, each=30, dim=12, spread=1.0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, dim))
    labels = np.repeat(np.arange(classes), each)
    embeddings = centres[labels] + spread * random.normal(size=(len(labels), dim))
    return Pool(
        embeddings.astype(np.float32), labels, tuple("abcdefgh"[:classes]), [str(row) for row in range(len(labels))]
    )


TASKS = [
    Task((0, 2, 5), ((1, 2), (60, 61, 62), (150,)), ((3, 4), (70, 71), (155, 156))),
    Task((4, 1), ((120,), (31, 32)), ((125, 126, 127), (40, 41, 42)), "hard", 3, "greedy"),
]


def test_narrowed_tasks_see_the_same_embeddings():
    pool = pool_of()
    rows = used_rows(TASKS)
    assert list(rows) == sorted({row for t in TASKS for row in flat(t.support)[0] + flat(t.query)[0]})
    small = Pool(pool.embeddings[rows], pool.labels[rows], pool.classes, [pool.ids[row] for row in rows])
    for task, narrow in zip(TASKS, placed(TASKS, rows), strict=True):
        assert (narrow.classes, narrow.kind, narrow.seed, narrow.method, narrow.shots) == (
            task.classes, task.kind, task.seed, task.method, task.shots,
        )  # fmt: skip
        for part in ("support", "query"):
            before, after = flat(getattr(task, part))[0], flat(getattr(narrow, part))[0]
            assert [small.ids[row] for row in after] == [pool.ids[row] for row in before]
    np.testing.assert_allclose(accuracy(small, placed(TASKS, rows)), accuracy(pool, TASKS))


def test_linear_head_is_multinomial_logistic_regression_on_unit_vectors():
    pool = pool_of(spread=1.5)
    expected = []
    for task in TASKS:
        (rows, labels), (asked, truth) = flat(task.support), flat(task.query)
        scaled = pool.embeddings.astype(np.float64)
        scaled /= np.sqrt((scaled**2).sum(axis=1))[:, None]
        head = LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=5000).fit(scaled[rows], labels)
        # The same penalised likelihood, minimised by torch: what the head must be.
        way = task.way
        weights = torch.zeros(way, pool.dim, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(way, dtype=torch.float64, requires_grad=True)
        inputs, targets = torch.tensor(scaled[rows]), torch.tensor(labels)
        solver = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure(solver=solver, weights=weights, bias=bias, inputs=inputs, targets=targets):
            solver.zero_grad()
            losses = nn.functional.cross_entropy(inputs @ weights.T + bias, targets, reduction="none")
            counts = torch.bincount(targets)[targets]
            loss = (losses * len(targets) / (len(weights) * counts)).sum() + 0.5 * (weights**2).sum()
            loss.backward()
            return loss

        if way > 2:
            solver.step(closure)
            np.testing.assert_allclose(head.coef_, weights.detach().numpy(), atol=1e-4)
        expected.append(np.mean(head.predict(scaled[asked]) == truth))
    np.testing.assert_array_equal(linear_accuracy(pool, TASKS), expected)


def test_linear_head_separates_what_can_be_separated():
    pool = pool_of(spread=0.05)
    assert linear_accuracy(pool, TASKS).tolist() == [1.0, 1.0]
    assert linear_accuracy(pool, []).shape == (0,)
    with pytest.raises(OptionError, match="inverse_l2 is 0"):
        linear_accuracy(pool, TASKS, 0.0)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_torch_logits_equal_those_of_numpy(distance):
    random = np.random.default_rng(1)
    embeddings, queries = random.normal(size=(7, 5)), random.normal(size=(4, 5))
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 1])
    prototypes = class_means(torch.tensor(embeddings), labels, 3)
    means = np.stack([embeddings[labels.numpy() == label].mean(axis=0) for label in range(3)])
    np.testing.assert_allclose(prototypes, means, atol=1e-12)
    found = prototype_logits(prototypes, torch.tensor(queries), distance)
    np.testing.assert_allclose(found, logits(queries, means, distance), atol=1e-10)


def bars(n, seed, noise=0.3):
    """Pictures of two classes: a bright column on the left or on the right."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    pictures = noise * torch.randn(n, 3, 8, 8, generator=random)
    for picture, label in zip(pictures, labels, strict=True):
        picture[:, :, 1 + 5 * label] += 3
    return pictures, labels


class Blind(nn.Module):
    """Two features, of which the loud one says nothing about the class and the faint one all: it must be learnt."""

    def __init__(self):
        super().__init__()
        self.scales = nn.Parameter(torch.tensor([1.0, 0.05]))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.norm(x)
        top = x[:, :, :4].mean(dim=(1, 2, 3)) - x[:, :, 4:].mean(dim=(1, 2, 3))
        side = x[..., :4].mean(dim=(1, 2, 3)) - x[..., 4:].mean(dim=(1, 2, 3))
        return 10 * torch.stack([top, side], dim=1) * self.scales


def test_fine_tuning_learns_what_the_support_set_shows():
    support, labels = bars(6, 0, noise=2.0)
    query, truth = bars(60, 1, noise=2.0)
    module = Blind().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    still = fine_tuned_accuracy(module, support, labels, query, truth, FineTuning(steps=1, lr=1e-9))
    with torch.no_grad():
        module.eval()
        prototypes = class_means(module(support), labels, 2)
        plain = (prototype_logits(prototypes, module(query), "euclidean").argmax(dim=1) == truth).double().mean()
    module.train()
    assert still == pytest.approx(float(plain))
    tuned = fine_tuned_accuracy(module, support, labels, query, truth, FineTuning(steps=60, lr=0.05))
    assert tuned > still + 0.1
    assert tuned == fine_tuned_accuracy(module, support, labels, query, truth, FineTuning(steps=60, lr=0.05))
    # The module that was given is as it was: its weights, its statistics, its mode.
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_fine_tuning_refuses_what_cannot_work():
    support, labels = bars(4, 0)
    with pytest.raises(DataError, match=r"diverged at step .* with lr .*: give a lower lr"):
        fine_tuned_accuracy(Blind(), support, labels, support, labels, FineTuning(steps=5, lr=1e30))
    with pytest.raises(OptionError, match="steps=0"):
        FineTuning(steps=0)
    with pytest.raises(OptionError, match="distance is 'far'"):
        FineTuning(distance="far")


def test_augmentation_moves_and_recolours_each_image_by_itself():
    pictures = torch.rand(16, 3, 16, 16)
    kept = pictures.clone()
    first = augment(pictures, torch.Generator().manual_seed(3))
    assert torch.equal(pictures, kept)
    assert first.shape == pictures.shape
    assert torch.equal(first, augment(pictures, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, augment(pictures, torch.Generator().manual_seed(4)))
    # Grey pictures stay grey, and even ones even: colours change by image, never by pixel.
    grey = torch.rand(8, 1, 16, 16).expand(8, 3, 16, 16)
    changed = augment(grey, torch.Generator().manual_seed(0))
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed))
    even = augment(torch.full((8, 3, 16, 16), 0.25), torch.Generator().manual_seed(0))
    assert (even.flatten(1).std(dim=1) < 1e-6).all()
    assert even[:, 0, 0, 0].std() > 0.05


def test_translation_is_by_up_to_an_eighth_and_repeats_borders():
    ramp = torch.arange(16.0)
    pictures = (ramp[:, None] * 100 + ramp).expand(64, 3, 16, 16)
    moved = translate(pictures, torch.Generator().manual_seed(5))
    places = torch.arange(16)
    shifts = set()
    for picture in moved:
        fits = [
            (down, right)
            for down in range(-3, 4)
            for right in range(-3, 4)
            if torch.equal(picture, pictures[0][:, (places + down).clamp(0, 15)][:, :, (places + right).clamp(0, 15)])
        ]
        assert len(fits) == 1
        shifts |= set(fits)
    assert {down for down, _ in shifts} == {right for _, right in shifts} == {-2, -1, 0, 1, 2}
    assert any(down != right for down, right in shifts)
