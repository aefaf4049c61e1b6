"""The contract, kept by every built-in task on data that the tests make, and by digits on the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import DataError, TaskError
from pipeline.tasks.base import Task
from pipeline.tasks.checks import check_task, row_set
from pipeline.tasks.load import load
from tests.tasks.files import write_cells, write_cifar, write_idx, write_letters, write_mnist_csv, write_ratings

SMALL = {
    "digits": {"train_size": 200, "validation_size": 50, "query_size": 30, "epochs": 2},
    "mnist_idx": {"train_size": 50, "validation_size": 20, "query_size": 10, "noise": "uniform", "epochs": 2},
    "fashion_mnist": {
        "train_size": 50,
        "validation_size": 20,
        "query_size": 10,
        "side": 14,
        "noise": "confusable",
        "epochs": 2,
    },
    "mnist5k": {"train_size": 40, "validation_size": 10, "noise": "uniform", "epochs": 2},
    "elpv": {"train_size": 14, "validation_size": 6, "side": 16, "noise": "uniform", "epochs": 2},
    "cifar10n": {"train_size": 80, "validation_size": 30, "query_size": 10, "noise": "worst", "epochs": 2, "width": 8},
    "letters": {"train_size": 90, "validation_size": 30, "query_size": 20, "epochs": 2},
    "vader": {"train_size": 80, "validation_size": 20, "query_size": 10, "epochs": 2},
}
IMAGES = [name for name in SMALL if name not in ("vader", "cifar10n", "letters")]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    idx = write_idx(folder / "idx")
    return {
        "mnist_idx": idx,
        "fashion_mnist": idx,
        "mnist5k": write_mnist_csv(folder / "m.csv.gz"),
        "elpv": write_cells(folder / "cells"),
        "cifar10n": write_cifar(folder / "cifar"),
        "letters": write_letters(folder / "letters.data"),
        "vader": write_ratings(folder / "hutto.tar.gz"),
    }


def make(name: str, paths: dict[str, Path], **options: Any) -> Task:
    path = {"path": str(paths[name])} if name in paths else {}
    return load(name, {**SMALL[name], **path, **options}, Path())


def inputs(rows: Any) -> list[bytes]:
    return [rows[i][0].numpy().tobytes() for i in range(len(rows))]


@pytest.mark.parametrize("name", SMALL)
def test_the_facts_are_as_asked_for(name: str, paths: dict[str, Path]) -> None:
    facts = check_task(make(name, paths))
    assert (facts.train, facts.validation) == (SMALL[name]["train_size"], SMALL[name]["validation_size"])
    assert facts.query == SMALL[name].get("query_size", {"mnist5k": 10, "elpv": 4}.get(name))
    assert facts.trains and facts.classifies and facts.labelled and facts.truth_known


@pytest.mark.parametrize("name", SMALL)
def test_splits_are_disjoint_and_seeded(name: str, paths: dict[str, Path]) -> None:
    task, again, other = make(name, paths), make(name, paths), make(name, paths, seed=1)
    sets = [inputs(rows()) for rows in (task.train_rows, task.validation_rows, task.query_rows)]
    if name != "vader":  # the made sentences share words; what their texts say is tested in test_sentences
        assert len(set().union(*sets)) == sum(map(len, sets))
    assert inputs(again.train_rows()) == sets[0] != inputs(other.train_rows())
    assert again.labels == task.labels and again.true_labels == task.true_labels


@pytest.mark.parametrize("name", SMALL)
def test_rows_carry_the_given_labels_and_losses_are_per_row(name: str, paths: dict[str, Path]) -> None:
    task = make(name, paths)
    rows, batch_of = task.train_rows(), row_set(task, "train").batch
    assert [int(rows[i][1]) for i in range(len(rows))] == task.labels != task.true_labels
    torch.manual_seed(0)
    model = task.model().eval()
    with torch.no_grad():
        together = task.loss(model, batch_of(range(6)))
        alone = torch.cat([task.loss(model, batch_of([i])) for i in range(6)])
        log_p = task.logits(model, batch_of(range(6))).double().log_softmax(1)
    oracle = torch.stack([-log_p[i, task.labels[i]] for i in range(6)])
    assert (
        together.shape == (6,)
        and torch.allclose(together, alone, atol=1e-5)
        and torch.allclose(together.double(), oracle, atol=1e-5)
    )


@pytest.mark.parametrize("name", SMALL)
def test_relabelled_rows_have_the_loss_of_the_new_label(name: str, paths: dict[str, Path]) -> None:
    task = make(name, paths)
    torch.manual_seed(0)
    model, batch = task.model().eval(), row_set(task, "train").batch(range(4))
    with torch.no_grad():
        loss = task.loss(model, task.relabel(batch, torch.zeros(4, dtype=torch.long)))
        assert torch.allclose(loss, -task.logits(model, batch).log_softmax(1)[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_training_lowers_the_loss_and_follows_the_seed(name: str, paths: dict[str, Path]) -> None:
    task = make(name, paths)
    batch = row_set(task, "train").batch(range(SMALL[name]["train_size"]))

    def train() -> tuple[float, float, torch.Tensor]:
        torch.manual_seed(5)
        model = task.model()
        with torch.no_grad():
            before = float(task.loss(model.train(), batch).mean())
        task.train(model)
        assert not model.training
        with torch.no_grad():
            return (
                before,
                float(task.loss(model.train(), batch).mean()),
                torch.cat([p.flatten() for p in model.parameters()]),
            )

    (before, after, weights), (_, _, again) = train(), train()
    assert after < before and torch.equal(weights, again)


@pytest.mark.parametrize("name", SMALL)
def test_sources_exist_or_are_a_text(name: str, paths: dict[str, Path]) -> None:
    sources = make(name, paths).sources()
    if isinstance(sources, str):
        assert sources and sources != make(name, paths, seed=3).sources()
    else:
        assert sources and all(Path(file).is_file() for file in sources)


@pytest.mark.parametrize("name", [n for n in IMAGES if n != "elpv"])
def test_planted_noise_is_in_the_train_labels_only(name: str, paths: dict[str, Path]) -> None:
    clean, noisy = (make(name, paths, noise=kind, noise_rate=0.4) for kind in ("none", "uniform"))
    count = SMALL[name]["train_size"]
    assert clean.labels == clean.true_labels == noisy.true_labels
    assert sum(a != b for a, b in zip(noisy.labels, noisy.true_labels, strict=True)) == round(0.4 * count)
    for split in ("validation_rows", "query_rows"):
        one, other = getattr(clean, split)(), getattr(noisy, split)()
        assert [int(one[i][1]) for i in range(len(one))] == [int(other[i][1]) for i in range(len(other))]


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_are_shown_and_read_back(name: str, paths: dict[str, Path], tmp_path: Path) -> None:
    from PIL import Image

    task = make(name, paths)
    row = task.train_rows()[0]
    shown = task.show(row).image
    side = row[0].shape[-1]
    assert shown.dtype == np.uint8 and shown.shape == (side, side) and np.ptp(shown) > 50
    Image.fromarray(shown).convert("RGB").save(tmp_path / "x.png")
    np.save(tmp_path / "bytes.npy", shown)
    np.save(tmp_path / "floats.npy", row[0].numpy())
    (tmp_path / "floats.json").write_text(json.dumps(row[0][0].tolist()))
    for file, error in (("x.png", 0.003), ("bytes.npy", 0.003), ("floats.npy", 0), ("floats.json", 1e-6)):
        image, label = task.read(tmp_path / file, task.classes[1])
        assert image.shape == row[0].shape and image.dtype == torch.float32 and label == 1
        assert float((image - row[0]).abs().max()) <= error
        assert np.array_equal(task.show((image, None)).image, shown)
    assert task.read(tmp_path / "x.png", None)[1] is None and task.read(tmp_path / "x.png", "0")[1] == 0


def complaint(task: Task, path: Path, label: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        task.read(path, label)
    return str(caught.value)


def test_files_that_hold_no_row(tmp_path: Path, paths: dict[str, Path]) -> None:
    task = make("digits", paths)
    (tmp_path / "a.json").write_text("{broken")
    (tmp_path / "b.json").write_text('["x"]')
    (tmp_path / "c.png").write_bytes(b"no picture")
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "e.csv").write_text("1")
    (tmp_path / "ragged.json").write_text("[[1, 2], [3]]")
    np.save(tmp_path / "f.npy", np.zeros((3, 3)))
    np.save(tmp_path / "g.npy", np.full((8, 8), np.nan))
    np.save(tmp_path / "h.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "ok.npy", np.zeros((8, 8)))
    assert complaint(task, tmp_path / "none.npy").startswith("expected a file at ")
    assert complaint(task, tmp_path / "a.json").startswith(
        "expected an array of numbers in a.json, got JSONDecodeError"
    )
    assert "expected an array of numbers in b.json, got <U1" in complaint(task, tmp_path / "b.json")
    assert "expected an array of numbers in ragged.json, got ValueError" in complaint(task, tmp_path / "ragged.json")
    assert "expected a picture in c.png, got UnidentifiedImageError" in complaint(task, tmp_path / "c.png")
    assert "expected an array of numbers in d.npy" in complaint(task, tmp_path / "d.npy")
    assert "expected .npy, .json or a picture" in complaint(task, tmp_path / "e.csv")
    assert complaint(task, tmp_path / "f.npy") == "expected 8 x 8 = 64 numbers in f.npy, got 9; resize it"
    assert complaint(task, tmp_path / "g.npy") == "expected finite numbers in g.npy, got NaN or infinity; mend the file"
    assert "expected an array of numbers in h.npy, got ValueError" in complaint(task, tmp_path / "h.npy")
    message = "expected the name or number (0 to 9) of a class, got 'ten'; known are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert complaint(task, tmp_path / "ok.npy", "ten") == message
    assert "did you mean 'trouser'?" in complaint(make("fashion_mnist", paths, side=28), _square(tmp_path), "trousr")


def _square(folder: Path) -> Path:
    np.save(folder / "square.npy", np.zeros((28, 28)))
    return folder / "square.npy"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"train_size": 1750},
            DataError,
            r"^expected at most 1797 rows in all splits together, got 1830; ask for smaller sizes$",
        ),
        ({"train_size": "many"}, TaskError, r"^expected train_size to be a whole number from 1 up, got 'many'; mend"),
        ({"train_size": 0}, TaskError, r"^expected train_size to be a whole number from 1 up, got 0"),
        ({"epochs": 2.5}, TaskError, r"^expected epochs to be a whole number from 1 up, got 2.5"),
        ({"seed": -1}, TaskError, r"^expected seed to be a whole number from 0 up, got -1"),
        (
            {"noise": "unifrom"},
            TaskError,
            r"^expected noise to be one of none, uniform, confusable, instance, got 'unifrom'",
        ),
        ({"noise_rate": 2}, TaskError, r"^expected noise_rate from 0 to 1, got 2"),
    ],
)
def test_options_out_of_range(
    options: dict[str, Any], error: type[Exception], message: str, paths: dict[str, Path]
) -> None:
    with pytest.raises(error, match=message):
        make("digits", paths, **options)


@pytest.mark.parametrize(("noise", "rate"), [("uniform", 0.2), ("confusable", 0.4)])
def test_the_demonstration_learns_its_noise_by_heart(noise: str, rate: float) -> None:
    task = load("digits", {"noise": noise, "noise_rate": rate}, Path())
    assert [len(rows()) for rows in (task.train_rows, task.validation_rows, task.query_rows)] == [1000, 300, 497]
    torch.manual_seed(0)
    model = task.model()
    task.train(model)
    batch = row_set(task, "train").batch(range(1000))
    with torch.no_grad():
        assert float((task.logits(model, batch).argmax(1) == batch[1]).float().mean()) >= 0.99
