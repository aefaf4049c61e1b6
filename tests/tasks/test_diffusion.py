"""Diffusion tasks: the process, the loss and its parts, stored noise, regions, generated queries."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.capture.cover import cover
from pipeline.errors import DataError, TaskError
from pipeline.tasks.checks import check_task, row_set
from pipeline.tasks.diffusion import Pictures, generated, grid_of, linear_schedule
from pipeline.tasks.drawn_images import SETS, images_of
from pipeline.tasks.small_diffusion import SmallDiffusion, read_pictures, save_pictures
from tests.oracles import per_sample_gradients
from tests.tasks.files import write_idx

TINY = {"train_each": 12, "validation_each": 4, "query_each": 2, "epochs": 1, "width": 4, "parts": 3}


@pytest.fixture(scope="module")
def task() -> SmallDiffusion:
    return SmallDiffusion(**TINY)


@pytest.fixture(scope="module")
def model(task: SmallDiffusion) -> torch.nn.Module:
    torch.manual_seed(0)
    return task.model().eval()


def test_the_facts_are_as_asked_for(task: SmallDiffusion) -> None:
    facts = check_task(task)
    assert (facts.train, facts.validation, facts.query, facts.parts) == (36, 12, 6, 3)
    assert facts.trains and not facts.classifies
    assert sorted(set(task.groups("train"))) == ["digits", "letters", "patterns"]
    assert set(SmallDiffusion(**TINY, groups="class").groups("train")) < {f"{s} {c}" for s in SETS for c in SETS[s]}


def test_the_loss_is_the_error_of_the_noise_at_each_time(task: SmallDiffusion, model: torch.nn.Module) -> None:
    batch = row_set(task, "train").batch(range(4))
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    for i in range(4):
        total = 0.0
        for k, time in enumerate(grid_of("even", 3, 1000)):
            image, noise = batch["clean"][i, k].double(), batch["noise"][i, k].double()
            x = (kept[time].sqrt() * image + (1 - kept[time]).sqrt() * noise).float()[None]
            found = model(x, torch.tensor([time]), batch["label"][i : i + 1]).detach()
            total += float((found[0].double() - noise).square().mean())
        assert float(task.loss(model, batch)[i].detach()) == pytest.approx(total, rel=1e-4)


def test_capture_is_autograd_whole_and_a_part(task: SmallDiffusion, model: torch.nn.Module) -> None:
    names = [name for name, _ in model.named_parameters()]
    batch = row_set(task, "train").batch(range(3))
    for piece in (batch, task.loss_part(batch, 1)):
        covered = cover(model, task.loss, names, piece)
        assert set(covered.served.values()) == {"hooks"}
        sink = Collected()
        covered.engine.capture(piece, sink)
        found = torch.cat([sink.found[name].reshape(3, -1) for name in names], 1)
        torch.testing.assert_close(found, per_sample_gradients(model, task.loss, piece, 3, names), rtol=1e-3, atol=1e-5)


class Collected:
    """A sink that keeps all gradients."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def dense(self, name: str, gradient: torch.Tensor) -> None:
        self.found[name] = gradient

    def outer(self, name: str, output, input) -> None:
        self.found[name] = torch.einsum("bto,bti->boi", dense(output), dense(input))


def dense(factor) -> torch.Tensor:
    return factor.rotated(torch.eye(factor.shape[2]))


def test_the_noise_is_one_for_all_or_a_rows_own(task: SmallDiffusion) -> None:
    rows = task.train_rows()
    assert torch.equal(rows[0]["noise"][0], rows[5]["noise"][2])
    own = [SmallDiffusion(**TINY, noise="row").train_rows() for _ in range(2)]
    assert torch.equal(own[0][5]["noise"], own[1][5]["noise"])
    assert not torch.equal(own[0][5]["noise"], own[0][4]["noise"]) and own[0][5]["noise"].unique().numel() > 700
    assert not torch.equal(rows[0]["noise"], SmallDiffusion(**TINY, seed=1).train_rows()[0]["noise"])


def test_regions_make_up_the_whole(task: SmallDiffusion, model: torch.nn.Module) -> None:
    row = task.train_rows()[3]
    top, bottom = (task.focus(row, text) for text in ("0:4,0:16", "4:16,0:16"))
    whole, upper, lower = task.loss(model, task.collate([row, top, bottom])).tolist()
    assert whole == pytest.approx(0.25 * upper + 0.75 * lower, rel=1e-5) and upper != pytest.approx(lower, rel=1e-3)


@pytest.mark.parametrize("text", ["", "2:10", "2:10,3:99", "5:5,0:4", "a:b,c:d", "-1:3,0:4", "1:2:3,0:4"])
def test_what_is_no_region_is_one_sentence(task: SmallDiffusion, text: str) -> None:
    with pytest.raises(DataError, match="expected a region rows,columns within 16 x 16 pixels"):
        task.focus(task.train_rows()[0], text)


@pytest.mark.parametrize("target", ["epsilon", "sample", "v_prediction"])
def test_image_and_noise_come_back_from_what_is_foreseen(target: str) -> None:
    process, draw = replace(linear_schedule(), target=target), torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 1, 4, 4, generator=draw) for _ in range(2))
    times = torch.tensor([10, 400, 800])
    found = process.apart(process.noisy(clean, noise, times), process.wanted(clean, noise, times), times)
    torch.testing.assert_close(found, (clean, noise), rtol=1e-3, atol=1e-3)


def test_the_paper_s_grid_is_dense_where_noise_is_high() -> None:
    for count in (1, 3, 10):
        found = grid_of("dmin", count, 1000)
        assert len(set(found)) == count and found[-1] == 999
        assert found == sorted(999 - math.floor(1000 * Fraction(k, count) ** 3) for k in range(count))


def test_square_is_the_squared_output(model: torch.nn.Module, task: SmallDiffusion) -> None:
    square = SmallDiffusion(**TINY, measure="square")
    batch = task.loss_part(row_set(task, "train").batch(range(2)), 0)
    x = task.schedule.noisy(batch["clean"][:, 0], batch["noise"][:, 0], batch["times"][:, 0])
    output = model(x, batch["times"][:, 0], batch["label"])
    torch.testing.assert_close(square.loss(model, batch), output.square().mean((1, 2, 3)))


def test_training_learns_and_generated_images_come_back_from_their_file(tmp_path: Path) -> None:
    task = SmallDiffusion(**{**TINY, "epochs": 6})
    torch.manual_seed(0)
    model = task.model()
    batch = row_set(task, "train").batch(range(36))
    before = float(task.loss(model.eval(), batch).mean().detach())
    task.train(model)
    assert float(task.loss(model, batch).mean().detach()) < 0.9 * before
    labels = torch.tensor([3, 12, 22, 3])
    made, first = generated(task, model, labels, seed=4, steps=6), generated(task, model, labels[:1], seed=4, steps=6)
    torch.testing.assert_close(made.images[:1], first.images, rtol=1e-3, atol=1e-3)
    assert not torch.equal(made.images[0], made.images[3])
    save_pictures(tmp_path / "samples.npz", made)
    rows = SmallDiffusion(**TINY, queries=tmp_path / "samples.npz").query_rows()
    assert len(rows) == 4 and int(rows[1]["label"]) == 12
    torch.testing.assert_close(rows[2]["clean"], made.journey[2])


@pytest.mark.parametrize("held", [
    {"images": np.zeros((2, 1, 16, 16))},
    {"images": np.zeros((2, 16, 16)), "labels": np.zeros(2, int)},
    {"images": np.zeros((2, 1, 16, 16)), "labels": np.array([0, 99])},
    {"images": np.full((2, 1, 16, 16), np.nan), "labels": np.zeros(2, int)},
    {"images": np.array([{}], object), "labels": np.zeros(1, int)},
])  # fmt: skip
def test_other_files_of_queries_are_one_sentence(tmp_path: Path, held: dict) -> None:
    np.savez(tmp_path / "q.npz", **held)
    with pytest.raises(DataError, match="expected .* in .*q.npz"):
        read_pictures(tmp_path / "q.npz", 26)
    (tmp_path / "q.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="expected .* in .*q.npz"):
        read_pictures(tmp_path / "q.npz", 26)


def test_a_class_can_be_left_out_and_nothing_else_changes(task: SmallDiffusion) -> None:
    less = SmallDiffusion(**TINY, without=["letters A"])
    kept = [i for i, name in enumerate(SmallDiffusion(**TINY, groups="class").groups("train")) if name != "letters A"]
    assert 0 < len(kept) < 36
    assert torch.equal(less._splits["train"].images, task._splits["train"].images[kept])
    assert torch.equal(less._splits["query"].images, task._splits["query"].images)


@pytest.mark.parametrize(("options", "message"), [
    ({"sets": ["digit"]}, "did you mean 'digits'"),
    ({"sets": ["digits", "digits"]}, "each set once"),
    ({"without": ["digits 11"]}, "expected without to be one of"),
    ({"width": 6}, "multiple of 4"),
    ({"grid": "odd"}, "expected grid"),
    ({"noise": "none"}, "expected noise"),
    ({"parts": 0}, "expected parts"),
])  # fmt: skip
def test_wrong_options_are_one_sentence(options: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        SmallDiffusion(**{**TINY, **options})


@pytest.mark.parametrize("name", SETS)
def test_images_are_seeded_disjoint_and_between_dark_and_bright(tmp_path: Path, name: str) -> None:
    folder = write_idx(tmp_path)
    found, again = (images_of(name, [12, 6], 0, folder) for _ in range(2))
    pictures = np.concatenate([part for part, _ in found])
    assert pictures.shape == (18, 16, 16) and pictures.min() >= 0 and pictures.max() <= 1
    assert len({picture.tobytes() for picture in pictures}) == 18
    assert all(
        np.array_equal(a, b) for one, two in zip(found, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert pictures.std((1, 2)).min() > 0.05


def test_fashion_without_files_says_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        SmallDiffusion(**TINY, sets=["fashion"], fashion=tmp_path)


def test_a_picture_from_a_file_is_a_row(task: SmallDiffusion, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16))
    row = task.read(tmp_path / "x.npy", "letters K")
    assert int(row["label"]) == 13 and float(row["clean"].min()) == -1 and float(row["clean"].max()) == 1
    assert task.show(row).image.shape == (16, 16)
    with pytest.raises(DataError, match="give --label"):
        task.read(tmp_path / "x.npy", None)
    assert int(SmallDiffusion(**TINY, conditional=False).read(tmp_path / "x.npy", None)["label"]) == 0
    assert isinstance(task._splits["train"], Pictures)


def test_the_training_says_when_an_epoch_has_ended() -> None:
    task, told = SmallDiffusion(**{**TINY, "epochs": 2}), []
    task.epoch_ended = lambda _, rate: told.append(rate)  # type: ignore[method-assign]
    task.train(task.model())
    assert len(told) == 2 and told[0] > told[1] > 0
