"""What `lowland init` writes runs as it is."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from pipeline.tasks.checks import check_task, row_set
from pipeline.tasks.load import load
from pipeline.tasks.template import config_template, task_template


def test_the_written_task_runs(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(task_template())
    config = yaml.safe_load(config_template())
    task = load(config["task"]["class"], config["task"].get("options", {}), tmp_path)
    facts = check_task(task)
    assert (
        (facts.train, facts.validation, facts.query, facts.classes) == (800, 200, 50, 10)
        and facts.trains
        and facts.labelled
    )
    torch.manual_seed(0)
    model = task.model()
    task.train(model)
    batch = row_set(task, "train").batch(range(800))
    with torch.no_grad():
        right = task.logits(model, batch).argmax(1) == batch[1]
    assert right[40:].float().mean() > 0.95
    assert len(task_template().splitlines()) <= 60


def test_the_commented_options_of_the_config_are_valid(tmp_path: Path) -> None:
    """Every commented key, once uncommented, is one that the task or the default configuration has."""
    lines = config_template().splitlines()
    keys = [line.replace("# ", "", 1) for line in lines if line.lstrip().startswith("# ") and _is_key(line)]
    config = yaml.safe_load("\n".join([line for line in lines if not line.lstrip().startswith("#")] + keys))
    (tmp_path / "my_task.py").write_text(task_template())
    assert len(load(config["task"]["class"], config["task"]["options"], tmp_path).labels) == 800
    known = yaml.safe_load(Path("configs/default.yaml").read_text())
    assert (
        set(config) <= set(known)
        and set(config["task"]) <= set(known["task"])
        and set(config["projection"]) <= set(known["projection"])
    )


def _is_key(line: str) -> bool:
    word, colon, _ = line.lstrip().removeprefix("# ").partition(":")
    return bool(colon) and word.isidentifier() and word.islower()
