"""Joint training recorded, traced back and replayed: the stages `record`, `trace` and `replay`, and cleansing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import config as settings
from pipeline.errors import CapacityError, ConfigError, DataError, TaskError
from pipeline.retrainings import blocks
from pipeline.steps import prepare, record, replay, retrain, retraining, trace, train
from pipeline.steps.job import Job
from pipeline.steps.ranking import read_suspects
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import open_artefact, read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.tables import write_table

ROWS, EPOCHS = 60, 4
OPTIONS = {
    "train_size": ROWS,
    "validation_size": 40,
    "query_size": 40,
    "epochs": EPOCHS,
    "batch_rows": 20,
    "rate": 5e-3,
}
GAN = {"epochs": 3, "horizons": [1, 3, 50], "replayed_rows": 20, "replayed_draws": 3}
RETRAIN = {"members": 4, "seeds": 2, "removed_share": 0.1, "rankings": ["gan_itd", "loss_trained"]}
COLUMNS = ["loss_trained", "gan_itd", "gan_aid"]


def job(run: Path, stage: str, task: dict[str, Any] | None = None, **sections: Any) -> Job:
    described = {"class": "gan_mixture", "options": OPTIONS, **(task or {})}
    overlay = {"task": described, "gan": GAN, "retrain": RETRAIN}
    config = settings.merge(settings.merge(settings.defaults(), overlay), sections)
    return Job(stage, Layout(run), settings.validate(config), lambda line: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rows have scores; loss_trained is made up: the first row the worst."""
    run = tmp_path_factory.mktemp("gan")
    prepare.run(job(run, "prepare"))
    train.run(job(run, "train"))
    record.run(job(run, "record"))
    columns: dict[str, Any] = {
        "given": np.full(ROWS, -1),
        "loss_flat": np.zeros(ROWS),
        "loss_trained": np.arange(ROWS, 0, -1.0),
    }
    for name in ("gan_itd", "gan_aid"):
        trace.run(job(run, "trace"), name)
        columns[name] = Arrays(Layout(run).solved(name)).read("train")
    scores = job(run, "scores")
    with scores.writing(scores.layout.scores, "scores", {"estimators": COLUMNS, "posterior": None}) as (path, _):
        write_table(path, columns, {})
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def solved(run: Path, name: str, array: str = "train") -> np.ndarray[Any, Any]:
    return Arrays(Layout(run).solved(name)).read(array)


def test_every_row_of_the_last_epochs_has_an_influence_that_grows_with_them(made: Path) -> None:
    horizons = solved(made, "gan_itd", "horizons")
    assert horizons.shape == (3, ROWS) and np.isfinite(horizons).all()
    np.testing.assert_array_equal(horizons[-1], solved(made, "gan_itd"))
    assert np.abs(horizons[1]).mean() > np.abs(horizons[0]).mean()
    assert read_manifest(Layout(made).recorded).record["steps"] == 3 * ROWS // 20


def test_fewer_recorded_epochs_say_what_the_last_of_more_did(run: Path) -> None:
    whole = solved(run, "gan_itd", "horizons")
    record.run(job(run, "record", gan={"epochs": 2}))
    trace.run(job(run, "trace"), "gan_itd")
    np.testing.assert_array_equal(solved(run, "gan_itd", "horizons"), whole[:2])


def test_replays_confirm_the_estimate_and_not_the_control(made: Path) -> None:
    replay.run(job(made, "replay"))
    rows = open_artefact(Layout(made).evaluation("replay"), "evaluation").record["rows"]
    kendall = {(row["epochs"], row["method"]): row["kendall"] for row in rows}
    assert {epochs for epochs, _ in kendall} == {1, 3}  # 50 were not recorded
    assert min(kendall[epochs, "GAN, through the steps (ITD)"] for epochs in (1, 3)) > 0.9
    assert max(abs(kendall[epochs, "loss"]) for epochs in (1, 3)) < 0.5
    assert all(np.isfinite(row["gain"]) and row["spread"] > 0 and 0 <= row["harmful"] <= 1 for row in rows)


def test_suspects_are_ranked_by_the_harm_that_they_did(made: Path) -> None:
    prepared = job(made, "prepare")
    found = read_suspects(prepared.layout, prepared.plan(), "gan_itd", 3)
    assert [each.row for each in found] == np.argsort(solved(made, "gan_itd"))[:3].tolist()
    assert found[0].score == pytest.approx(-solved(made, "gan_itd").min())


def test_cleansing_removes_and_judges_by_the_metric(run: Path) -> None:
    wanted = job(run, "retrain")
    for block in blocks(wanted.config.retrain, "cleansing"):
        retrain.run(wanted, "cleansing", block)
    retraining.run(job(run, "retraining"), "cleansing")
    rows = open_artefact(Layout(run).evaluation("retraining-cleansing"), "evaluation").record["rows"]
    assert [(row["action"], row["removed"]) for row in rows] == [("nothing", 0), *[("removed", ROWS // 10)] * 3]
    assert all(-20 < row["metric"] < 0 for row in rows) and len({row["metric"] for row in rows}) == 4
    kept = Arrays(Layout(run).retrained("cleansing", "loss_trained.removed-0")).read("kept")
    assert kept[: ROWS // 10].sum() == 0 and kept.sum() == ROWS - ROWS // 10


def test_depth_damping_and_scale_change_what_is_at_rest(run: Path) -> None:
    first = solved(run, "gan_aid")
    for section in ({"depth": 3}, {"damping": 0.5}, {"scale": 0.5}):
        trace.run(job(run, "trace", gan=section), "gan_aid")
        assert not np.allclose(solved(run, "gan_aid"), first, rtol=1e-3)
        assert np.isfinite(solved(run, "gan_aid")).all()


def test_what_cannot_be_recorded_is_refused(run: Path) -> None:
    with pytest.raises(TaskError, match="expected the training to come to `trained` again"):
        record.run(job(run, "record", seed=1))
    with pytest.raises(ConfigError, match=r"expected no task\.checkpoint with gan_itd"):
        record.run(job(run, "record", {"checkpoint": str(run / "model.pt")}))
    with pytest.raises(CapacityError, match=r"lower gan\.epochs or raise compute\.memory_mb"):
        record.run(
            job(run, "record", {"options": {**OPTIONS, "epochs": 30}}, gan={"epochs": 0}, compute={"memory_mb": 1})
        )
    with pytest.raises(TaskError, match="expected a task that trains a generator against a discriminator"):
        record.adversarial(prepare.load_task(job(run, "record", {"class": "digits", "options": {}}).config.task))
    with pytest.raises(DataError, match="expected a classification"):
        retraining.table(_unlabelled(), Layout(run), job(run, "retraining").config.checkpoints)


def _unlabelled() -> Any:
    from pipeline.steps.retrained import Retrained

    return Retrained((), (), ({"query_loss": np.zeros(3)},))  # type: ignore[arg-type]
