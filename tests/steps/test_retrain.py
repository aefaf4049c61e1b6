"""Retraining on changed rows: what each member had, that it goes on where it stopped, and the tables made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import config as settings
from pipeline.core.memorisation import influence
from pipeline.errors import ConfigError, TaskError
from pipeline.methods import METHODS, RANKED
from pipeline.retrainings import Member, blocks, members
from pipeline.shards import Plan
from pipeline.steps import memorisation, prepare, retrain, retraining
from pipeline.steps.job import Job
from pipeline.steps.ranking import usual
from pipeline.steps.retrained import open_retrained
from pipeline.steps.selection import Selector
from pipeline.steps.tasks import model_at, task_of
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import manifest_path, read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table, write_table
from pipeline.storage.weights import save_weights
from pipeline.tasks.checks import row_set
from tests.minima import write_flat

ROWS = 40
SAID = {"suggested": 4, "predicted": 5, "otherwise": 6}
"""Columns of the score table that say a label, and what they say of every row."""
RETRAIN = {
    "members": 3, "lds_subsets": 4, "lds_seeds": 2, "memorisation_models": 6, "seeds": 2, "rankings": ["loss_flat"],
    "single_rows": 2, "single_seeds": 1, "memorised_threshold": 0.01,
}  # fmt: skip
OPTIONS = {"train_size": ROWS, "validation_size": 10, "query_size": 10, "epochs": 3, "hidden": [8], "noise_rate": 0.1}


def job(run: Path, stage: str, **sections: Any) -> Job:
    overlay = {"task": {"class": "digits", "options": OPTIONS}, "retrain": RETRAIN, **sections}
    return Job(stage, Layout(run), settings.validate(settings.merge(settings.defaults(), overlay)), lambda line: None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that is prepared and has a plain minimum, with scores that call the first rows the worst."""
    prepare.run(job(tmp_path, "prepare"))
    scores = job(tmp_path, "scores")
    write_flat(scores, task_of(scores.config, scores.plan()).model(), "plain")
    with scores.writing(scores.layout.scores, "scores", {"estimators": list(METHODS), "posterior": "made"}) as (
        path,
        _,
    ):
        falling = np.arange(ROWS, 0, -1.0)
        labels = {name: np.full(ROWS, label) for name, label in SAID.items()}
        write_table(path, {"given": np.zeros(ROWS, int), **labels, **dict.fromkeys(RANKED, falling)}, {})
    return tmp_path


def train(run: Path, set_name: str, **sections: Any) -> Job:
    made = job(run, "retrain", **sections)
    for block in blocks(made.config.retrain, set_name):
        retrain.run(made, set_name, block)
    return made


def kept_of(run: Path, set_name: str, member: str) -> np.ndarray:
    return Arrays(Layout(run).retrained(set_name, member)).read("kept").astype(bool)


def test_every_member_is_in_one_block():
    section = job(Path(), "retrain").config.retrain
    for name in ("half", "most", "removal", "memorised", "single"):
        listed = [member for block in blocks(section, name).values() for member in block]
        assert sorted(listed, key=str) == sorted(members(section, name), key=str)


def test_random_subsets_are_halves_of_their_own_and_the_same_under_every_seed(run):
    train(run, "half")
    masks = [kept_of(run, "half", f"{i:05d}-0") for i in range(4)]
    assert all(mask.sum() == ROWS // 2 for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 4
    assert np.array_equal(masks[2], kept_of(run, "half", "00002-1"))


def test_members_of_one_subset_differ_by_their_seed_and_can_be_made_again_bit_for_bit(run):
    made = train(run, "half")
    first, second = (Arrays(made.layout.retrained("half", f"00001-{seed}")).read("query_loss") for seed in (0, 1))
    assert not np.array_equal(first, second)
    manifest_path(made.layout.retrained("half", "00001-0")).unlink()
    train(run, "half", retrain={**RETRAIN, "members": 5})
    assert np.array_equal(Arrays(made.layout.retrained("half", "00001-0")).read("query_loss"), first)


def test_a_job_goes_on_where_it_stopped(run):
    made = train(run, "half")
    places = {member.name: manifest_path(made.layout.retrained("half", member.name)) for member in
              members(made.config.retrain, "half")}  # fmt: skip
    before = {name: place.stat().st_mtime_ns for name, place in places.items()}
    places["00003-1"].unlink()
    train(run, "half")
    assert {name for name, place in places.items() if place.stat().st_mtime_ns != before[name]} == {"00003-1"}
    train(run, "half", retrain={**RETRAIN, "lds_fraction": 0.25})
    assert all(place.stat().st_mtime_ns != before[name] for name, place in places.items())


def test_suspects_are_removed_relabelled_and_the_others_pruned(run):
    made = train(run, "removal")
    retrained = open_retrained(made.layout, made.plan(), made.config, "removal")
    wrong = retrained.manifests[retrained.members.index(Member("oracle.relabelled", 0))].identity["labels"]
    assert len(wrong) == 4
    assert np.flatnonzero(~kept_of(run, "removal", "loss_flat.removed-0")).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(kept_of(run, "removal", "loss_flat.pruned-0")).tolist() == list(range(ROWS // 2))
    assert np.flatnonzero(~kept_of(run, "removal", "oracle.removed-1")).tolist() == [row for row, _ in wrong]
    relabelled = retrained.manifests[retrained.members.index(Member("loss_flat.relabelled", 1))].identity["labels"]
    assert relabelled == [[row, 5] for row in range(4)]
    random = [kept_of(run, "removal", f"random.removed-{seed}") for seed in (0, 1)]
    assert [mask.sum() for mask in random] == [ROWS - 4] * 2 and not np.array_equal(*random)
    _check_table(made, retrained.correct("query"), [member.action for member in retrained.members])


def _check_table(made: Job, correct: np.ndarray, actions: list[str]) -> None:
    retraining.run(made, "removal")
    rows = {
        (row["rows"], row["action"]): row
        for row in read_manifest(made.layout.evaluation("retraining-removal")).record["rows"]
    }
    of = {action: correct[[i for i, each in enumerate(actions) if each == action]].mean(1) for action in set(actions)}
    row = rows["loss", "removed"]
    assert row["accuracy"] == pytest.approx(of["loss_flat.removed"].mean())
    difference = of["loss_flat.removed"] - of["random.removed"]
    assert row["over_control"] == pytest.approx(difference.mean())
    assert row["over_control_error"] == pytest.approx(difference.std(ddof=1) / np.sqrt(2))
    assert (row["removed"], row["relabelled"], row["seeds"]) == (4, 0, 2)
    assert made.layout.evaluation("retraining-removal").with_suffix(".md").read_text().count("\n| ") == len(rows) + 2


@pytest.mark.parametrize(("ranking", "label"), [
    ("wrong", "otherwise"), ("s", "suggested"), ("self_influence", "suggested"), ("loss_flat", "predicted"),
    ("norm_flat", "predicted"),
])  # fmt: skip
def test_rows_get_the_label_that_belongs_to_their_ranking(run, ranking, label):
    made = job(run, "retrain")
    selector = Selector(made, task_of(made.config, made.plan()), "removal")
    found = selector.of(Member(f"{ranking}.relabelled", 0))
    assert found.labels == dict.fromkeys(range(4), SAID[label]) and len(found.kept) == ROWS


def test_the_loss_at_trained_gets_what_the_model_there_predicts_and_nothing_of_fvm(run):
    made = job(run, "retrain")
    task = task_of(made.config, made.plan())
    model, stream = task.model(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():  # as it starts, it predicts one class of all rows
            weights.normal_(generator=stream)
    with made.writing(made.layout.checkpoint("trained"), "checkpoint", {}) as (path, _):
        save_weights(path, model)
    with torch.no_grad():
        logits = task.logits(model_at(task, made.layout, "trained"), row_set(task, "train").batch(range(ROWS)))
    expected = logits.argmax(1).tolist()
    assert len(set(expected[:4])) > 1
    found = Selector(made, task, "removal").of(Member("loss_trained.relabelled", 0))
    assert found.labels == dict(enumerate(expected[:4]))


def test_the_default_of_suspects_is_judged_by_default_where_there_are_labels():
    section = settings.validate(settings.defaults()).retrain
    plan = Plan({}, (), True, True, 8, "", (), {}, {})
    assert usual(settings.defaults()["suspects"]["score"], plan) in section.rankings
    actions = {name: {member.action for member in members(section, name)} for name in ("removal", "cleansing")}
    assert {f"wrong.{act}" for act in ("removed", "relabelled", "pruned")} < actions["removal"]
    assert len(actions["removal"]) == 17  # as docs/evaluation.md says
    assert actions["cleansing"] == {
        "whole",
        *(f"{name}.removed" for name in ("random", "s", "loss_flat", "loss_trained")),
    }


def test_fvm_at_a_plain_minimum_is_called_vm(run):
    retrain_section = {**RETRAIN, "rankings": ["s"]}
    made = train(run, "removal", retrain=retrain_section)
    retraining.run(made, "removal")
    rows = read_manifest(made.layout.evaluation("retraining-removal")).record["rows"]
    assert {row["rows"] for row in rows if row["checkpoint"] == "flat"} == {"VM, set level (S)"}


def test_memorisation_comes_from_the_members_and_serves_removal(run):
    made = train(run, "most")
    memorisation.run(made)
    retrained = open_retrained(made.layout, made.plan(), made.config, "most")
    kept = retrained.read("kept").astype(bool)
    assert (kept.sum(1) == round(0.7 * ROWS)).all()
    own = read_table(made.layout.evaluation("memorisation"), ["memorisation"])["memorisation"]
    assert np.array_equal(np.diagonal(influence(kept, retrained.correct("train")).value), own, equal_nan=True)
    pairs = Arrays(made.layout.pairs).read("influence")
    np.testing.assert_allclose(pairs, influence(kept, retrained.correct("query")).value, atol=1e-6)
    figures = [row["figure"] for row in read_manifest(made.layout.evaluation("memorised")).record["rows"]]
    assert "AUC of wrong labels by VM, set level (S) at flat" in figures and not any("FVM" in each for each in figures)
    train(run, "memorised")
    removed = ~kept_of(run, "memorised", "memorised.removed-0")
    assert np.array_equal(np.flatnonzero(removed), np.flatnonzero(np.nan_to_num(own) >= 0.01))
    assert (~kept_of(run, "memorised", "random.removed-0")).sum() == removed.sum()


def test_a_ranking_that_the_run_does_not_have_is_named(run):
    with pytest.raises(ConfigError, match="expected retrain.rankings out of the scores of the run, .* got 'trak'"):
        made = job(run, "scores")
        with made.writing(made.layout.scores, "scores", {"estimators": ["s"], "posterior": None}) as (path, _):
            write_table(path, {"s": np.zeros(ROWS)}, {})
        train(run, "removal", retrain={**RETRAIN, "rankings": ["trak"]})


def test_one_row_is_left_out(run):
    train(run, "single")
    assert kept_of(run, "single", "whole-0").all()
    assert [(~kept_of(run, "single", f"row0000{i}-0")).sum() for i in (0, 1)] == [1, 1]


def test_a_task_that_does_not_train_is_refused(run, monkeypatch):
    monkeypatch.setattr(retrain, "trains", lambda task: False)
    with pytest.raises(TaskError, match="expected a task that trains its model to retrain it"):
        train(run, "half")
