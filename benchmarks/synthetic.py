"""Runs of any size with made codes: the spectrum and the norms of real ones, written by the project's own writer.

`python -m benchmarks.synthetic RUN` fits `spectrum.json` from the train codes of a run at `trained`. The file that is
here is of an MLP 784-256-128-10 on 50,000 pictures of Fashion-MNIST, a tenth labelled wrongly, after eight epochs, with
K 1024: its norms span a factor of 700, and half of the directions' energy is in 9 dimensions.

A made row is a direction, Gaussian with the second moments of real directions, times a norm drawn from the real ones.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config as settings
from pipeline.core.codec import Codec, fit_codec
from pipeline.shards import Plan, Split, cut
from pipeline.steps.codes import CodeSet
from pipeline.steps.job import Job
from pipeline.steps.reuse import code_hashes
from pipeline.steps.stores import open_codes
from pipeline.storage.arrays import ArrayWriter, write_arrays
from pipeline.storage.artefact import create, read_manifest, write_whole
from pipeline.storage.layout import Layout

Array = np.ndarray[Any, Any]

FITTED = Path(__file__).with_name("spectrum.json")
DRAWN_ROWS = 16_384
DIMENSION = 1024


def fit(run: Path) -> dict[str, Any]:
    """Second moments of directions, as eigenvalues, and quantiles of norms."""
    layout = Layout(run)
    rows = open_codes(layout, Plan.load(layout.plan), "trained", "train").codes().astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    units = rows[norms > 0] / norms[norms > 0, None]
    values = np.linalg.eigvalsh(units.T @ units / len(units))[::-1]
    quantiles = np.quantile(norms, np.linspace(0, 1, 201))
    return {"eigenvalues": [float(f"{v:.5g}") for v in values], "norms": [float(f"{v:.5g}") for v in quantiles]}


@cache
def fitted(dimension: int) -> tuple[Array, Array]:
    """A root of the directions' second moments, [K, K] float32, turned at random, and quantiles of norms."""
    stored = json.loads(FITTED.read_text(encoding="utf-8"))
    values = np.maximum(np.array(stored["eigenvalues"][:dimension]), 0)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(len(values), len(values))))[0]
    return (np.sqrt(values)[:, None] * turn).astype(np.float32), np.array(stored["norms"])


def draw(rng: np.random.Generator, count: int, dimension: int = DIMENSION) -> Array:
    """Rows [count, K] float32."""
    root, norms = fitted(dimension)
    rows = rng.standard_normal((count, len(root)), dtype=np.float32) @ root
    drawn = np.interp(rng.random(count), np.linspace(0, 1, len(norms)), norms)
    rows *= (drawn / np.linalg.norm(rows, axis=1))[:, None].astype(np.float32)
    return rows


def write_run(
    directory: Path,
    train: int,
    shard_rows: int,
    others: int,
    distinct: int | None = None,
    dimension: int = DIMENSION,
    encoding: str = "int8",
) -> Layout:
    """A run with made codes at `trained`: plan, content hashes, codec, and gradients of three splits.

    Args:
        directory: of the run.
        train: N.
        shard_rows: of a shard.
        others: rows of the validation and of the query split.
        distinct: draw only so many directions, and give them other norms when they come again.
        dimension: K, at most 1024.
        encoding: of the codes.
    """
    layout, rng = Layout(directory), np.random.default_rng(1)
    counts = {"train": train, "validation": others, "query": others}
    plan = _write_plan(layout, counts, shard_rows, rng)
    codec = fit_codec(encoding, draw(rng, 4096, dimension))
    with create(layout.projection("trained"), "projection", {"gradients": {"codec": encoding}}, {}) as path:
        write_arrays(path, {"column_scale": codec.column_scale})
    pool = draw(rng, distinct, dimension) if distinct else None
    for split, part in plan.splits.items():
        for shard in part.shards:
            _write_shard(layout, part, split, shard.name, codec, rng, pool if split == "train" else None)
    return layout


def _write_plan(layout: Layout, counts: dict[str, int], shard_rows: int, rng: np.random.Generator) -> Plan:
    hashes = {split: rng.integers(0, 256, (count, 16), np.uint8) for split, count in counts.items()}
    splits = {split: cut([bytes(row) for row in values], shard_rows) for split, values in hashes.items()}
    plan = Plan(splits, (), False, False, shard_rows, "", (), {}, {"sources": "made"})
    write_whole(layout.plan, plan.save())
    write_whole(layout.config, json.dumps(settings.load().plain()))
    identity = {split: part.content for split, part in splits.items()}
    with create(layout.hashes, "rows", identity, {}) as path:
        write_arrays(path, {**hashes, "train_label": np.full(counts["train"], -1)})
    return plan


def _write_shard(
    layout: Layout, part: Split, split: str, name: str, codec: Codec, rng: np.random.Generator, pool: Array | None
) -> None:
    planned = part.shard(name)
    identity = {"projection": read_manifest(layout.projection("trained")).digest, "checkpoint": "made",
                "rows": planned.plain(), "split": split, "shard": name}  # fmt: skip
    with (
        create(layout.gradients("trained", split, name), "gradients", identity, {}) as path,
        ArrayWriter(path) as writer,
    ):
        for start in range(0, planned.rows, DRAWN_ROWS):
            count = min(DRAWN_ROWS, planned.rows - start)
            for column, values in _columns(codec, _rows(rng, count, len(codec.column_scale), pool)).items():
                writer.append(column, values, total=planned.rows)


def _rows(rng: np.random.Generator, count: int, dimension: int, pool: Array | None) -> Array:
    if pool is None:
        return draw(rng, count, dimension)
    rows: Array = pool[rng.integers(0, len(pool), count)] * rng.lognormal(0, 0.5, (count, 1)).astype(np.float32)
    return rows


def _columns(codec: Codec, rows: Array) -> dict[str, Array]:
    stored = codec.encode(rows)
    decoded = codec.decode(stored)
    norms = np.sqrt(np.einsum("nk,nk->n", decoded, decoded, dtype=np.float64))
    none = np.zeros(len(rows))
    others = {
        "norm_code": norms,
        "norm_full": norms,
        "norm_full_error": none,
        "loss": none,
        "flag": none.astype(np.uint8),
    }
    return {**stored.columns(), **others, "code_hash": code_hashes(stored.columns())}


def train_codes(layout: Layout) -> CodeSet:
    """The train codes of a made run."""
    return open_codes(layout, Plan.load(layout.plan), "trained", "train")


def job(layout: Layout, stage: str, threads: int, **index: Any) -> Job:
    """A stage's job with default settings but those of the index."""
    values = settings.merge(settings.defaults(), {"compute": {"threads": threads}, "index": index})
    return Job(stage, layout, settings.validate(values), lambda line: print(line, file=sys.stderr, flush=True))


if __name__ == "__main__":
    FITTED.write_text(json.dumps(fit(Path(sys.argv[1]))) + "\n", encoding="utf-8")
