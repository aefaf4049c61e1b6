"""Retrieval: index with rerank and scan against brute force; shards and ties must not matter."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import config as settings
from pipeline.core.codec import fit_codec
from pipeline.core.curvature import Spectrum
from pipeline.core.influence import SIGNED, order, pairwise
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import StoreError
from pipeline.steps.codes import FINITE, NOT_FINITE, CodeSet, CodeShard
from pipeline.steps.retrieve import Indexed, exact_search, index_search
from pipeline.steps.space import Space, is_whitened, kinds
from pipeline.storage import indexes
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import Manifest
from pipeline.storage.reduction import Workers

N, K = 120, 8
WORKERS = Workers(2, 2**30)
WRONG = [3, 50, 119]
"""Rows whose gradient is not finite."""


def code_set(directory, rows, sizes, encoding="float32"):
    """Rows in shards of these sizes."""
    codec, shards, start = fit_codec(encoding, rows), [], 0
    for i, size in enumerate(sizes):
        columns = codec.encode(rows[start : start + size]).columns()
        flags = np.array([NOT_FINITE if row in WRONG else FINITE for row in range(start, start + size)], np.uint8)
        norms = np.linalg.norm(codec.decode(codec.encode(rows[start : start + size])).astype(float), axis=1)
        write_arrays(directory / f"{i}.zarr", {**columns, "norm_code": norms, "flag": flags})
        shards.append(CodeShard(directory / f"{i}.zarr", Manifest("gradients", f"{i}.zarr", {}, {}, {}), start, codec))
        start += size
    return CodeSet(tuple(shards), len(rows))


@pytest.fixture
def rows(rng):
    rows = (rng.normal(size=(N, K)) * np.geomspace(1, 0.01, K)).astype(np.float32)
    rows[20] = rows[21] = rows[100]  # equal scores
    rows[WRONG] = 0
    return rows


@pytest.fixture
def codes(tmp_path, rows):
    return code_set(tmp_path, rows, [50, 50, 20])


@pytest.fixture
def queries(rng):
    return rng.normal(size=(4, K))


def brute(score, queries, rows, k, bottom):
    ids = np.array([row for row in range(len(rows)) if row not in WRONG])
    scores = pairwise(score, queries, rows[ids])
    best = [order(line, ids, bottom)[:k] for line in scores]
    return ids[best], np.take_along_axis(scores, np.array(best), 1)


def index_of(codes, score, factory="Flat", fetched=40, oversample=4, whitening=None):
    kept = codes.finite()
    space = Space("cosine" if score == "cosine" else "inner", whitening)
    rows = space.rows(codes.codes()[kept])
    return Indexed(
        indexes.build(factory, K, [(np.nonzero(kept)[0], rows)], lambda: rows, 1), space, oversample, fetched
    )


@pytest.mark.parametrize("bottom", [False, True])
@pytest.mark.parametrize("score", SIGNED)
@pytest.mark.parametrize("k", [1, 10, N - len(WRONG)])
def test_index_and_scan_give_what_brute_force_gives(codes, rows, queries, score, bottom, k):
    ids, scores = brute(score, queries, rows, k, bottom)
    for found in (
        exact_search(codes, score, queries, k, bottom, WORKERS),
        index_search(index_of(codes, score), codes, score, queries, k, bottom, WORKERS),
    ):
        assert np.array_equal(found.ids, ids)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-12)


def test_the_number_of_shards_does_not_matter(tmp_path, rows, queries):
    results = []
    for sizes in ([120], [1, 119], [30] * 4):
        place = tmp_path / str(len(sizes))
        place.mkdir()
        results.append(exact_search(code_set(place, rows, sizes, "int8"), "influence", queries, 9, False, WORKERS))
    for other in results[1:]:
        assert np.array_equal(other.ids, results[0].ids)
        np.testing.assert_allclose(other.scores, results[0].scores, rtol=1e-12)


def test_equal_scores_come_in_order_of_row(codes, rows):
    query = rows[100].astype(np.float64)[None]
    for found in (
        exact_search(codes, "cosine", query, 3, False, WORKERS),
        index_search(index_of(codes, "cosine"), codes, "cosine", query, 3, False, WORKERS),
    ):
        assert found.ids[0].tolist() == [20, 21, 100]


def test_queries_of_any_size_are_answered(codes, rows, queries):
    index = index_of(codes, "influence")
    expected = brute("influence", queries, rows, 5, False)[0]
    for scale in (1e-60, 1e60):
        assert np.array_equal(index_search(index, codes, "influence", scale * queries, 5, False, WORKERS).ids, expected)


def test_a_search_that_visits_too_little_says_less_and_not_something_wrong(codes, rows, queries):
    index = index_of(codes, "influence", "IVF16,Flat", fetched=1, oversample=1)
    index.index.tune(probes=1, breadth=1)
    found = index_search(index, codes, "influence", queries, 60, False, WORKERS)
    for ids, scores, query in zip(found.ids, found.scores, queries, strict=True):
        here = ids >= 0
        np.testing.assert_allclose(scores[here], rows[ids[here]].astype(float) @ query, rtol=1e-12)
        assert np.isnan(scores[~here]).all() and (np.diff(scores[here]) <= 0).all()


@pytest.mark.parametrize("vectors", ["full", "some", "none"])
@pytest.mark.parametrize("score", ["influence", "fvm"])
def test_an_index_of_half_whitened_rows_answers_for_any_later_curvature(codes, rows, rng, score, vectors):
    """It was built with one curvature; the queries were preconditioned with another."""
    basis = np.linalg.qr(rng.normal(size=(K, K)))[0]
    rank = {"full": K, "some": 3, "none": K}[vectors]
    spectrum = Spectrum(np.geomspace(1, 1e-3, rank), None if vectors == "none" else basis[:, :rank], rows=100)
    index = index_of(codes, score, whitening=Preconditioner(spectrum, 0.01))
    queries = np.linalg.solve(rows.T @ rows + np.eye(K), rng.normal(size=(K, 4))).T
    for bottom in (False, True):
        found = index_search(index, codes, score, queries, 10, bottom, WORKERS)
        assert np.array_equal(found.ids, brute(score, queries, rows, 10, bottom)[0])


def test_what_auto_takes_for_so_many_rows():
    section = defaults_of_index()
    assert kinds(section, 25_000, 1024) == ("Flat",)
    assert kinds(section, 25_001, 1024) == kinds(section, 12_501, 2048) == ("RaBitQfs2", "SQ8", "Flat")
    assert kinds(section.model_copy(update={"factory": "SQ8"}), 10, 64) == ("SQ8",)


def test_what_is_half_whitened():
    section = defaults_of_index()
    assert [is_whitened(section, "inner", kind) for kind in ("Flat", "RaBitQfs2", "SQ8")] == [False, True, True]
    assert not is_whitened(section, "cosine", "RaBitQfs2")
    assert is_whitened(section.model_copy(update={"rows": "whitened"}), "inner", "Flat")
    assert not is_whitened(section.model_copy(update={"rows": "plain"}), "inner", "SQ8")


def defaults_of_index():
    return settings.load().index


def test_codes_are_gathered_in_the_order_asked_for(codes, rows):
    positions = np.array([119, 0, 50, 49, 0, 100])
    np.testing.assert_array_equal(codes.gather(positions), rows[positions])
    with pytest.raises(StoreError, match="expected at least one row to gather, got none"):
        codes.gather(np.zeros(0, np.int64))


def test_what_counts_is_worked_out_once_and_cannot_be_changed(codes):
    assert codes.counted() is codes.counted()
    with pytest.raises(ValueError, match="read-only"):
        codes.counted()[0] = False


@pytest.mark.parametrize("encoding", ["int8", "bf16", "float32"])
def test_a_damaged_row_is_refused_when_it_is_gathered(tmp_path, rows, encoding):
    codes = code_set(tmp_path, rows, [N], encoding)
    codes.gather(np.array([7, 8]))
    file = tmp_path / "0.zarr/codes/c/0/0"
    damaged = bytearray(file.read_bytes())
    width = (len(damaged) - 4) // N
    damaged[7 * width + width // 2] ^= 16
    file.write_bytes(damaged)
    again = code_set_at(tmp_path, rows, encoding)
    again.gather(np.array([8]))
    with pytest.raises(StoreError, match="expected row 7 of .*0.zarr with the norm that is stored beside it, "):
        again.gather(np.array([8, 7]))


def code_set_at(directory, rows, encoding):
    shard = CodeShard(directory / "0.zarr", Manifest("gradients", "0.zarr", {}, {}, {}), 0, fit_codec(encoding, rows))
    return CodeSet((shard,), len(rows))
