"""A diffusion model with a code a time: DMin's score from stores and an index, and regions of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.shards import Plan
from pipeline.steps.stores import open_codes
from pipeline.storage.layout import Layout
from tests.workflow.runs import SMALL, ask, succeed

pytestmark = pytest.mark.workflow

OPTIONS = {"train_each": 8, "validation_each": 4, "query_each": 1, "epochs": 1, "width": 4, "parts": 2}
CONFIG = {
    **SMALL,
    "task": {"class": "diffusion", "options": OPTIONS},
    "projection": {"method": "dmin", "dimension": 512},
    "gradients": {"parts": "separate", "normalise": "part", "codec": "float32"},
    "curvature": {"kind": "identity"},
    "index": {"factory": "HNSW8", "recall_rows": 8},
    "query": {"k": 5, "scores": ["cosine@trained", "influence@trained"]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("diffusion")
    (directory / "mine.yaml").write_text(yaml.safe_dump(CONFIG))
    succeed("run", "-c", directory / "mine.yaml", "--workdir", directory, "--cores", 2, "--until", "query")
    return directory


def scores(run: Path, score: str, *words: object) -> np.ndarray:
    """The score of every train row on a query."""
    rows = ask("query", run, "--row", "query:1", "-k", 24, "--score", score, "--exact", "--json", *words).rows
    return np.array([row["score"] for row in sorted(rows, key=lambda row: row["row"])])


def test_scores_are_sums_over_times_of_products_of_unit_rows(run: Path) -> None:
    layout = Layout(run)
    plan = Plan.load(layout.plan)
    train, query = (
        open_codes(layout, plan, "trained", split).codes().astype(np.float64) for split in ("train", "query")
    )
    assert train.shape == (24, 1024)
    lengths = np.linalg.norm(train.reshape(24, 2, 512), axis=2)
    assert np.abs(lengths - 1).max() < 0.3, "compressed from length one"
    summed = np.einsum("nik,ik->n", train.reshape(24, 2, 512), query[1].reshape(2, 512))
    product = scores(run, "influence@trained")
    np.testing.assert_allclose(product / product[0], summed / summed[0], rtol=1e-4)
    cosine = summed / np.linalg.norm(train, axis=1) / np.linalg.norm(query[1])
    np.testing.assert_allclose(scores(run, "cosine@trained"), cosine, rtol=1e-4, atol=1e-6)


def test_a_region_is_asked_for_by_its_own_gradient(run: Path) -> None:
    whole, part = scores(run, "cosine@trained"), scores(run, "cosine@trained", "--on", "0:4,0:16")
    assert not np.allclose(whole, part, rtol=1e-2)
    np.testing.assert_allclose(scores(run, "cosine@trained", "--on", "0:16,0:16"), whole, rtol=1e-3, atol=1e-4)
    assert "expected a region" in ask("query", run, "--row", "query:1", "--on", "9:99,0:4").complaint


def test_the_index_answers_as_the_scan(run: Path) -> None:
    found, exact = (ask("query", run, "--row", "query:0", "-k", 3, "--score", "cosine@trained", "--json", *words).rows
                    for words in ((), ("--exact",)))  # fmt: skip
    assert [row["row"] for row in found] == [row["row"] for row in exact]
