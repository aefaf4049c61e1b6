"""The evidence benchmark prints what was run and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import evidence, transformer
from benchmarks.evidence import Run
from benchmarks.evidence_cells import CELLS, CHOSEN_ON, ENCODED, SMALL_PLANTED
from benchmarks.evidence_run import CODE, PLAIN, code
from benchmarks.evidence_sentences import SPLITS, Encoded, _features
from benchmarks.evidence_tables import DEFAULT, MEASURES, at_plain, rows_of
from benchmarks.stages import FINISHED
from pipeline import config as settings
from pipeline.storage.layout import Layout
from pipeline.tasks.names import BUILT_IN

OURS, LOSS, S, OLD = (
    (DEFAULT, "flat"),
    ("loss", "flat"),
    ("FVM, set level (S)", "flat"),
    ("classical influence", "trained"),
)
CELL = CELLS[0]


def run_of(ours: float, loss: float, s: float = 0.5, old: float = 0.5) -> Any:
    values = {OURS: ours, LOSS: loss, S: s, OLD: old}
    return {"AUC": values, **{measure: {} for measure, _, _ in MEASURES[1:]}}


def test_rows_are_means_over_the_seeds_and_say_who_was_best() -> None:
    rows = rows_of({CELL: [run_of(0.9, 0.8, 0.7, 0.6), run_of(0.8, 0.9, 0.8, 0.3)]}, {CELL: 1.0})
    first = rows[0]
    assert (first["wrong"], first["best other"]) == pytest.approx((0.85, 0.85))
    assert first["which"] == "loss @flat"
    assert first["seeds"] == 2 and first["role"] == CELL.role
    assert first["standard error"] == pytest.approx(0.1)  # +.1 with one seed, -.1 with the other
    assert rows[1]["loss @flat"] == "0.850 ± 0.071"
    (paired,) = [row for row in rows if row["table"].startswith("Second order")]
    assert paired["mean"] == pytest.approx(0.3) and paired["standard error"] == pytest.approx(0.2)


@pytest.mark.parametrize("runs", [[], [run_of(1, 1), {**run_of(1, 1), "AUC": {LOSS: 0.5}}]])
def test_a_cell_that_was_not_run_is_not_printed(runs: list[Any]) -> None:
    with pytest.raises(ValueError, match=f"expected runs of the same methods in the cell {CELL.name}"):
        rows_of({CELL: runs}, {CELL: 1.0})


def test_cells_are_told_apart_and_name_tasks() -> None:
    assert len({cell.slug for cell in CELLS}) == len(CELLS)
    assert {cell.task for cell in CELLS} <= {*BUILT_IN, ENCODED}
    assert all(cell.noise.startswith(("planted", "human")) for cell in CELLS)
    assert sum(cell.choice for cell in CELLS) == len(CHOSEN_ON)
    assert sum(cell.small for cell in CELLS if cell.noise.startswith("planted")) == len(SMALL_PLANTED)
    small = [cell for cell in CELLS if cell.small]
    assert {cell.heart for cell in small} == {True, False} and sum(not cell.choice for cell in small) >= 2


def test_a_run_of_other_options_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    run = Run(CELL, 0, "small")
    assert not run.made()
    run.directory.mkdir(parents=True)
    config = run.config()
    (run.directory / FINISHED).write_text(f"{config}")
    assert not run.made()  # the plain minimum is missing
    plain = Layout(run.directory.with_name(run.directory.name + PLAIN)).evaluation("mislabel")
    plain.parent.mkdir(parents=True)
    plain.write_text("")
    for other, made in (({}, True), ({"seed": 1}, False), ({"flatten": {"folds": 1}}, False)):
        (run.directory / FINISHED).write_text(f"{ {**config, **other} }")
        assert run.made() == made


def test_a_run_of_other_code_is_told_from_one_of_the_present_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    run = Run(CELL, 0, "small")
    run.directory.mkdir(parents=True)
    for by, present in (({}, False), ({CODE: "earlier"}, False), ({CODE: code(run.config())}, True)):
        (run.directory / FINISHED).write_text(f"{ {**run.config(), **by} }")
        assert run.present() == present


def test_at_a_plain_minimum_fvm_is_vm_whatever_the_run_called_it() -> None:
    found = at_plain({S: 0.7, LOSS: 0.8, OURS: 0.9, OLD: 0.6, ("loss", "trained"): 0.5})
    assert found == {("VM, set level (S)", "plain"): 0.7, ("loss", "plain"): 0.8}
    assert at_plain({("VM, W", "flat"): 0.6, ("prediction", "flat"): 0.5}) == {("VM, W", "plain"): 0.6}


def test_a_failed_run_leaves_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "keep", lambda *a, **k: kept.append(a))
    failed = subprocess.CompletedProcess([], 2, "", "expected noise")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(SystemExit, match=r"failed: no table.\nexpected noise"):
        evidence.main()
    assert not kept


def test_nothing_run_is_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="expected a cell that was run, got none"):
        evidence.main(table_only=True)


@pytest.mark.parametrize(("small", "seeds"), [(True, {0}), (False, {0, 1, 2, 3, 4})])
def test_the_small_setting_runs_one_seed_of_each_cell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: bool, seeds: set[int]
) -> None:
    asked: list[evidence.Run] = []
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "_make", asked.extend)
    monkeypatch.setattr(evidence.Cell, "there", lambda self: True)
    with pytest.raises(SystemExit, match="expected a cell that was run, got none"):
        transformer.main(small=small)
    assert {run.seed for run in asked} == seeds and len(asked) == 4 * len(seeds)


def test_encoded_sentences_are_what_was_written(tmp_path: Path) -> None:
    arrays = {f"{split}_x": np.eye(3, 5, dtype=np.float32) for split in SPLITS}
    arrays |= {f"{split}_y": np.arange(3) for split in SPLITS}
    np.savez(tmp_path / "x.npz", **arrays, truth=np.array([0, 0, 2]))
    task = Encoded(str(tmp_path / "x.npz"), hidden=4)
    assert task.labels == [0, 1, 2] and task.true_labels == [0, 0, 2]
    assert task.logits(task.model(), (task.validation_rows()[1][0][None], None)).shape == (1, 3)


def test_a_sentence_is_encoded_once(tmp_path: Path) -> None:
    met: list[int] = []

    class Encoder:
        def features(self, tokens: torch.Tensor) -> torch.Tensor:
            met.extend(tokens[:, 0].tolist())
            return tokens.float() * 2

    def rows(*texts: str) -> Any:
        return SimpleNamespace(texts=list(texts), inputs=torch.tensor([[len(text)] for text in texts]))

    first = _features(Encoder(), [rows("a", "bb"), rows("bb")], tmp_path / "known.npz")
    again = _features(Encoder(), [rows("ccc", "a")], tmp_path / "known.npz")
    assert met == [1, 2, 3]
    assert {text: value.tolist() for text, value in again.items()} == {"a": [2], "bb": [4], "ccc": [6]}
    assert first.keys() == {"a", "bb"}


@pytest.mark.parametrize("setting", evidence.SETTINGS)
def test_every_cell_asks_for_what_the_workflow_takes(setting: str) -> None:
    assert evidence.SETTINGS[setting].cells
    for cell in evidence.SETTINGS[setting].cells:
        asked = settings.validate(settings.merge(settings.defaults(), Run(cell, 0, setting).config()))
        brief = asked.task.options.get("encoder") == "scratch" and evidence.SETTINGS[setting].small
        assert asked.scores.estimators == list(evidence.SOON if brief else evidence.SETTINGS[setting].estimators)


def test_cells_that_no_name_holds_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[Run] = []
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "_make", made.extend)
    monkeypatch.setenv("EVIDENCE_CELLS", "digits, planted uniform")
    with pytest.raises(SystemExit, match="expected a cell that was run, got none"):
        evidence.main()
    assert made and {run.cell.data for run in made} == {"digits"}
    monkeypatch.setenv("EVIDENCE_CELLS", "digitz")
    with pytest.raises(SystemExit, match=r"expected EVIDENCE_CELLS to be part of .*, got 'digitz'"):
        evidence.main()
