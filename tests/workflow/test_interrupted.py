"""Rows are appended, the run that takes them in is killed half-way and started again: nothing is lost or counted twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.workflow.runs import (
    COMMAND,
    ROWS,
    Answer,
    Project,
    answer_of,
    array_bytes,
    ask,
    edited,
    environment,
    lowland,
    planned,
    table,
)
from tests.workflow.steps import compute, config_of, scores_of

pytestmark = pytest.mark.workflow


@dataclass(frozen=True)
class Interrupted:
    """What happened to a copy of the project's run."""

    run: Path
    before: dict[Path, tuple[int, bytes]]
    finished: Answer
    fresh: dict[str, np.ndarray]
    left: set[str]


def old_files(run: Path) -> dict[Path, tuple[int, bytes]]:
    """Time and bytes of all that was fitted and of the whole shards."""
    places = [
        run / "results/checkpoints",
        run / "results/projection",
        *(run / "results/gradients").glob("*/train/00000.*"),
    ]
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def kill_within_gradients(run: Path) -> None:
    """Start a run and kill it, and all that it has started, as soon as a new shard is there."""
    command = [*COMMAND, "run", "--workdir", str(run), "--cores", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    new = [run / f"results/gradients/{checkpoint}/train/00002.json" for checkpoint in ("trained", "flat")]
    deadline = time.monotonic() + 300
    while not any(manifest.exists() for manifest in new):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def interrupted(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    directory = tmp_path_factory.mktemp("interrupted")
    run = project.copy_of_run(directory)
    before = old_files(run)
    with edited(project.data, array_bytes(table(ROWS + 25))):
        kill_within_gradients(run)
        assert (
            not (run / "results/gradients/trained/train/00002.json").exists()
            or not (run / "results/gradients/flat/train/00002.json").exists()
        )
        finished = answer_of(lowland("run", "--workdir", run, "--cores", 2))
        for name in ("checkpoints", "projection"):
            shutil.copytree(project.run / "results" / name, directory / "fresh" / "results" / name)
        fresh = compute(directory / "fresh", config_of(project.config))
        yield Interrupted(run, before, finished, fresh, planned(run))


def test_the_lock_of_the_dead_is_removed_with_a_word(interrupted: Interrupted) -> None:
    assert "is gone, and so are its jobs: its lock was removed" in interrupted.finished.err


def test_the_next_run_finishes(interrupted: Interrupted) -> None:
    assert interrupted.finished.code == 0, interrupted.finished.err
    assert interrupted.left == set()
    assert ask("verify", interrupted.run).code == 0


def test_old_shards_and_what_was_fitted_are_the_same_files(interrupted: Interrupted) -> None:
    assert interrupted.before and old_files(interrupted.run) == interrupted.before


def test_no_temporary_file_stays(interrupted: Interrupted) -> None:
    assert not list((interrupted.run / "results").rglob(".*.tmp"))


def test_answers_are_those_of_a_fresh_store(interrupted: Interrupted) -> None:
    scores = scores_of(interrupted.run)
    assert scores["row"].tolist() == list(range(ROWS + 25))
    for name in ("s", "w", "loss_flat", "loss_trained", "self_influence"):
        assert np.allclose(scores[name], interrupted.fresh[name], rtol=1e-4, atol=1e-6 * np.abs(scores[name]).max()), (
            name
        )
    assert (scores["suggested"] == interrupted.fresh["suggested"]).all()


def test_the_report_says_that_rows_are_new(interrupted: Interrupted) -> None:
    page = (interrupted.run / "results/report/index.html").read_text(encoding="utf-8")
    assert f"{25 / (ROWS + 25):.1%} of the train rows came after the checkpoints were made" in page
