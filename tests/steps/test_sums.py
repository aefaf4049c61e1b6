"""Sums that are kept: whatever comes and goes, the total is that of the rows that count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.core.codec import fit_codec
from pipeline.steps import sums
from pipeline.steps.codes import FINITE, NOT_FINITE, CodeSet, CodeShard
from pipeline.steps.reuse import code_hashes
from pipeline.storage.arrays import Arrays, write_arrays
from pipeline.storage.artefact import Manifest
from pipeline.storage.reduction import Workers

K, SIZE = 6, 50
WORKERS = Workers(2, 2**31)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(sums, "SEGMENT_ROWS", 2 * SIZE / K)  # two shards


@pytest.fixture
def rows(rng):
    return rng.normal(size=(330, K)).astype(np.float32)


def stores(directory, rows, retired=(), dropped=(), wrong=(7, 201)):
    """Shards of some rows; `wrong` ones are not finite."""
    codec, shards = fit_codec("float32", rows), []
    directory.mkdir()
    for i, start in enumerate(range(0, len(rows), SIZE)):
        every = np.arange(start, min(start + SIZE, len(rows)))
        gone = tuple(int(row) for row in every if row in dropped)
        kept = every[~np.isin(every, gone)]
        columns = codec.encode(rows[kept]).columns()
        flag = np.where(np.isin(kept, wrong), NOT_FINITE, FINITE).astype(np.uint8)
        write_arrays(directory / f"{i}.zarr", {**columns, "flag": flag, "code_hash": code_hashes(columns)})
        manifest = Manifest("gradients", f"{i}.zarr", {}, {}, {})
        shards.append(CodeShard(directory / f"{i}.zarr", manifest, start, codec, gone, tuple(retired)))
    return CodeSet(tuple(shards), len(rows))


def summed(codes, kept=None, leaf=sums.outer_part):
    return sums.summed(WORKERS, leaf, codes, kept, 8 * K * K)


def truth(rows, out=(7, 201)):
    left = np.delete(rows.astype(np.float64), list(out), axis=0)
    return left.T @ left


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.trace(expected))


def test_a_sum_is_that_of_the_finite_rows(tmp_path, rows):
    total, kept, count = summed(stores(tmp_path / "a", rows))
    close(total, truth(rows))
    assert kept.totals.shape == (4, K, K) and [len(each) for each in kept.hashes] == [99, 100, 99, 30] and count == 328
    diagonal, _, _ = summed(stores(tmp_path / "b", rows), leaf=sums.square_part)
    np.testing.assert_allclose(diagonal, np.diag(truth(rows)), rtol=1e-12)


def test_sums_survive_their_file(tmp_path, rows):
    _, kept, _ = summed(stores(tmp_path / "a", rows))
    write_arrays(tmp_path / "s.zarr", kept.arrays())
    read = sums.Sums.read(Arrays(tmp_path / "s.zarr"))
    assert np.array_equal(read.totals, kept.totals)
    assert all(np.array_equal(a, b) for a, b in zip(read.hashes, kept.hashes, strict=True))
    write_arrays(tmp_path / "none.zarr", {"values": np.zeros(2)})
    assert sums.Sums.read(Arrays(tmp_path / "none.zarr")) is None


def test_only_appended_rows_are_summed(tmp_path, rows):
    _, kept, _ = summed(stores(tmp_path / "a", rows[:260]))
    total, _, count = summed(stores(tmp_path / "b", rows), kept)
    assert count == 70
    close(total, truth(rows))


def test_a_changed_row_has_its_segment_summed_anew(tmp_path, rows):
    _, kept, _ = summed(stores(tmp_path / "a", rows))
    other = rows.copy()
    other[120] *= -3
    total, _, count = summed(stores(tmp_path / "b", other), kept)
    assert count == 100
    close(total, truth(other))


def test_rows_that_moved_within_their_segment_cost_nothing(tmp_path, rows):
    _, kept, _ = summed(stores(tmp_path / "a", rows, wrong=()))
    moved = rows.copy()
    moved[100:200] = moved[100:200][::-1]
    total, _, count = summed(stores(tmp_path / "b", moved, wrong=()), kept)
    assert count == 0
    close(total, truth(rows, out=()))


def test_equal_rows_are_counted_as_often_as_they_are_there(tmp_path, rows):
    rows[100:150] = rows[100]
    _, kept, _ = summed(stores(tmp_path / "a", rows[:130], wrong=()))
    total, _, count = summed(stores(tmp_path / "b", rows[:160], wrong=()), kept)
    assert count == 30
    close(total, truth(rows[:160], out=()))
    total, _, count = summed(stores(tmp_path / "c", rows[:120], wrong=()), kept)
    assert count == 20  # ten of the equal rows have gone
    close(total, truth(rows[:120], out=()))


def test_retired_rows_are_taken_out_and_restored_ones_are_back(tmp_path, rows):
    codes = stores(tmp_path / "a", rows, retired=(3, 7, 260))
    total, kept, _ = summed(codes)
    close(total, truth(rows, out=(3, 7, 201, 260)))
    back = CodeSet(tuple(replace(shard, retired=()) for shard in codes.shards), codes.rows)
    total, _, count = summed(back, kept)
    assert count == 0
    close(total, truth(rows))


def test_dropped_rows_have_their_segment_summed_anew(tmp_path, rows):
    _, kept, _ = summed(stores(tmp_path / "a", rows))
    total, _, count = summed(stores(tmp_path / "b", rows, retired=(3, 260), dropped=(3, 260)), kept)
    assert count == 98 + 98
    close(total, truth(rows, out=(3, 7, 201, 260)))


def test_a_row_that_outweighs_all_others_leaves_no_rounding_behind(tmp_path, rows):
    rows[40] *= 1e9
    total, _, _ = summed(stores(tmp_path / "a", rows, retired=(40,)))
    close(total, truth(rows, out=(7, 40, 201)))
