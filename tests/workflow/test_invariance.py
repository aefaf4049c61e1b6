"""What must not matter does not: shards, batches, threads, the order of rows, and true labels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline.config import Config
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from tests.workflow.runs import ROWS, Project, array_bytes, edited, table
from tests.workflow.steps import compute, config_of, scores_of

pytestmark = pytest.mark.workflow

NUMBERS = ("s", "w", "loss_flat", "loss_trained", "norm_flat", "self_influence", "tracin", "classical", "wrong")
EXACT = {"gradients": {"codec": "float32"}}
"""Without rounding to eight bits, which may go either way when the seventh digit differs."""


@pytest.fixture(scope="module")
def reference(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in float32, made in this process."""
    directory = tmp_path_factory.mktemp("reference")
    compute(directory, config_of(project.config, **EXACT))
    return directory


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Equal up to rounding; small values of signed columns are sums that cancel."""
    for name in NUMBERS:
        assert np.allclose(one[name], other[name], rtol=1e-4, atol=1e-5 * np.abs(one[name]).max()), name
    assert spearmanr(one["s"], other["s"]).statistic > 0.9999
    assert (one["suggested"] == other["suggested"]).all()


def beginning(reference: Path, directory: Path, *kept: str) -> Path:
    """A run that starts with some results of the reference."""
    for name in kept:
        shutil.copytree(reference / "results" / name, directory / "results" / name)
    return directory


@pytest.mark.parametrize(
    "changed",
    [
        {"plan": {"shard_rows": 7}},
        {"plan": {"shard_rows": 1000}},
        {"gradients": {**EXACT["gradients"], "batch_rows": 4}},
        {"compute": {"threads": 2}},
    ],
    ids=["shards of 7 rows", "one shard", "batches of 4 rows", "two threads"],
)
def test_how_it_is_computed_changes_no_score(reference: Path, project: Project, tmp_path: Path, changed: dict) -> None:
    config: Config = config_of(project.config, **{**EXACT, **changed})
    same(scores_of(reference), compute(beginning(reference, tmp_path, "checkpoints"), config))


@pytest.fixture
def permutation(project: Project) -> Iterator[np.ndarray]:
    """The train rows in another order for a while."""
    order = np.random.default_rng(0).permutation(ROWS)
    with edited(project.data, array_bytes(table(ROWS)[order])):
        yield order


def test_the_order_of_rows_changes_no_score(
    reference: Path, project: Project, tmp_path: Path, permutation: np.ndarray
) -> None:
    made = compute(beginning(reference, tmp_path, "checkpoints"), config_of(project.config, **EXACT))
    back = np.argsort(permutation)
    same(scores_of(reference), {name: values[back] for name, values in made.items()})
    assert (made["content"][back] == scores_of(reference)["content"]).all()


FURTHER = {
    "flatten": {"strength": "auto", "candidates": [0.05, 0.2], "folds": 2},
    "checkpoints": {"seeds": 1},
    "ensemble": {"members": 2, "steps": 4, "batch_rows": 10},
    "scores": {
        "estimators": ["w", "self_influence", "tracin", "classical", "trak", "datainf", "relatif", "cosine",
                       "confident_learning", "classical_ekfac", "s_kfac", "w_ekfac", "gex"]
    },
}  # fmt: skip
"""The strength sought on held-out rows, the default estimators and further ones."""


def test_true_labels_change_no_score(project: Project, tmp_path: Path) -> None:
    config = config_of(project.config, **FURTHER)
    first = compute(tmp_path / "first", config)
    rows = table(ROWS)
    rows[:, 65] = np.random.default_rng(1).permutation(rows[:, 65])
    assert (rows != table(ROWS)).any()
    with edited(project.data, array_bytes(rows)):
        second = compute(tmp_path / "second", config)
    assert set(config.scores.estimators) <= set(first)
    for name, values in first.items():
        assert np.array_equal(values, second[name], equal_nan=values.dtype.kind == "f"), name
    for name in config.scores.estimators:
        assert np.isfinite(first[name].astype(float)).all(), name
    strengths = [
        read_manifest(Layout(tmp_path / run).checkpoint("flat")).identity["strength"] for run in ("first", "second")
    ]
    assert strengths[0] == strengths[1]


def test_the_workflow_computes_what_its_steps_do(project: Project, tmp_path: Path) -> None:
    """Two cores, a process a job, against one after another here."""
    made = compute(tmp_path, config_of(project.config))
    same(scores_of(project.run), made)
