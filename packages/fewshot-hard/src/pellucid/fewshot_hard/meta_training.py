"""Prototypical meta-training of a backbone: the thesis's base model (4.4.1) and the effect of meta-training (4.5.3)."""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import cos, pi
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file, writing
from pellucid.core.progress import progress
from pellucid.core.statistics import Estimate, bootstrap_mean
from pellucid.core.sweeps import digest
from torch import Tensor, nn

from .augmentation import translate
from .backbones import Backbone, load_backbone
from .fine_tuning import class_means, prototype_logits
from .images import ImageSet
from .narrowing import placed, used_rows
from .pools import Pool
from .prototypes import Distance, accuracy, check_distance
from .samplers import sample_tasks
from .tasks import Task, flat

Rows = NDArray[np.int64]

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.safetensors"
RECORD = "meta-training.json"
SCHEMA = "pellucid-meta-training/1"
_CHUNK = 256
"""Images that are embedded together."""


@dataclass(frozen=True)
class Episodes:
    """How a backbone is meta-trained.

    Attributes:
        count: episodes, each one gradient step.
        way: classes of an episode.
        shot: support images of a class.
        query: query images of a class.
        lr: learning rate of the first episode; it falls to 0 along a cosine.
        optimizer: adam, or sgd with momentum 0.9.
        distance: of queries from prototypes: euclidean (Snell et al., 2017), or cosine with a fixed scale.
        augmented: move each image by up to an eighth of each side, see `augmentation.translate`.
            Colours stay as they are: changing them too, as fine-tuning does, cost Conv-4 some 18 points on unseen
            classes of `zoo:animals` after 300 episodes.
        seed: of episodes and augmentation.
    """

    count: int = 1000
    way: int = 5
    shot: int = 5
    query: int = 10
    lr: float = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    distance: Distance = "euclidean"
    augmented: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_distance(self.distance)
        if self.count < 1 or not 0 < self.lr < float("inf"):
            raise OptionError(f"count={self.count}, lr={self.lr}: give at least one episode and lr above 0")
        if self.optimizer not in ("adam", "sgd"):
            raise OptionError(f"there is no optimizer {self.optimizer!r}: choose adam or sgd")


@dataclass(frozen=True)
class Point:
    """What was measured after some episodes.

    Attributes:
        episodes: how many; 0 is before meta-training.
        loss: mean over the episodes since the last point; None before the first.
        accuracy: of mean prototypes on the validation tasks, with its 95% interval over tasks.
    """

    episodes: int
    loss: float | None
    accuracy: Estimate


@dataclass(frozen=True)
class MetaTraining:
    """A finished meta-training.

    Attributes:
        weights: the file that `load_backbone` takes as `weights`.
        curve: points in order; the first is before meta-training, the last after it.
        train_classes: names of the classes that episodes were drawn from.
        held_out: names of the validation tasks' classes, or () where single images of all classes were held out.
        seconds: of all runs together.
    """

    weights: Path
    curve: tuple[Point, ...]
    train_classes: tuple[str, ...]
    held_out: tuple[str, ...]
    seconds: float


def meta_train(
    images: ImageSet,
    backbone: str,
    out: Path,
    episodes: Episodes | None = None,
    *,
    weights: str | None = None,
    held_out: Sequence[str] = (),
    every: int = 100,
    tasks: int = 100,
    device: str = "cpu",
) -> MetaTraining:
    """Train a backbone so that mean prototypes classify the tasks of an image set (Snell et al., 2017).

    Each episode is a task of the training classes. Its images pass through the backbone together, in training mode;
    the loss is the mean cross-entropy of its query images under the prototypes of its support images. Everything
    random follows from the seed and the episode's number, and a checkpoint is written after every `every` episodes:
    a run that was killed goes on from there and ends with the same weights, on the CPU to the bit.

    The last weights are kept, not those that were best on the validation tasks: these tasks choose nothing, so that
    their accuracy means what it says.

    Args:
        images: with labels.
        backbone: as in `load_backbone`.
        out: folder for `checkpoint.pt`, `weights.safetensors` and `meta-training.json`.
        episodes: `Episodes()` where None.
        weights: to start from, as in `load_backbone`.
        held_out: classes that are kept from training, for the validation tasks. Where there are none, a fifth of each
            class's images (at least what a task needs) is kept from training instead.
        every: episodes from one checkpoint and validation to the next.
        tasks: how many validation tasks.
        device: for torch.

    Raises:
        OptionError: an option cannot work, or the backbone has no weights to train.
        DataError: there are too few images or classes, the loss is not finite, or the folder holds the checkpoint of
            another training.
    """
    episodes = episodes or Episodes()
    if every < 1:
        raise OptionError(f"every is {every}: it must be 1 or more")
    began = time.monotonic()
    train, kept = _split(images, held_out, episodes)
    drawn = sample_tasks(
        _bare(images, train), episodes.count, "fixed", episodes.way, episodes.shot, episodes.query, episodes.seed
    )
    held_way = min(episodes.way, len(held_out)) if held_out else episodes.way
    judged = sample_tasks(
        _bare(images, kept), tasks, "fixed", held_way, episodes.shot, episodes.query, episodes.seed + 1
    )
    loaded = load_backbone(backbone, weights=weights, device=device)
    if not any(True for _ in loaded.module.parameters()):
        raise OptionError(f"the backbone {backbone!r} has no weights to train: choose another, such as conv4")
    validation = _Validation(images, kept, judged, episodes.distance)
    run = _Run(loaded, episodes, out, digest([SCHEMA, episodes, loaded.name, loaded.revision, images.contents,
                                              images.labels, train, kept, tasks]))  # fmt: skip
    run.resume()
    if not run.curve:
        run.curve.append(Point(0, None, validation.measure(loaded)))
    before, losses = run.seconds, []
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices), progress("episodes", episodes.count) as advance:
        advance(run.done)
        while run.done < episodes.count:
            task = drawn[run.done]
            rows = flat(task.support)[0] + flat(task.query)[0]
            losses.append(run.step(_pictures(images, train[rows]), task))
            if run.done % every == 0 or run.done == episodes.count:
                run.curve.append(Point(run.done, float(np.mean(losses)), validation.measure(loaded)))
                losses, run.seconds = [], before + time.monotonic() - began
                run.save()
            advance(1)
    names = tuple(images.classes[label] for label in np.unique(images.labels[train]))
    found = MetaTraining(out / WEIGHTS, tuple(run.curve), names, tuple(held_out), run.seconds)
    _write(found, loaded, weights, episodes)
    return found


class _Validation:
    """The validation tasks, and the images that they use."""

    def __init__(self, images: ImageSet, kept: Rows, tasks: Sequence[Task], distance: Distance) -> None:
        used = used_rows(tasks)
        self.tasks, self.distance = placed(tasks, used), distance
        self.images, self.rows = images, kept[used]

    def measure(self, backbone: Backbone) -> Estimate:
        """Return the accuracy of mean prototypes, in the backbone's evaluation mode."""
        backbone.module.eval()
        parts = [
            backbone(_pictures(self.images, self.rows[start : start + _CHUNK]))
            for start in range(0, len(self.rows), _CHUNK)
        ]
        pool = replace(_bare(self.images, self.rows), embeddings=np.concatenate(parts))
        return bootstrap_mean(accuracy(pool, self.tasks, self.distance), 0)


class _Run:
    """A training's state: the backbone's weights, the optimiser, and how far it is."""

    def __init__(self, backbone: Backbone, episodes: Episodes, out: Path, key: str) -> None:
        self.backbone, self.episodes, self.path, self.key = backbone, episodes, out / CHECKPOINT, key
        parameters = backbone.module.requires_grad_(True).parameters()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(parameters, lr=episodes.lr)
            if episodes.optimizer == "adam"
            else torch.optim.SGD(parameters, lr=episodes.lr, momentum=0.9)
        )
        self.done, self.curve, self.seconds = 0, list[Point](), 0.0

    def step(self, pictures: Sequence[NDArray[np.uint8]], task: Task) -> float:
        """Take one gradient step on an episode, and return its loss."""
        settings, module = self.episodes, self.backbone.module.train()
        seed = int(np.random.SeedSequence((settings.seed, self.done)).generate_state(1)[0])
        # For dropout and the like: the augmentation has a generator of its own.
        torch.manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * 0.5 * (1 + cos(pi * self.done / settings.count))
        device = next(module.parameters()).device
        batch = self.backbone.prepare(pictures).to(device)
        if settings.augmented:
            batch = translate(batch, torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        loss = episode_loss(module(batch), task, settings.distance)
        if not torch.isfinite(loss):
            raise DataError(f"meta-training diverged at episode {self.done} with lr {settings.lr:g}: give a lower lr")
        loss.backward()
        self.optimizer.step()
        self.done += 1
        return float(loss.detach())

    def save(self) -> None:
        """Write the checkpoint, whole."""
        held = io.BytesIO()
        points = [[p.episodes, p.loss, p.accuracy.value, p.accuracy.low, p.accuracy.high] for p in self.curve]
        state = {"key": self.key, "done": self.done, "seconds": self.seconds, "curve": points}
        torch.save(
            state | {"module": self.backbone.module.state_dict(), "optimizer": self.optimizer.state_dict()}, held
        )
        write_file(self.path, held.getvalue())

    def resume(self) -> None:
        """Take up the folder's checkpoint, if it holds one."""
        with writing(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            key = state["key"]
        except Exception as error:  # torch.load raises what its readers happen to raise.
            raise DataError(f"{self.path} is no checkpoint that can be read: remove it to begin anew") from error
        if key != self.key:
            raise DataError(f"{self.path} is of another training: give its options, or another folder")
        self.backbone.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self.seconds = state["done"], state["seconds"]
        self.curve = [Point(done, loss, Estimate(*ends)) for done, loss, *ends in state["curve"]]


def episode_loss(embeddings: Tensor, task: Task, distance: Distance) -> Tensor:
    """Return the mean cross-entropy of an episode's query images, whose embeddings follow those of its support."""
    labels = [torch.tensor(flat(part)[1], device=embeddings.device) for part in (task.support, task.query)]
    support, query = embeddings.split([len(each) for each in labels])
    prototypes = class_means(support, labels[0], task.way)
    return nn.functional.cross_entropy(prototype_logits(prototypes, query, distance), labels[1])


def _pictures(images: ImageSet, rows: Rows) -> list[NDArray[np.uint8]]:
    return list(images.read(rows))


def _split(images: ImageSet, held_out: Sequence[str], episodes: Episodes) -> tuple[Rows, Rows]:
    """Return the rows to train on and those of validation, ascending; no image is in both."""
    if isinstance(held_out, str):
        raise OptionError(f"held_out is the text {held_out!r}: give a list of names")
    for name in held_out:
        if name not in images.classes:
            raise OptionError(f"there is no class {name!r} to hold out: there are {', '.join(images.classes[:5])}, ...")
    if held_out:
        kept = np.isin(images.labels, [images.classes.index(name) for name in held_out])
        return np.flatnonzero(~kept), np.flatnonzero(kept)
    random = np.random.default_rng(episodes.seed)
    contents = []
    for label in np.unique(images.labels):
        distinct = np.unique(images.contents[images.labels == label])
        share = max(len(distinct) // 5, episodes.shot + episodes.query)
        contents.append(random.permutation(distinct)[:share])
    kept = np.isin(images.contents, np.concatenate(contents))
    return np.flatnonzero(~kept), np.flatnonzero(kept)


def _bare(images: ImageSet, rows: Rows) -> Pool:
    """Return the images as a pool whose embeddings say nothing: enough to sample tasks from."""
    if not len(rows):
        raise DataError("no images are left to train on, or none for validation: give more images, or hold out less")
    return Pool(
        np.zeros((len(rows), 1), dtype=np.float32),
        images.labels[rows],
        images.classes,
        [images.ids[row] for row in rows],
        contents=images.contents[rows],
    )


def _write(found: MetaTraining, backbone: Backbone, weights: str | None, episodes: Episodes) -> None:
    """Write the weights as safetensors, and what was measured as JSON."""
    from safetensors.torch import save

    # Copied one by one: safetensors refuses tensors that share memory.
    state = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.module.state_dict().items()}
    write_file(found.weights, save(state))
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "backbone": backbone.name,
        "weights": weights,
        "episodes": asdict(episodes),
        "train_classes": found.train_classes,
        "held_out": found.held_out,
        "curve": [asdict(point) for point in found.curve],
        "seconds": found.seconds,
    }
    write_file(found.weights.with_name(RECORD), (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
