"""A GAN through the workflow: steps recorded and traced back beside the common stages, suspects, replay and cleansing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table
from tests.workflow.runs import SMALL, ask, succeed

pytestmark = pytest.mark.workflow

SIZES = {"train_size": 40, "validation_size": 20, "query_size": 12, "epochs": 4, "batch_rows": 20}
CONFIG = {
    **SMALL,
    "task": {"class": "gan_mixture", "options": SIZES},
    "plan": {"shard_rows": 100},
    "scores": {"estimators": ["gan_itd", "gan_aid"]},
    "suspects": {"score": "gan_itd"},
    "gan": {"epochs": 3, "horizons": [1, 3], "replayed_rows": 10, "replayed_draws": 2},
    "retrain": {"rankings": ["gan_itd", "loss_trained"], "seeds": 2},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gan")
    (directory / "my.yaml").write_text(yaml.safe_dump(CONFIG))
    succeed("run", "-c", directory / "my.yaml", "--workdir", directory / "run", "--cores", 2)
    return directory / "run"


def test_influence_on_the_generator_stands_in_the_score_table(run: Path) -> None:
    scores = {name: np.asarray(values) for name, values in read_table(Layout(run).scores).items()}
    assert np.isfinite(scores["gan_itd"]).all() and np.isfinite(scores["gan_aid"]).all() and "suggested" not in scores
    worst = ask("suspects", run, "--top", 3, "--json").rows
    assert [row["row"] for row in worst] == np.argsort(scores["gan_itd"])[:3].tolist()
    assert "cost the metric" in ask("suspects", run, "--top", 3).out
    assert ask("verify", run).code == 0


def test_replay_and_cleansing_judge_it(run: Path) -> None:
    tables = ask("evaluate", run, "--replay", "--retrain", "--json").rows
    assert {row["epochs"] for row in tables["replay"]} == {1, 3}
    assert {row["action"] for row in tables["retraining-cleansing"]} == {"nothing", "removed"}
    assert ask("evaluate", run, "--replay", "--retrain").code == 0
    succeed("report", run)
    page = (run / "results/report/index.html").read_text()
    assert "What does the metric lose without a row?" in page and "Metric gained" in page
