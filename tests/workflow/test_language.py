"""A language model from its texts to what taught one word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from pipeline.tasks.word_problems import WordProblems
from tests.workflow.runs import SMALL, ask, succeed

OPTIONS = {"train_each": 3, "validation_each": 2, "query_each": 1, "plain_epochs": 0, "rate": 2e-3, "width": 8}
OPTIONS["counts"] = "completion"
SCORE = "influence@trained"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("texts")
    config = {**SMALL, "task": {"class": "word_problems", "options": OPTIONS}, "gradients": {"codec": "float32"}}
    (run / "mine.yaml").write_text(yaml.safe_dump(config))
    succeed("run", "-c", run / "mine.yaml", "--workdir", run, "--cores", 2, "--until", "vectors")
    return run


def scores(run: Path, *words: object) -> np.ndarray:
    """Influence on a query, or a part of it, of every train row."""
    rows = ask("query", run, "--row", "query:4", "-k", 30, "--score", SCORE, "--exact", "--json", *words).rows
    return np.array([row["score"] for row in sorted(rows, key=lambda row: row["row"])])


def test_influence_on_a_text_is_the_sum_over_its_parts(texts: Path) -> None:
    completion = WordProblems(**OPTIONS)._splits.query[4].completion
    parts = scores(texts, "--on", "0:4"), scores(texts, "--on", f"4:{len(completion) + 1}")
    whole = scores(texts)
    assert np.allclose(sum(parts), whole, rtol=1e-3, atol=1e-4 * np.abs(whole).max())
    assert not np.allclose(parts[0], parts[1], rtol=0.1)
    assert np.array_equal(scores(texts, "--on", completion[:4]), parts[0])


def test_a_run_says_how_far_off_its_norms_are(texts: Path) -> None:
    store = Layout(texts).gradients("trained", "train", "00000")
    arrays, found = Arrays(store), read_manifest(store).record["norm_error"]
    assert found == pytest.approx(np.median(arrays.read("norm_full_error") / arrays.read("norm_full")))
    assert 0 < found < 0.5  # layers see more than 16 positions
    logs = [path.read_text() for path in (texts / "logs").rglob("*") if path.is_file()]
    assert any(f"off by {found:.1%} (median standard error)" in text for text in logs)


def test_a_part_that_is_not_there_is_one_sentence(texts: Path) -> None:
    assert "expected a part of the completion" in ask("query", texts, "--row", "query:4", "--on", "unicorn").complaint
