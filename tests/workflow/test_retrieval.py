"""Retrieval by groups, from a run of a language model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.stages import stage
from pipeline import config as settings
from pipeline.core.agreement import auc
from pipeline.steps.job import Job
from pipeline.steps.tasks import model_at, task_of
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table
from pipeline.tasks.transformations import SentenceTransformations
from tests.minima import write_flat
from tests.workflow.runs import SMALL, ask, succeed

OPTIONS = {"train_each": 4, "validation_each": 2, "query_each": 1, "plain_epochs": 0, "width": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("texts")
    config = {**SMALL, "task": {"class": "sentence_transformations", "options": OPTIONS},
              "scores": {"estimators": ["influence_kfac", "gex"]}, "ensemble": {"members": 2, "steps": 2}}  # fmt: skip
    (directory / "mine.yaml").write_text(yaml.safe_dump(config))
    succeed("run", "-c", directory / "mine.yaml", "--workdir", directory, "--cores", 2, "--until", "retrieval")
    return directory


def table(run: Path) -> dict[tuple[str, str], dict]:
    rows = ask("evaluate", run, "--json").rows["retrieval"]
    return {(row["method"], row["checkpoint"]): row for row in rows}


def test_every_method_that_scores_pairs_stands_beside_the_controls(run: Path) -> None:
    found = table(run)
    assert {name for name, row in found.items() if row["control"]} == {
        ("BM25", "none"), ("cosine of TF-IDF", "none"), ("cosine of features", "trained"),
        ("cosine of features", "flat"), ("chance", "none"),
    }  # fmt: skip
    methods = {("influence", "trained"), ("influence", "flat"), ("FVM, single point", "flat"), ("DataInf", "trained"),
               ("influence, K-FAC", "trained"), ("GEX", "trained")}  # fmt: skip
    assert methods <= found.keys()
    assert found["BM25", "none"]["auc"] > 0.9  # the prompt names the group
    assert found["chance", "none"]["recall"] == pytest.approx(0.1)
    parquet = read_table(run / "results/evaluation/retrieval.parquet")
    assert parquet["auc"] == [row["auc"] for row in found.values()]


def test_fvm_at_a_plain_minimum_is_called_vm(run: Path, tmp_path: Path) -> None:
    layout = Layout(Path(shutil.copytree(run, tmp_path / "run")))
    config = settings.validate(settings.read_yaml(layout.config))
    job = Job("flatten", layout, config, lambda line: None)
    write_flat(job, model_at(task_of(config, job.plan()), layout, "flat"), "plain")
    stage(layout, config, "retrieval")
    methods = {row["method"] for row in open_artefact(layout.evaluation("retrieval"), "evaluation").record["rows"]}
    assert {method for method in methods if "VM" in method} == {"VM, single point"}


def test_the_report_shows_the_table_and_nothing_is_amiss(run: Path) -> None:
    succeed("run", "--workdir", run, "--cores", 2)
    page = (run / "results/report/index.html").read_text(encoding="utf-8")
    assert "own group" in page and "BM25" in page
    assert ask("verify", run).code == 0


def test_the_figures_are_those_of_the_answers_of_queries(run: Path) -> None:
    task = SentenceTransformations(**OPTIONS)
    groups, asked, areas = task.groups("train"), task.groups("query"), []
    for query in range(10):
        words = ("--row", f"query:{query}", "-k", 40, "--score", "influence@trained", "--exact", "--json")
        scores = {row["row"]: row["score"] for row in ask("query", run, *words).rows}
        own = np.array([group == asked[query] for group in groups])
        areas.append(auc(np.array([scores[row] for row in range(40)]), own))
    assert table(run)["influence", "trained"]["auc"] == pytest.approx(np.mean(areas), abs=1e-6)
