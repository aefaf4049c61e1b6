"""How well each score finds wrong labels, and what relabelling gets right, by the workflow's stages on many data sets.

A cell (`benchmarks.evidence_cells`) is run with the defaults of `lowland run` and all estimators for each seed, in a
process (`benchmarks.evidence_run`) and a directory of its own under `runs/evidence/`, which is kept: an interrupted
benchmark goes on where it stopped, and one that is asked again runs nothing. `--small` is meant to take half an hour on
two cores, `--full` a night; `--table` runs nothing and prints what has been run. A figure is printed if its cell was
run by the present options, and not otherwise; named are cells that were not run and cells whose data are not there, and
how many runs were made by other code than the present one. A run that fails stops all. Noise is human or planted, and
is called so.

EVIDENCE_CELLS="Fashion-MNIST, planted uniform" in the environment runs the cells whose names hold these words alone.
Paths of data: LOWLAND_VADER, LOWLAND_FASHION, LOWLAND_LETTERS, LOWLAND_CIFAR.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.evidence_cells import CELLS, CLOTHES, ENCODED, SENTENCES, SOURCES, TRANSFORMER, Cell
from benchmarks.evidence_run import CODE, PLAIN, code
from benchmarks.evidence_sentences import encode
from benchmarks.evidence_tables import MEASURES, Figures, at_plain, rows_of
from benchmarks.stages import FINISHED, RUNS
from benchmarks.tables import keep
from pipeline.config import read_yaml
from pipeline.methods import METHODS, RELABELLING, SCORED
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table
from pipeline.tasks.load import load

HERE = Path(__file__).parent
ROOT = RUNS / "evidence"
HEAD = ("hidden", "epochs")
"""Options of the head on encoded sentences; all others are those of the sentences."""
ELSEWHERE = ("fine", "lasting", "gan", "w_")
"""Names of estimators that have benchmarks of their own, and may want a twin or a GAN, begin so; or are W again."""
ESTIMATORS = tuple(
    name
    for name in SCORED
    if name != "s" and METHODS[name].rows and not METHODS[name].projections and not name.startswith(ELSEWHERE)
)
"""All others that the default projection allows."""
IN_CODES = tuple(
    name
    for name in ESTIMATORS
    if not {"solved", "ensemble"} & set(METHODS[name].reads) and METHODS[name].at != ("seeds",)
)
"""Those that need neither whole gradients nor further models."""
LONG = ("classical_cg", "classical_lissa", "trak", "gex")
"""Those that pass over all rows, or train, again and again: half of a small transformer's time."""
SOON = tuple(name for name in ESTIMATORS if name not in LONG)


@dataclass(frozen=True)
class Setting:
    """How much is run.

    Attributes:
        cells: to be run.
        small: whether of fewer rows.
        seeds: of each cell.
        further: models of other seeds, for TRAK.
        members: of the ensemble of GEX.
        estimators: beside S and the controls.
        command: that runs it.
    """

    cells: tuple[Cell, ...]
    small: bool
    seeds: int
    further: int
    members: int
    estimators: tuple[str, ...]
    command: str


SETTINGS = {
    "small": Setting(tuple(cell for cell in CELLS if cell.small), True, 1, 1, 4, ESTIMATORS, "evidence --small"),
    "full": Setting(tuple(CELLS), False, 5, 4, 10, ESTIMATORS, "evidence --full"),
    "clothes": Setting(CLOTHES, False, 5, 0, 0, IN_CODES, "clothes"),
    "sentences": Setting(SENTENCES, False, 5, 0, 0, IN_CODES, "sentences"),
    "transformer": Setting(TRANSFORMER, True, 5, 0, 0, SOON, "transformer"),
}
THIRDS = 3
"""Checkpoints of TracIn, equally far apart along the training."""
ONE_SPLIT = {"folds": 1, "watch": False}
"""How the strength is chosen for the small transformer at the small size: on three splits it takes 15 minutes."""
BY_HEART = math.log(2)
"""A wrong label with less loss than this at `trained` has the model's word for it: probability above 1/2."""


@dataclass(frozen=True)
class Run:
    """A cell with a seed, in a setting by its name."""

    cell: Cell
    seed: int
    setting: str

    @property
    def _how(self) -> Setting:
        return SETTINGS[self.setting]

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        return ROOT / self.setting / f"{self.cell.slug}-{self.seed}"

    def config(self) -> dict[str, Any]:
        """What it asks for beside the defaults."""
        options = self.cell.options_of(self._how.small, self.seed)
        task = self.cell.task
        if task == ENCODED:
            options = {name: options[name] for name in HEAD} | {"path": str(self._features())}
            task = str(HERE / ENCODED)
        slow = self._how.small and options.get("encoder") == "scratch"
        how = replace(self._how, further=0, members=0, estimators=SOON) if slow else self._how
        return {
            **({"flatten": ONE_SPLIT} if slow else {}),
            "seed": self.seed,
            "task": {"class": task, "options": options},
            "checkpoints": {"epochs": _thirds(options["epochs"]), "seeds": how.further},
            "ensemble": {"members": how.members},
            "scores": {"estimators": list(how.estimators)},
            "evaluate": {"relabel": [name for name in RELABELLING if name in how.estimators]},
        }

    @property
    def _plain(self) -> Path:
        return self.directory.with_name(self.directory.name + PLAIN)

    def _features(self) -> Path:
        return self.directory.parent / "features" / f"{self.cell.slug}-{self.seed}.npz"

    def make(self) -> None:
        """Run the workflow, or what of it is not done yet.

        Raises:
            SystemExit: it failed.
        """
        if self.cell.task == ENCODED:
            options = self.cell.options_of(self._how.small, self.seed)
            encode(self._features(), **{name: options[name] for name in options if name not in HEAD})
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        file = self.directory.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(self.config()), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.evidence_run", file, self.setting, self.directory.name]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{self.cell.name}, seed {self.seed}, failed: no table.\n{done.stderr[-2000:]}")

    def made(self) -> bool:
        """Whether the evaluation is there and is that of this configuration."""
        finished, wanted = self.directory / FINISHED, self.config()
        if not finished.is_file() or not Layout(self._plain).evaluation("mislabel").is_file():
            return False
        ran = read_yaml(finished)
        same = ran["seed"] == wanted["seed"] and ran["task"]["options"] == wanted["task"]["options"]
        same = same and ran["ensemble"]["members"] == wanted["ensemble"]["members"]
        same = same and ran.get("flatten") == wanted.get("flatten")
        return bool(same and all(ran[part] == wanted[part] for part in ("checkpoints", "scores", "evaluate")))

    def code(self) -> str | None:
        """Digest of the code that made it; None: made before that was written down."""
        found: str | None = read_yaml(self.directory / FINISHED).get(CODE)
        return found

    def present(self) -> bool:
        """Whether the present code made it."""
        return self.code() == code(self.config())

    def figures(self) -> Figures:
        """What its evaluation says, measure by measure; with what the run at the plain minimum adds."""
        found: Figures = {}
        for measure, table, column in MEASURES:
            flat, plain = (
                {(row["method"], _checkpoint(row["checkpoint"])): float(row[column]) for row in _rows(directory, table)}
                for directory in (self.directory, self._plain)
            )
            found[measure] = flat | at_plain(plain)
        return found

    def learnt(self) -> float:
        """Share of the wrong labels that the trained model says itself."""
        task = self.config()["task"]
        truth = np.asarray(load(task["class"], task["options"], HERE).true_labels)
        scores = read_table(Layout(self.directory).scores, ["given", "loss_trained"])
        wrong = (truth >= 0) & (np.asarray(scores["given"]) != truth)
        return float((np.asarray(scores["loss_trained"], float)[wrong] < BY_HEART).mean())


def main(full: bool = False, table_only: bool = False) -> None:
    """Run what of the setting has not been run and print its tables, or print them alone."""
    tabulate("full" if full else "small", table_only)


def tabulate(name: str, table_only: bool = False, small: bool = False) -> None:
    """The same in a setting by its name; `small`: of seeds that have not been run the first alone."""
    setting, cells = SETTINGS[name], SETTINGS[name].cells
    for source in dict.fromkeys(cell.source for cell in cells if not cell.there()):
        print(f"left out, as {source} names no data: cells that need {SOURCES[source]}", flush=True)
    runs = [Run(cell, seed, name) for seed in range(setting.seeds) for cell in cells if cell.there()]
    if not table_only:
        only = os.environ.get("EVIDENCE_CELLS", "")
        if not any(only in cell.name for cell in cells):
            raise SystemExit(
                f"expected EVIDENCE_CELLS to be part of a cell's name such as {cells[0].name!r}, got {only!r}"
            )
        _make([run for run in runs if only in run.cell.name and not (small and run.seed) and not run.made()])
    made = [run for run in runs if run.made()]
    missing = [f"{run.cell.name}, seed {run.seed}" for run in runs if run not in made]
    missing += [f"{cell.name}: no data" for cell in cells if not cell.there()]
    by_cell = {cell: [run for run in made if run.cell == cell] for cell in cells}
    by_cell = {cell: of for cell, of in by_cell.items() if of}
    if not by_cell:
        raise SystemExit(f"expected a cell that was run, got none; run python -m benchmarks {setting.command}")
    figures = {cell: [run.figures() for run in of] for cell, of in by_cell.items()}
    learnt = {cell: statistics.mean(run.learnt() for run in of) for cell, of in by_cell.items()}
    keep(
        setting.command.split()[0],
        f"python -m benchmarks {setting.command}{' --small' if small else ''}",
        rows_of(figures, learnt),
        by="table",
        setting=name,
        not_run=missing,
        other_code=[f"{run.cell.name}, seed {run.seed}" for run in made if not run.present()],
        runs=[_raw(run) for run in made],
    )
    print("\n".join(f"not run: {each}" for each in missing))
    if others := sum(not run.present() for run in made):
        print(f"made by other code or defaults than the present ones: {others} of {len(made)} runs")


def _rows(directory: Path, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_artefact(Layout(directory).evaluation(table), "evaluation").record["rows"]
    return rows


def _checkpoint(name: str) -> str:
    """A checkpoint by a name that is the same in all cells, however many epochs they have."""
    return "epochs" if "epoch-" in name else name


def _thirds(epochs: int) -> list[int]:
    """Epochs after each third of a training."""
    return sorted({max(1, round(epochs * part / THIRDS)) for part in range(1, THIRDS + 1)})


def _make(runs: list[Run]) -> None:
    """Run them, as many at a time as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        for run, _ in zip(runs, pool.map(Run.make, runs), strict=True):
            print(f"done: {run.cell.name}, seed {run.seed}", flush=True)


def _raw(run: Run) -> dict[str, Any]:
    """A run's own figures, for the JSON."""
    measures = {
        measure: {" @".join(method): value for method, value in values.items()}
        for measure, values in run.figures().items()
    }
    return {
        "cell": run.cell.name,
        "seed": run.seed,
        "code": run.code(),
        "task": run.config()["task"]["class"].split("/")[-1],
        **measures,
    }
