"""Tasks that are no classification run through everything, with nothing outside their own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table
from tests.workflow.runs import ROOT, SMALL, artefacts, ask, succeed

pytestmark = pytest.mark.workflow

TASKS: dict[str, dict[str, Any]] = {
    "Regression": {"plan": {"shard_rows": 100}},
    "TinyLanguageModel": {
        "plan": {"shard_rows": 100},
        "query": {"k": 5, "scores": ["influence@trained"]},
        "projection": {"method": "kronecker", "dimension": 128},
    },
}


@pytest.fixture(scope="module", params=TASKS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one of them."""
    directory = tmp_path_factory.mktemp(request.param)
    config = {"task": {"class": f"{ROOT / 'tests/tasks/examples.py'}:{request.param}"}, **SMALL, **TASKS[request.param]}
    (directory / "my.yaml").write_text(yaml.safe_dump(config))
    succeed("run", "-c", directory / "my.yaml", "--workdir", directory / "run", "--cores", 2)
    return directory / "run"


def test_everything_but_labels_is_there(run: Path) -> None:
    made = artefacts(run)
    assert {"scores/scores", "query/topk", "report/index", "index/trained-inner"} <= made
    assert not {
        name for name in made if name.startswith(("candidates", "evaluation", "posterior", "checkpoints/folds"))
    }


def test_every_row_has_scores_and_no_label_is_suggested(run: Path) -> None:
    scores = {name: np.asarray(values) for name, values in read_table(Layout(run).scores).items()}
    assert len(scores["s"]) in (40, 60) and np.isfinite(scores["s"]).all() and (scores["s"] > 0).all()
    assert "suggested" not in scores and (scores["given"] == -1).all()


def test_it_answers(run: Path) -> None:
    rows = ask("query", run, "--row", "query:1", "-k", 3, "--json").rows
    assert [row["rank"] for row in rows] == [1, 2, 3] and "label" not in rows[0]
    assert rows[0]["score"] >= rows[1]["score"] >= rows[2]["score"]
    suspects = ask("suspects", run, "--top", 2, "--json").rows
    assert [row["suggested"] for row in suspects] == [None, None]
    assert ask("suspects", run, "--top", 2).code == 0
    assert ask("verify", run).code == 0


def test_what_needs_labels_says_so(run: Path) -> None:
    assert "expected a task with true_labels" in ask("evaluate", run).complaint
    assert "expected --score" in ask("suspects", run, "--score", "margin").complaint
