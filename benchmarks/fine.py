"""Does influence survive the randomness of training? f-INE beside TracIn, TRAK, classical influence, FVM and controls.

One task, digits with planted wrong labels, copies of some queries and poison (`benchmarks.fine_task`), is trained from
several seeds; nothing else differs between the runs. Tables:

* rows: Jaccard index of the worst tenth of the train rows, over all pairs of seeds, and AUC of the wrong labels;
* pairs: the same of the tenth that helped a query most, mean over the queries; where copies of a query stand, and
  their signs; how many of the 12 poisoned rows are among the first 12, or in the tenth, for queries with the trigger;
* null: mu of rows that were never trained on, against the band of permutations;
* suspects: whether the columns mu and stable of `lowland suspects` say which suspects remain at other seeds.

A score that knows nothing of the model has a Jaccard index of 1: consistency is worth what the AUC beside it is worth.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.fine_runs import ESTIMATORS, Setting, made
from benchmarks.fine_task import COPIED, POISONED, TRIGGERED, Planted
from benchmarks.tables import keep
from pipeline.core.agreement import auc, ranks
from pipeline.methods import METHODS, RANKED

Array = np.ndarray[Any, Any]
Row = dict[str, Any]

SMALL = Setting(
    seeds=4, train=400, hidden=32, epochs=60, further=1, flatten={"strength": 0.2, "watch": False, "steps": 150}
)
"""The small setting takes the strength as given: choosing it takes most of a run."""
FULL = Setting(seeds=8, train=900, hidden=64, epochs=120, further=3, flatten={})
TOP = 0.1
"""Share of the rows that counts as the top."""
RANKINGS = ("wrong", "s", *ESTIMATORS, "loss_flat", "norm_flat", "loss_trained")
STABILITY = {
    "mu (fine)": (("fine", -1),),
    "stable (lasting)": (("lasting", 1),),
    "wrong (control)": (("wrong", 1),),
    "wrong and stable, ranks added": (("wrong", 1), ("lasting", 1)),
    "loss at trained (control)": (("loss_trained", 1),),
    "loss at flat (control)": (("loss_flat", 1),),
}
"""What might tell the suspects that last: columns, and the sign that makes larger ones last."""


def main(full: bool = False) -> None:
    """Train from all seeds and print the tables; what was done before is not done again."""
    size, setting = ("full", FULL) if full else ("small", SMALL)
    task, runs = setting.task(), []
    for seed in range(setting.seeds):
        runs.append(made(size, setting, seed))
        print(f"done: seed {seed}", flush=True)
    columns = [each.columns() for each in runs]
    rows = [
        *of_rows(columns, wrong_labels(task)),
        *of_pairs([each.pairs() for each in runs], task),
        *of_null([each.null() for each in runs]),
        *of_suspects(columns),
    ]
    keep("fine", f"python -m benchmarks fine --{size}", rows, by="table", setting=setting.__dict__, noise="planted")


def wrong_labels(task: Planted) -> tuple[Array, Array]:
    """Which train rows have a planted wrong label, and which are judged: neither copies nor poison."""
    truth, given = np.asarray(task.true_labels), np.asarray(task.labels)
    return truth != given, truth >= 0


def top(scores: Array) -> set[int]:
    """Positions of the tenth with the largest scores."""
    return set(np.argsort(-scores, kind="stable")[: max(1, round(TOP * len(scores)))].tolist())


def jaccard(sets: Sequence[set[int]]) -> list[float]:
    """Of each pair of sets."""
    return [len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)]


def spread(values: Iterable[float]) -> str:
    """Mean and range."""
    found = list(values)
    return f"{statistics.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def of_rows(columns: list[dict[str, Array]], wrong: tuple[Array, Array]) -> list[Row]:
    """Consistency and AUC of each ranking of the train rows."""
    positive, judged = wrong
    rows = []
    for name in RANKINGS:
        scores = [RANKED[name].suspicious * each[name].astype(float) for each in columns]
        found = {
            "table": "Rows: the worst tenth over seeds, and wrong labels",
            "score": name,
            "control": "yes" if RANKED[name].control else "",
            "Jaccard": spread(jaccard([top(each) for each in scores])),
            "AUC": spread(auc(each[judged], positive[judged]) for each in scores),
        }
        rows.append(found)
    return [*rows, {**rows[0], "score": "chance", "control": "yes", "Jaccard": f"{by_chance():.3f}", "AUC": "0.500"}]


def by_chance() -> float:
    """Jaccard index of two random tenths of many rows."""
    return TOP / (2 - TOP)


def of_pairs(runs: list[dict[str, Array]], task: Planted) -> list[Row]:
    """Consistency, copies and poison of each score of pairs."""
    rows, tenth = [], round(TOP * len(task.labels or ()))
    for name in runs[0]:
        scores = [each[name] for each in runs]
        signed = METHODS[name.split(",")[0]].pairs == "signed"
        found = {
            "table": f"Pairs: the tenth that helped most, copies of {COPIED} queries, {POISONED} poisoned rows",
            "score": name,
            "Jaccard": spread(np.mean([jaccard([top(each[q]) for each in scores]) for q in range(len(scores[0]))], 0)),
            "copies positive": spread(np.mean(own > 0) for own in copies(scores, task)) if signed else None,
            "copies in the tenth": spread(np.mean(standing(each, task) >= 1 - TOP) for each in scores),
            "median standing of a copy": spread(float(np.median(standing(each, task))) for each in scores),
            "poison first": spread(poison_found(each, task, POISONED) for each in scores),
            "poison in the tenth": spread(poison_found(each, task, tenth) for each in scores),
        }
        rows.append(found)
    chance = dict.fromkeys(rows[0], "") | {"table": rows[0]["table"], "score": "chance"}
    at_random = POISONED / (len(task.labels or ()))
    return [*rows, {**chance, "Jaccard": f"{by_chance():.3f}", "copies in the tenth": f"{TOP:.3f}",
                    "median standing of a copy": "0.500", "poison first": f"{at_random:.3f}",
                    "poison in the tenth": f"{TOP:.3f}"}]  # fmt: skip


def copies(scores: list[Array], task: Planted) -> list[Array]:
    """Scores of the copies for the queries that they copy, run by run."""
    return [np.stack([each[q, task.copies_of(q)] for q in range(COPIED)]) for each in scores]


def standing(scores: Array, task: Planted) -> Array:
    """Share of the train rows that each copy scores above for its query."""
    return np.array([np.mean(scores[q] < scores[q, i]) for q in range(COPIED) for i in task.copies_of(q)])


def poison_found(scores: Array, task: Planted, count: int) -> float:
    """Share of the poisoned rows among the first ones, by the mean over the queries with the trigger."""
    mean = scores[COPIED : COPIED + TRIGGERED].mean(0)
    first = np.argsort(-mean, kind="stable")[:count]
    return float(np.isin(task.poison(), first).mean())


def of_null(runs: list[dict[str, float]]) -> list[Row]:
    """What never trained rows look like, over the seeds."""
    names = {"inside": "within the 95 % band of permutations", "mean mu": "mean of mu, plugged in",
             "mean |mu|": "mean of |mu|, plugged in", "mean |max mu|": "mean of |mu|, over thresholds"}  # fmt: skip
    table = "Null: rows that were never trained on"
    return [
        {"table": table, "figure": words, "value": spread(each[name] for each in runs)} for name, words in names.items()
    ]


def of_suspects(columns: list[dict[str, Array]]) -> list[Row]:
    """AUC of a seed's columns for which of its suspects, by `wrong`, are suspects at every other seed."""
    sets = [top(each["wrong"].astype(float)) for each in columns]
    tasks = []
    for own, values in enumerate(columns):
        suspects = np.array(sorted(sets[own]))
        lasting = np.array([all(i in other for other in sets) for i in suspects])
        tasks.append((values, suspects, lasting))
    table = "Suspects by `wrong`: who is one at every seed?"
    lasts = spread(np.mean(lasting) for _, _, lasting in tasks)
    rows = [{"table": table, "figure": "share of the suspects that are", "value": lasts}]
    for words, parts in STABILITY.items():
        found = [
            auc(sum(ranks(sign * values[name].astype(float)[suspects]) for name, sign in parts), lasting)
            for values, suspects, lasting in tasks
        ]
        known = [value for value in found if value == value]  # of seeds with both kinds of suspects
        rows.append({"table": table, "figure": f"AUC of {words}", "value": spread(known) if known else None})
    return rows


if __name__ == "__main__":
    main()
