"""A run of made codes through curvature, vectors, index and query: workers, clusters and later curvatures do not matter."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest

from benchmarks.synthetic import job, train_codes, write_run
from pipeline.cli.main import main
from pipeline.core.curvature import outer_sum
from pipeline.errors import CapacityError
from pipeline.shards import Plan
from pipeline.steps import curvature, index, vectors
from pipeline.steps.codes import blocks
from pipeline.steps.query import Questions, open_stores
from pipeline.storage.artefact import forget, read_manifest
from pipeline.storage.opened import open_arrays
from pipeline.storage.reduction import Workers

ROWS = 1500
WORKERS = Workers(2, 2**30)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """1,500 rows in two shards, indexed by RaBitQ over half-whitened rows."""
    made = write_run(tmp_path_factory.mktemp("made"), ROWS, 1000, 40, dimension=64)
    solve(made)
    index.run(job(made, "index", 1, factory="RaBitQfs2", recall_rows=4), "trained", "inner")
    return made


def solve(layout, damping=1.0, **compute):
    asked = job(layout, "curvature", 1)
    config = asked.config
    section = config.curvature.model_copy(update={"damping": damping})
    own = config.model_copy(update={"curvature": section, "compute": config.compute.model_copy(update=compute)})
    curvature.run(type(asked)("curvature", layout, own, asked.say), "trained", "train")
    for split in ("validation", "query"):
        vectors.run(job(layout, "vectors", 1), "trained", split)


def spectrum(layout):
    _, arrays = open_arrays(layout.curvature("trained", "train"), "curvature")
    return arrays.read("values"), arrays.read("vectors")


def test_the_curvature_is_that_of_all_rows(layout):
    rows = np.concatenate([codes for _, codes in blocks(train_codes(layout))])
    values, basis = spectrum(layout)
    total = outer_sum(rows) / ROWS
    np.testing.assert_allclose((basis * values) @ basis.T, total, atol=1e-12 * np.abs(total).max())


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_workers_changes_no_bit(layout, threads, monkeypatch):
    monkeypatch.setattr("pipeline.steps.codes.BLOCK_BYTES", 2**17)  # 256 rows, so that there is something to share
    solve(layout)
    before = spectrum(layout)
    solve(layout, threads=threads)
    assert all(np.array_equal(a, b) for a, b in zip(before, spectrum(layout), strict=True))


def test_a_cluster_changes_no_bit(layout):
    distributed = pytest.importorskip("distributed")
    solve(layout)
    before = spectrum(layout)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        solve(layout, dask=cluster.scheduler_address)
        assert all(np.array_equal(a, b) for a, b in zip(before, spectrum(layout), strict=True))
        asked = Questions(layout, Plan.load(layout.plan), "influence@trained").vectors("query", np.arange(3))
        here, there = (
            open_stores(layout, Plan.load(layout.plan), "influence@trained", workers).answer(
                asked, 20, False, exact=True
            )
            for workers in (WORKERS, Workers(1, 2**30, cluster.scheduler_address))
        )
        assert np.array_equal(here.ids, there.ids) and np.array_equal(here.scores, there.scores)


def test_less_memory_than_a_block_takes_is_refused(layout):
    forget(layout.curvature("trained", "train"))  # else the kept sums need no block
    with pytest.raises(
        CapacityError, match="expected compute.memory_mb of at least .* for a block of the stores, got 20"
    ):
        solve(layout, memory_mb=20)
    solve(layout)


@pytest.mark.parametrize("score", ["influence@trained"])
def test_an_index_built_with_another_curvature_answers_as_a_scan_does(layout, score):
    built_with = read_manifest(layout.whitening("trained")).digest
    assert read_manifest(layout.index("trained", "inner")).identity["whitening"] == built_with
    plan = Plan.load(layout.plan)
    for damping in (1.0, 30.0):
        solve(layout, damping)
        stores = open_stores(layout, plan, score, WORKERS)
        assert stores.index is not None and stores.index.space.whitening is not None
        asked = Questions(layout, plan, score).vectors("query", np.arange(20))
        for bottom in (False, True):
            found, exact = (stores.answer(asked, 10, bottom, scan) for scan in (False, True))
            agreed = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found.ids, exact.ids, strict=True)])
            assert agreed >= 0.97
    solve(layout)


def test_an_index_whose_whitening_is_gone_is_not_asked(layout, tmp_path):
    path = layout.whitening("trained")
    aside = tmp_path / path.name
    path.rename(aside)
    try:
        assert open_stores(layout, Plan.load(layout.plan), "influence@trained", WORKERS).index is None
    finally:
        aside.rename(path)


def ask(layout, capsys, *arguments):
    """What `lowland query` prints, and its exit code."""
    code = 0
    try:
        main(["query", str(layout.run), *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    return capsys.readouterr().out, code


def test_several_rows_are_answered_at_once_and_from_stdin_as_alone(layout, capsys, monkeypatch):
    wanted = ["query:3", "validation:0", "train:1200"]
    alone = [json.loads(ask(layout, capsys, "--row", row, "-k", "4", "--json")[0]) for row in wanted]
    options = [part for row in wanted for part in ("--row", row)]
    assert json.loads(ask(layout, capsys, *options, "-k", "4", "--json")[0]) == [row for each in alone for row in each]
    assert ask(layout, capsys, *options, "-k", "4")[0].count("top 4 train rows for") == 3
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([wanted[0], "query:99999", "", *wanted[1:]]) + "\n"))
    printed, code = ask(layout, capsys, "--row", "-", "-k", "4", "--json")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert code == 2 and "expected a query row from 0 to 39, got 99999" in lines.pop(1)["error"]
    assert lines == alone


def test_auto_goes_on_to_the_next_kind_where_one_finds_too_little(tmp_path, monkeypatch):
    made = write_run(tmp_path, 600, 1000, 40, dimension=64)
    solve(made)
    monkeypatch.setattr(index, "kinds", lambda *_: ("IVF32,Flat", "Flat"))
    said = []
    asked = dataclasses.replace(job(made, "index", 1, probes=1, rows="plain"), say=said.append)

    def kind_and_recall():
        index.run(asked, "trained", "inner")
        manifest = read_manifest(made.index("trained", "inner"))
        return manifest.identity["factory"], manifest.record["recall"]

    assert kind_and_recall() == ("Flat", 1)
    assert any("below 0.95: Flat is taken" in line for line in said)
    said.clear()
    assert kind_and_recall() == ("Flat", 1)  # once settled, nothing else is tried
    assert not any("IVF" in line for line in said)
    forget(made.index("trained", "inner"))
    monkeypatch.setattr(index, "LEAST_RECALL", 0)
    kind, recall = kind_and_recall()
    assert kind == "IVF32,Flat" and recall < 0.95
