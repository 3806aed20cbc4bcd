"""Training and test data by name: scikit-learn's, the zoo's, the thesis's synthetic sets, and files of one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pellucid.core.assets import resolve_asset
from pellucid.core.errors import DataError, OptionError
from torch import Tensor

TEST_SHARE = 0.2
"""Part of a set that is kept for testing where it does not come with test points of its own."""

Arrays = dict[str, NDArray]


@dataclass(frozen=True)
class Data:
    """Points to train on, and points to test on.

    Attributes:
        name: where they come from.
        inputs: floating point, shape (n, ...): (n, features), or (n, channels, height, width) for images.
        targets: shape (n,): int64 classes, or floating point for a regression.
        test_inputs: shape (m, ...).
        test_targets: shape (m,).
        classes: number of classes; 0 for a regression.
    """

    name: str
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return tuple(self.inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for a point: one a class, or the one of a regression."""
        return self.classes or 1


def load_data(source: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, limit: int | None = None) -> Data:
    """Load a data set.

    `iris` (120 train, 30 test, 4 features, each with mean 0 and deviation 1 over the training points), `digits`
    (1,437 and 360 images of 1x8x8, pixels 0 to 1), `mnist5k` (4,000 and 1,000 of 1x28x28, pixels 0 to 1; from the
    zoo), `gaussian` (thesis 3.5.2: 10,000 points, 5 features, 2 classes, and 1,000 test points) and `blobs` (20,000
    points, 5 features, 4 isotropic Gaussian blobs, one a class, and 1,000 test points). The thesis gives neither
    means nor deviations of the two synthetic sets: here the classes overlap, so that there are misclassified test
    points to explain.

    Anything else is a file, `.npz` or `.safetensors`, with arrays `inputs` (n, ...) and `targets` (n,), and perhaps
    `test_inputs` and `test_targets`. Integer targets are classes, 0 to the largest; others are a regression's. Values
    are taken as they are, except that uint8 images are brought to 0..1.

    Args:
        source: a name from `NAMES`, or a file.
        seed: of the split (stratified by class) and of the synthetic sets' points.
        dtype: of the inputs, torch.float64 or torch.float32.
        limit: use only so many training points, each class in its proportion, chosen by the seed.

    Raises:
        DataError: the file cannot be used; the message says what is wrong with it.
        OptionError: the dtype or the limit cannot work.
    """
    if dtype not in (torch.float64, torch.float32):
        raise OptionError(f"dtype is {dtype}: give torch.float64 (for ground truth) or torch.float32")
    if seed < 0:
        raise OptionError(f"seed is {seed}: it must be 0 or more")
    arrays = _LOADERS[source](seed) if source in _LOADERS else _checked(_file(source), source)
    if "test_inputs" not in arrays:
        arrays = _split(arrays, seed, source)
    if source == "iris":
        mean, deviation = arrays["inputs"].mean(axis=0), arrays["inputs"].std(axis=0)
        for key in ("inputs", "test_inputs"):
            arrays[key] = (arrays[key] - mean) / deviation
    if limit is not None:
        arrays |= _limited(arrays, limit, seed)
    discrete = arrays["targets"].dtype.kind in "iu"
    labels = np.concatenate([arrays["targets"], arrays["test_targets"]])

    def targets(values: NDArray) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)) if discrete else torch.from_numpy(values).to(dtype)

    return Data(
        name=source if source in _LOADERS else Path(source).stem,
        inputs=torch.from_numpy(np.ascontiguousarray(arrays["inputs"])).to(dtype),
        targets=targets(arrays["targets"]),
        test_inputs=torch.from_numpy(np.ascontiguousarray(arrays["test_inputs"])).to(dtype),
        test_targets=targets(arrays["test_targets"]),
        classes=int(labels.max()) + 1 if discrete else 0,
    )


def _iris(seed: int) -> Arrays:
    from sklearn.datasets import load_iris

    inputs, targets = load_iris(return_X_y=True)
    return {"inputs": inputs, "targets": targets}


def _digits(seed: int) -> Arrays:
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    return {"inputs": inputs.reshape(-1, 1, 8, 8) / 16, "targets": targets}


def _mnist5k(seed: int) -> Arrays:
    from safetensors.numpy import load_file

    held = load_file(resolve_asset("zoo:mnist5k"))
    return {"inputs": held["images"][:, None] / 255, "targets": held["labels"].astype(np.int64)}


def _gaussian(seed: int) -> Arrays:
    """Two Gaussian classes with means one apart in every feature and covariances of their own."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(2, 5, 5)) / np.sqrt(5) + np.eye(5)

    def draw(count: int) -> tuple[NDArray, NDArray]:
        targets = np.arange(count) % 2
        noise = random.normal(size=(count, 5))
        inputs = np.einsum("nij,nj->ni", mixing[targets], noise) + (targets[:, None] - 0.5)
        return inputs, targets

    return _drawn(draw, 10_000)


def _blobs(seed: int) -> Arrays:
    """Four blobs of deviation 1 around centres of deviation 1.5: neighbours overlap."""
    random = np.random.default_rng(seed)
    centres = random.normal(scale=1.5, size=(4, 5))

    def draw(count: int) -> tuple[NDArray, NDArray]:
        targets = np.arange(count) % 4
        return centres[targets] + random.normal(size=(count, 5)), targets

    return _drawn(draw, 20_000)


def _drawn(draw: Callable[[int], tuple[NDArray, NDArray]], count: int) -> Arrays:
    (inputs, targets), (test_inputs, test_targets) = draw(count), draw(1000)
    return {"inputs": inputs, "targets": targets, "test_inputs": test_inputs, "test_targets": test_targets}


_LOADERS: dict[str, Callable[[int], Arrays]] = {
    "iris": _iris,
    "digits": _digits,
    "mnist5k": _mnist5k,
    "gaussian": _gaussian,
    "blobs": _blobs,
}
NAMES = tuple(_LOADERS)
"""What `load_data` knows by name."""


def _file(source: str) -> Arrays:
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"{source!r} is neither a data set ({', '.join(NAMES)}) nor a file that exists")
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(f"{source} is no .npz or .safetensors: save arrays named inputs and targets in one of these")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        # Never a pickle: one can run any code when it is read.
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except Exception as error:  # both libraries raise errors of many kinds for a damaged file
        raise DataError(f"{source} cannot be read as {path.suffix} without pickles: {error}") from error


def _checked(arrays: Arrays, source: str) -> Arrays:
    """The four arrays of a file, or what is wrong with them."""
    for name in ("inputs", "targets"):
        if name not in arrays:
            raise DataError(f"{source} has no array {name!r}: it has {', '.join(sorted(arrays)) or 'none'}")
    if ("test_inputs" in arrays) != ("test_targets" in arrays):
        raise DataError(f"{source} has only one of test_inputs and test_targets: save both, or neither")
    names = ["inputs", "targets"] + (["test_inputs", "test_targets"] if "test_inputs" in arrays else [])
    arrays = {name: arrays[name] for name in names}
    for name, values in arrays.items():
        if values.dtype.kind not in "iufb":
            raise DataError(f"{source}: {name} is of type {values.dtype}: save numbers")
        if not len(values.shape) or not values.size:
            raise DataError(f"{source}: {name} has shape {values.shape}: it holds no points")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise DataError(f"{source}: {name}{list(where)} is {values[where]}: every value must be finite")
    for part in ("", "test_") if "test_inputs" in arrays else ("",):
        inputs, targets = arrays[f"{part}inputs"], arrays[f"{part}targets"]
        if inputs.ndim < 2 or targets.shape != (len(inputs),):
            raise DataError(
                f"{source}: {part}inputs has shape {inputs.shape} and {part}targets {targets.shape}: give (n, ...) "
                "and (n,)"
            )
        kinds = {targets.dtype.kind, arrays["targets"].dtype.kind}
        if len(kinds) > 1 and "f" in kinds:
            raise DataError(
                f"{source}: targets are {arrays['targets'].dtype}, test_targets {targets.dtype}: save one type"
            )
        if targets.dtype.kind in "iub":
            arrays[f"{part}targets"] = targets = targets.astype(np.int64)
            if targets.min() < 0:
                raise DataError(f"{source}: {part}targets holds class {targets.min()}: classes count from 0")
        if inputs.shape[1:] != arrays["inputs"].shape[1:]:
            raise DataError(
                f"{source}: a training point has shape {arrays['inputs'].shape[1:]}, a test point {inputs.shape[1:]}"
            )
        arrays[f"{part}inputs"] = inputs / 255 if inputs.dtype == np.uint8 else inputs.astype(np.float64)
    return arrays


def _split(arrays: Arrays, seed: int, source: str) -> Arrays:
    from sklearn.model_selection import train_test_split

    inputs, targets = arrays["inputs"], arrays["targets"]
    discrete = targets.dtype.kind in "iu"
    counts = np.bincount(targets) if discrete else np.array([len(targets)])
    fewest = int(counts[counts > 0].min())
    if len(targets) < 5 or fewest < 2 or (discrete and TEST_SHARE * len(targets) < len(counts[counts > 0])):
        raise DataError(
            f"{source} has {len(targets)} points, {fewest} of the rarest class: too few to split off test points; "
            "save test_inputs and test_targets too"
        )
    parts = train_test_split(
        inputs, targets, test_size=TEST_SHARE, random_state=seed, stratify=targets if discrete else None
    )
    return dict(zip(("inputs", "test_inputs", "targets", "test_targets"), parts, strict=True))


def _limited(arrays: Arrays, limit: int, seed: int) -> Arrays:
    """The first `limit` of a shuffle in which every class is spread evenly, so that proportions are kept."""
    targets = arrays["targets"]
    if not 1 <= limit <= len(targets):
        raise OptionError(f"limit is {limit}: there are {len(targets)} training points, use 1 to as many")
    shuffled = np.random.default_rng(seed).permutation(len(targets))
    if targets.dtype.kind not in "iu":
        chosen = shuffled[:limit]
    else:
        place = np.empty(len(targets))
        for label in np.unique(targets):
            mine = shuffled[targets[shuffled] == label]
            place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        chosen = np.argsort(place, kind="stable")[:limit]
    chosen = np.sort(chosen)
    return {"inputs": arrays["inputs"][chosen], "targets": targets[chosen]}
