"""CIFAR with human labels, on small files of the published form; and pickles that hold more than arrays."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import DataError, TaskError
from pipeline.tasks.augment import flip_and_shift
from pipeline.tasks.load import load
from pipeline.tasks.pickled_arrays import read_pickled
from tests.tasks.files import cifar_bytes, cifar_images, write_cifar

SIZES = {"train_size": 90, "validation_size": 40, "query_size": 12, "epochs": 1}


def task(folder: Path, name: str = "cifar10n", **options: Any) -> Any:
    return load(name, {"path": str(folder), **SIZES, **options}, Path())


@pytest.mark.parametrize("zipped", [True, False])
def test_rows_are_the_files_own(tmp_path: Path, zipped: bool) -> None:
    made = task(write_cifar(tmp_path / "c", zipped=zipped), noise="worst")
    images = np.concatenate([cifar_images(30, 10, seed)[0] for seed in range(5)])
    truth = np.arange(30)[None].repeat(5, 0).ravel() % 10
    said = np.where(np.arange(150) % 3 == 0, (truth + 1) % 10, truth)
    place = {image.tobytes(): row for row, image in enumerate(images)}
    used = []
    for rows, labels, count in ((made.train_rows(), said, 90), (made.validation_rows(), truth, 40)):
        assert len(rows) == count
        for i in range(count):
            image, label = rows[i]
            row = place[(255 * image).round().numpy().astype(np.uint8).tobytes()]
            assert label == labels[row]
            used.append(row)
    assert len(set(used)) == 130
    assert made.true_labels == [int(truth[row]) for row in used[:90]]
    assert made.labels == [int(said[row]) for row in used[:90]]
    assert len(made.query_rows()) == 12
    assert {file.name for file in made.sources()} >= {"CIFAR-10_human.pt", "test_batch", "data_batch_5"}


@pytest.mark.parametrize(("noise", "step"), [("aggregate", 2), ("random1", 4), ("random3", 6), (None, 4)])
def test_each_kind_of_label_is_its_own(tmp_path: Path, noise: str | None, step: int) -> None:
    made = task(write_cifar(tmp_path / "c"), noise=noise)
    wrong = np.mean(np.array(made.labels) != np.array(made.true_labels))
    assert abs(wrong - 1 / step) < 0.12
    assert task(tmp_path / "c", noise="clean").labels == task(tmp_path / "c", noise="clean").true_labels


def test_a_hundred_classes(tmp_path: Path) -> None:
    made = task(write_cifar(tmp_path / "c", classes=100, a_batch=200), "cifar100n")
    assert len(made.classes) == 100
    assert 0.3 < np.mean(np.array(made.labels) != np.array(made.true_labels)) < 0.7
    assert made.model()(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


def test_without_a_test_batch_queries_are_other_train_rows(tmp_path: Path) -> None:
    made = task(write_cifar(tmp_path / "c", test=0))
    sets = [
        {rows[i][0].numpy().tobytes() for i in range(len(rows))}
        for rows in (made.train_rows(), made.validation_rows(), made.query_rows())
    ]
    assert len(set.union(*sets)) == 90 + 40 + 12


def test_it_trains_in_both_regimes(tmp_path: Path) -> None:
    for augment in (False, True):
        made = task(write_cifar(tmp_path / str(augment)), epochs=3, augment=augment)
        torch.manual_seed(0)
        model = made.model()
        batch = made.collate([made.train_rows()[i] for i in range(90)])
        before = float(made.loss(model, batch).detach().mean())
        made.train(model)
        assert float(made.loss(model, batch).detach().mean()) < before - 0.1


def test_a_row_is_read_from_a_picture_as_it_is_shown(tmp_path: Path) -> None:
    from PIL import Image

    made = task(write_cifar(tmp_path / "c"))
    image, label = made.train_rows()[0]
    Image.fromarray(made.show((image, label)).image).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", image.permute(1, 2, 0).numpy())
    for name in ("a.png", "a.npy"):
        read, number = made.read(tmp_path / name, "horse")
        assert torch.allclose(read, image, atol=1 / 500)
        assert number == 7


def test_flips_and_shifts_move_whole_images() -> None:
    torch.manual_seed(0)
    image = torch.zeros(200, 3, 12, 12)
    image[:, :, 5, 4] = torch.tensor([1.0, 2.0, 3.0])
    moved = flip_and_shift(image)
    assert torch.equal(moved.sum((2, 3)), image.sum((2, 3)))
    places = {tuple(int(v) for v in (one[0] == 1).nonzero()[0]) for one in moved}
    assert {row for row, _ in places} == set(range(1, 10))
    assert {column for _, column in places} == set(range(0, 12))  # 4 or, mirrored, 7; each by up to four


def refused(folder: Path, message: str, name: str = "cifar10n", **options: Any) -> None:
    with pytest.raises((DataError, TaskError), match=message):
        task(folder, name, **options)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    refused(tmp_path, r"^expected the file data_batch_1 in or below .*, found none; put cifar-10-python.tar.gz of")
    folder = write_cifar(tmp_path / "c")
    (folder / "CIFAR-10_human.pt").rename(folder / "mine.pt")
    refused(folder, r"^expected the file CIFAR-10_human.pt in or below .*labels_file$")
    assert task(folder, labels_file=str(folder / "mine.pt"), noise="worst").labels
    refused(folder, r"expected augment to be true or false", augment="no", noise="clean")
    (folder / "cifar-10-batches-py" / "data_batch_3").unlink()
    refused(folder, r"^expected the file data_batch_3 in", labels_file=str(folder / "mine.pt"))
    refused(folder, r"expected noise to be one of aggregate, worst, .*did you mean 'worst'", noise="worse")


def test_labels_of_other_images_are_refused(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path / "c")
    other = cifar_images(30, 10, 0)
    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(cifar_bytes(other[0], other[1][::-1], "labels"))
    refused(folder, r"^expected clean_label in CIFAR-10_human.pt to repeat the labels of the batches, got 30 others")
    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(cifar_bytes(other[0], other[1] + 5, "labels"))
    refused(folder, r"^expected 'labels' in data_batch_1 from 0 to 9, got 5 to 14")
    (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(cifar_bytes(other[0], other[1], "coarse"))
    refused(folder, r"^expected 'labels' in data_batch_1, got batch_label, coarse, data, filenames")


class Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"a": Runs()}, "the name (posix|nt).mkdir"),
        ({"a": np.array([Runs()], dtype=object)}, "an array of object"),
        ([1, 2], "expected a dict in x, got list"),
    ],
)
def test_a_pickle_that_would_run_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(pickle.dumps(what))
    with pytest.raises(DataError, match=message):
        read_pickled(tmp_path / "x")
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = write_cifar(tmp_path / "c") / "CIFAR-10_human.pt"
    for name, data in {"cut": whole.read_bytes()[:200], "text": b"not a pickle", "empty": b""}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"plain containers in the pickle {name}, got "):
            read_pickled(tmp_path / name)
    torch.save({"clean_label": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "complex.pt")
    with pytest.raises(DataError, match=r"the name torch.ComplexFloatStorage; nothing else is read, for safety"):
        read_pickled(tmp_path / "complex.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(DataError, match="0 members data.pkl"):
        read_pickled(tmp_path / "other.zip")


@pytest.mark.parametrize("zipped", [True, False])
def test_labels_may_be_tensors(tmp_path: Path, zipped: bool) -> None:
    arrays = task(write_cifar(tmp_path / "a"), noise="worst")
    tensors = task(write_cifar(tmp_path / "t", zipped=zipped, tensors=True), noise="worst")
    assert (tensors.labels, tensors.true_labels) == (arrays.labels, arrays.true_labels)
    file = tmp_path / "t" / "CIFAR-10_human.pt"
    said = torch.load(file, weights_only=True)
    for labels, message in (
        (said["worse_label"] + 1, r"^expected 'worse_label' in CIFAR-10_human.pt from 0 to 9, got 1 to 10"),
        (said["worse_label"].float(), r"^expected 'worse_label' in .* to be whole numbers \[n\], got float32 \(150,\)"),
        (said["worse_label"][:100], r"^expected 150 labels in CIFAR-10_human.pt, one a train image, got 100"),
    ):
        torch.save({**said, "worse_label": labels}, file, _use_new_zipfile_serialization=zipped)
        refused(tmp_path / "t", message, noise="worst")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["int64", "int32", "int16", "int8", "uint8", "bool", "float32", "float64"])
def test_tensors_come_back_as_arrays(tmp_path: Path, zipped: bool, kind: str) -> None:
    whole = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, kind))
    kept = {"whole": whole, "part": whole[1, 1:, ::2], "turned": whole[0].t(), "one": whole[1, 2, 3], "none": whole[:0]}
    torch.save({**kept, "array": np.arange(3)}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    read = read_pickled(tmp_path / "x")
    for name, tensor in kept.items():
        assert read[name].dtype == kind and np.array_equal(read[name], tensor.numpy())
    assert np.array_equal(read["array"], np.arange(3))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("start", "shape", "strides"),
    [(1, (3,), (1,)), (0, (2, 2), (2, 1)), (2, (2,), (-1,)), (-1, (1,), (1,)), (0, (9,), (0,))],
)
def test_a_tensor_beyond_its_values_is_refused(
    tmp_path: Path, zipped: bool, start: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    values = torch.arange(3)
    stored = torch.storage.TypedStorage(wrap_storage=values.untyped_storage(), dtype=values.dtype, _internal=True)

    class Beyond:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (stored, start, shape, strides, False, {})

    torch.save({"a": Beyond()}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match="a tensor beyond its values"):
        read_pickled(tmp_path / "x")


def test_a_tensor_of_another_that_repeats_a_value_is_refused(tmp_path: Path) -> None:
    """Three times the last value, and then three values from there: two of them would lie beyond the file."""

    class Repeated:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (np.arange(3), 2, (3,), (0,), False, {})

    class Beyond:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Repeated(), 0, (3,), (1,), False, {})

    (tmp_path / "x").write_bytes(pickle.dumps({"a": Beyond()}))
    with pytest.raises(DataError, match="a tensor of something else than its values"):
        read_pickled(tmp_path / "x")


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_come_back(tmp_path: Path, protocol: int) -> None:
    kept = {b"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": [1, (2, None)], "c": np.float64(2.5), "d": b"\xff"}
    (tmp_path / "x").write_bytes(pickle.dumps(kept, protocol=protocol))
    read = read_pickled(tmp_path / "x")
    assert np.array_equal(read["a"], kept[b"a"])
    assert read["a"].dtype == np.int32
    assert (read["b"], read["c"], read["d"]) == ([1, (2, None)], 2.5, b"\xff")
