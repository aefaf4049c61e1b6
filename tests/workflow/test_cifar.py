"""CIFAR with human labels, from small files of the published form to the evaluation against CIFAR's own labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import config as settings
from pipeline.config import Config
from pipeline.steps.shared import shared_rows
from pipeline.steps.tasks import load_task
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from tests.tasks.files import write_cifar
from tests.workflow.runs import SMALL
from tests.workflow.steps import compute, stage

pytestmark = pytest.mark.workflow

SIZES = {"train_size": 60, "validation_size": 30, "query_size": 8, "epochs": 3, "width": 8}
FEW = {"projection": {"dimension": 32, "sample_rows": 30, "basis": 8, "selected": 32}, "folds": {"count": 2},
       "scores": {"estimators": ["w", "tracin"]}, "plan": {"shard_rows": 60},
       "flatten": {**SMALL["flatten"], "steps": 5}}  # fmt: skip


def config(name: str, folder: Path, sections: dict[str, Any] | None = None, **options: Any) -> Config:
    base = {"task": {"class": name, "options": {"path": str(folder), **SIZES, **options}}, **SMALL, **FEW}
    return settings.validate(settings.merge(settings.merge(settings.defaults(), base), sections or {}))


def judged(directory: Path, settled: Config) -> tuple[dict[str, np.ndarray], dict[str, list[dict[str, Any]]]]:
    """The scores of a run, and the tables of its evaluation."""
    layout = Layout(directory)
    made = compute(directory, settled)
    stage(layout, settled, "evaluate")
    assert shared_rows(layout) == []
    names = ("mislabel", "relabel")
    return made, {name: open_artefact(layout.evaluation(name), "evaluation").record["rows"] for name in names}


def test_ten_classes(tmp_path: Path) -> None:
    settled = config("cifar10n", write_cifar(tmp_path / "files"), noise="worst")
    made, tables = judged(tmp_path / "run", settled)
    truth = np.asarray(load_task(settled.task).true_labels)
    assert np.isfinite(made["s"].astype(float)).all() and np.isfinite(made["wrong"].astype(float)).all()
    assert {row["wrong"] for row in tables["relabel"]} == {(made["given"] != truth).sum()}
    assert {row["rows"] for row in tables["relabel"]} == {(made["given"] != truth).sum()}
    assert {"FVM, set level (S)", "kNN on the inputs"} <= {row["method"] for row in tables["mislabel"]}


def test_a_hundred_classes(tmp_path: Path) -> None:
    """More than `candidates.max_classes`: labels are suggested for the suspects alone, and the table says so."""
    quick = {"projection": {"method": "sjlt"}, "plan": {"shard_rows": 250}}
    settled = config("cifar100n", write_cifar(tmp_path / "files", classes=100, a_batch=260), quick, train_size=220)
    layout = Layout(tmp_path / "run")
    made, tables = judged(layout.run, settled)
    wrong = made["given"] != np.asarray(load_task(settled.task).true_labels)
    known = made["suggested"] >= 0
    assert known.sum() == round(settled.candidates.suspect_share * len(wrong))
    assert {(row["rows"], row["wrong"]) for row in tables["relabel"]} == {((wrong & known).sum(), wrong.sum())}
