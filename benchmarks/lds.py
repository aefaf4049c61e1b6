"""LDS on digits: do summed scores predict what models on random halves of the train rows make of the query rows?

An MLP of 3,010 parameters, 1,000 clean train rows, 300 query rows, 40 halves, 3 models on each. Damping, projection and
codec are the defaults, the flat minimum is that of SAM with rho .2; every score is of one model. Responses are minus
the loss and the margin; the ceiling is what one retrained model a half reaches as prediction of the mean of the others.
Every score stands beside the simple controls, and beside those of other libraries from the same weights and rows, where
their environment is there (`make bench` makes it): by the peer's own defaults, and by the best of several settings,
chosen by this very LDS, in its favour. `--small`, the default: training of 60 epochs, one seed, whose intervals
are over queries and halves. `--full`: also 200 epochs, five seeds, with the range over them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS, run_peer
from benchmarks.stages import Run, captured, further, retrained
from benchmarks.tables import keep
from pipeline.config import SPLITS
from pipeline.core import datamodels
from pipeline.steps.lds import responses
from pipeline.steps.retrained import RESPONSES, Retrained, open_retrained
from pipeline.steps.tasks import derive, task_of
from pipeline.storage.weights import read_weights
from pipeline.tasks.checks import row_set

SUBSETS, MODELS, QUERIES = 40, 3, 300
SETTINGS = {"small": ((60,), (0,)), "full": ((60, 200), (0, 1, 2, 3, 4))}
"""Epochs and seeds."""
ESTIMATORS = ["tracin", "relatif", "datainf", "trak", "gex", "influence_kfac", "influence_ekfac", "fvm_ekfac"]
MEMBERS = 4
"""Of the ensemble of GEX."""
OTHERS = ("captum", "dattri", "kronfluence", "traker")
LIMIT_S = 1800
KEYS, MARKS = ("method", "checkpoint"), ("signed", "control")

Row = dict[str, Any]


def made(setting: str, epochs: int, seed: int) -> Run:
    """One run."""
    run = Run("lds", f"{setting}-{epochs}-{seed}", {
        "seed": seed,
        "task": {"class": "digits", "options": {"noise": "none", "hidden": [40], "epochs": epochs,
                                                "query_size": QUERIES, "seed": seed}},
        "flatten": {"strength": 0.2, "watch": False},
        "scores": {"estimators": ESTIMATORS},
        "ensemble": {"members": MEMBERS},
        "retrain": {"lds_subsets": SUBSETS, "lds_seeds": MODELS},
    })  # fmt: skip
    stages = [
        *captured(run.plan, SPLITS),
        *further(run.plan, run.config, SPLITS),
        *retrained(run.config, "half"),
        ("lds", {"set_name": "half"}),
    ]
    run.make(stages)
    print(f"done: {epochs} epochs, seed {seed}", flush=True)
    return run


def table(run: Run) -> list[Row]:
    """All rows of a run, response by response."""
    order = [title for title, _ in RESPONSES.values()]
    return sorted([*run.table("lds-half"), *of_peers(run)], key=lambda row: order.index(row["response"]))


def of_peers(run: Run) -> list[Row]:
    """Rows of other libraries, of every response; none where there is no environment of theirs."""
    if not PEERS.exists():
        print("no environment of the peers: `make bench` makes it; Lowland alone", flush=True)
        return []
    retrained = open_retrained(run.layout, run.plan, run.config, "half")
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "question.npz"
        np.savez(source, **question(run))
        found = {name: asked(name, source) for name in OTHERS}
    seed = derive(run.config.seed, "lds")
    return [row for name, scores in found.items() for row in judged(name, scores, retrained, seed)]


def question(run: Run) -> dict[str, Any]:
    """The weights at `trained`, and the rows, as `benchmarks.peers.pairs.read` takes them."""
    weights = read_weights(run.layout.checkpoint("trained"))
    layers = sorted({name.split(".")[0] for name in weights}, key=int)
    found = {f"{kind}-{i}": weights[f"{layer}.{kind}"].numpy()
             for i, layer in enumerate(layers) for kind in ("weight", "bias")}  # fmt: skip
    task = task_of(run.config, run.plan)
    for split in ("train", "query"):
        rows = row_set(task, split)
        inputs, labels = rows.batch(range(len(rows)))
        found |= {f"{split}_x": inputs.flatten(1).numpy(), f"{split}_y": labels.numpy()}
    return found


def asked(name: str, source: Path) -> dict[str, Any]:
    """Scores [Q, N] of a peer by method and setting, in its order; says what failed."""
    target = source.with_name(f"{name}.npz")
    _, failed = run_peer(str(PEERS), "benchmarks.peers.pairs", [name, str(source), str(target)], LIMIT_S)
    if failed:
        print(f"{name}: {failed}", flush=True)
        return {}
    for method, why in json.loads(Path(f"{target}.failed").read_text(encoding="utf-8")).items():
        print(f"{name}, {method}: failed: {why}", flush=True)
    with np.load(target) as arrays:
        return {key: arrays[key] for key in arrays.files}


def judged(name: str, scores: dict[str, Any], retrained: Retrained, seed: int) -> Iterator[Row]:
    """Rows of a peer: each method by its default, and by the setting of largest LDS where there are several."""
    actions = list(retrained.actions().values())
    kept = retrained.read("kept")[[positions[0] for positions in actions]].astype(np.float64)
    for response in retrained.responses():
        title, means = RESPONSES[response][0], responses(retrained, actions, response).mean(0)
        for method, keys in groupby(scores, key=lambda key: key.split("|")[0]):
            found = {key.split("|")[1]: datamodels.lds(scores[key] @ kept.T, means, seed) for key in keys}
            first, best = next(iter(found)), max(found, key=lambda setting: np.nan_to_num(found[setting][0], nan=-1.0))
            print(f"{name}, {method}, {title}: best {best or 'as it comes'}", flush=True)
            tried = {"as it comes": found[first], **({f"best of {len(found)}": found[best]} if len(found) > 1 else {})}
            for how, (value, low, high) in tried.items():
                yield {"method": f"{name}: {method}, {how}", "checkpoint": "trained", "signed": True, "control": False,
                       "lds": value, "low": low, "high": high, "response": title}  # fmt: skip


def rows_of(epochs: int, tables: list[list[Row]]) -> list[Row]:
    """The mean over the runs of a regime, each row being the same score; low and high: of one run, or the range."""
    found = []
    for rows in zip(*tables, strict=True):
        assert len({tuple(row[key] for key in KEYS) for row in rows}) == 1
        values = [row["lds"] for row in rows]
        bounds = (rows[0]["low"], rows[0]["high"]) if len(rows) == 1 else (min(values), max(values))
        marks = {key: "yes" if rows[0][key] else "" for key in MARKS}
        head = {"setting": f"{epochs} epochs, {rows[0]['response']}", **{key: rows[0][key] for key in KEYS}}
        found.append({**head, **marks, "lds": statistics.mean(values), "low": bounds[0], "high": bounds[1]})
    return found


def main(full: bool = False) -> None:
    """All regimes and seeds of a setting; one that fails stops the benchmark."""
    setting = "full" if full else "small"
    regimes, seeds = SETTINGS[setting]
    runs = {epochs: [made(setting, epochs, seed) for seed in seeds] for epochs in regimes}
    rows = [row for epochs, own in runs.items() for row in rows_of(epochs, [table(run) for run in own])]
    bounds = "range over the seeds" if len(seeds) > 1 else "bootstrapped interval of 95 %"
    keep("lds", f"python -m benchmarks lds --{setting}", rows, by="setting", setting=setting, seeds=seeds,
         subsets=SUBSETS, models_a_subset=MODELS, queries=QUERIES, low_and_high=bounds)  # fmt: skip


if __name__ == "__main__":
    main()
