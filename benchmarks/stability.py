"""Do suspects and answers to queries stay the same where only the machinery changes, or the luck of the training?

Digits with a fifth of the labels flipped (planted, uniform) and learnt by heart, all defaults: 1,000 train rows, 300
query rows. Three runs, whose trainings differ in the seed alone, are compared with each other, and each with itself
under other dampings, projections, codecs and kinds of minimum: the ten best rows of a query, and the most suspicious
tenth of the train rows. All by the commands of the product: `lowland evaluate --stability` and `--against`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from benchmarks.stages import Run, Stage, captured, scored
from benchmarks.tables import keep
from pipeline.config import CHECKPOINTS, SPLITS
from pipeline.steps.against import compare
from pipeline.steps.job import Job

SEEDS, QUERIES = (0, 1, 2), 300
CHANGES: dict[str, dict[str, Any]] = {
    "K 2048 to 512": {"projection": {"dimension": 512}},
    "projection eigenbasis to kronecker": {"projection": {"method": "kronecker"}},
    "projection eigenbasis to sjlt": {"projection": {"method": "sjlt"}},
    "codec mixed to float32": {"gradients": {"codec": "float32"}},
    "minimum of SAM to plain": {"flatten": {"method": "plain"}},
}
"""What else is changed, one at a time."""
OTHER_SEED = "seed of the training"

Row = dict[str, Any]


def config(seed: int) -> dict[str, Any]:
    """What a run asks for beside the defaults: the same rows and the same noise at every seed."""
    return {"seed": seed, "task": {"class": "digits", "options": {"query_size": QUERIES}}}


def stages(run: Run) -> Iterator[Stage]:
    """All that a comparison reads; queries are answered by an exact scan."""
    yield from captured(run.plan, SPLITS)
    yield from scored(run.plan)
    yield from (("vectors", {"checkpoint": checkpoint, "split": "query"}) for checkpoint in CHECKPOINTS)
    yield from (("query", {}), ("stability", {}))


def compared(run: Run, others: list[Run]) -> list[Row]:
    """The table of `--against`."""
    return compare(Job("stability", run.layout, run.config, lambda _: None), [other.layout for other in others])


def tables() -> Iterator[Row]:
    """The rows of all comparisons, each with what was changed."""
    runs = []
    for seed in SEEDS:
        run = Run("stability", f"seed-{seed}", config(seed))
        run.make(stages(run))
        runs.append(run)
        yield from run.table("stability")
        for number, (change, values) in enumerate(CHANGES.items()):
            other = run.beside(f"seed-{seed}-{number}", {**config(seed), **values})
            other.make(stages(other))
            yield from ({**row, "changed": change} for row in compared(run, [other]))
        print(f"done: seed {seed}", flush=True)
    for one, other in combinations(runs, 2):
        yield from ({**row, "changed": OTHER_SEED} for row in compared(one, [other]))


def rows_of(found: Iterator[Row]) -> list[Row]:
    """Means over the runs, or pairs of runs, with the range of the overlap."""
    same: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in found:
        same[row["answers"], row["score"], row["checkpoint"], row["changed"]].append(row)
    return [_row(dict(zip(("answers", "score", "checkpoint", "changed"), key, strict=True)), of)
            for key, of in sorted(same.items())]  # fmt: skip


def _row(head: Row, rows: list[Row]) -> Row:
    overlaps = [row["overlap"] for row in rows]
    means = {
        name: None if None in values else statistics.mean(values)
        for name in ("jaccard", "chance", "spearman")
        for values in ([row[name] for row in rows],)
    }
    bounds = {"low": min(overlaps), "high": max(overlaps)}
    return {**head, "overlap": statistics.mean(overlaps), **bounds, **means, "comparisons": len(rows)}


def main() -> None:
    """All runs; one that fails stops the benchmark."""
    keep("stability", "python -m benchmarks stability", rows_of(tables()), by="answers", seeds=SEEDS)


if __name__ == "__main__":
    main()
