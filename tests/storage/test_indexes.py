"""Indexes: every kind that the configuration names, ids of ours, and refusals."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.storage import faiss_part, indexes

K = 16
IDS = np.arange(400) * 3 + 1
FACTORIES = ["Flat", "RaBitQfs2", "SQ8", "IVF4,Flat", "IVF4,SQ8", "HNSW16", "PQ8x4", "IVF4,PQ8x4"]


PRODUCTS = 2 * faiss_part.PRODUCT_QUERIES


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(3).normal(size=(400, K)).astype(np.float32)


def make(factory, rows, ids=IDS, parts=3):
    chosen = [(ids[part], rows[part]) for part in np.array_split(np.arange(len(rows)), parts)]
    index = indexes.build(factory, K, chosen, lambda: rows, threads=1)
    index.tune(probes=4, breadth=400)
    return index


def exact(rows, queries, k, ids=IDS):
    return ids[np.argsort(-(queries.astype(np.float64) @ rows.T.astype(np.float64)), axis=1)[:, :k]]


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_kind_finds_neighbours_by_inner_product_before_and_after_its_file(tmp_path, rows, factory):
    index, queries = make(factory, rows), rows[:50]
    ids, products = index.search(queries, 10)
    assert ids.shape == products.shape == (50, 10) and set(ids.ravel()) <= {*IDS, -1}
    truth = exact(rows, queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)])
    assert recall >= (0.4 if "PQ" in factory or "RaBitQ" in factory else 0.95)
    index.save(tmp_path / "x.faiss")
    loaded = indexes.load(tmp_path / "x.faiss", 1)
    loaded.tune(probes=4, breadth=400)
    assert np.array_equal(loaded.search(queries, 10)[0], ids)


def test_the_flat_index_is_exact(rows):
    ids, products = make("Flat", rows).search(rows[:20], 7)
    assert np.array_equal(ids, exact(rows, rows[:20], 7))
    np.testing.assert_allclose(products[:, 0], (rows[:20] @ rows.T).max(1), rtol=1e-6)


@pytest.mark.parametrize("factory", FACTORIES)
def test_excluded_rows_are_never_found(rows, factory):
    kept = np.arange(400) % 7 != 0
    index = indexes.build(factory, K, [(IDS[kept], rows[kept]), (IDS[:0], rows[:0])], lambda: rows[kept], threads=1)
    index.tune(probes=4, breadth=400)
    ids, _ = index.search(rows[~kept], 20)
    assert set(ids.ravel()) <= {*IDS[kept], -1}


@pytest.mark.parametrize("factory", [*FACTORIES, "PCA16,IVF4,Flat"])
def test_rows_are_added_and_taken_out_where_the_kind_allows(tmp_path, rows, factory):
    gone, kept = IDS[[3, 7, 100]], np.delete(np.arange(400), [3, 7, 100])
    make(factory, rows[:300], IDS[:300]).save(tmp_path / "x.faiss")
    index = indexes.load(tmp_path / "x.faiss", 1)
    allowed = index.remove(gone)
    assert allowed == ("HNSW" not in factory)
    if not allowed:
        assert sorted(index.ids()) == IDS[:300].tolist()
        kept = np.arange(400)
    index.add([(IDS[300:], rows[300:])])
    assert sorted(index.ids()) == IDS[kept].tolist()
    index.tune(probes=4, breadth=400)
    found, _ = index.search(rows[:50], 10)
    truth = exact(rows[kept], rows[:50], 10, IDS[kept])
    assert set(found.ravel()) <= {*IDS[kept], -1}
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
    assert recall >= (0.4 if "PQ" in factory else 0.65 if "RaBitQ" in factory else 0.85)


@pytest.mark.parametrize("factory", FACTORIES)
def test_kept_vectors_are_the_rows_as_near_as_the_kind_keeps_them(tmp_path, rows, factory):
    make(factory, rows).save(tmp_path / "x.faiss")
    index = indexes.load(tmp_path / "x.faiss", 1)
    wanted = np.array([5, 390, 17])
    kept = index.vectors(IDS[wanted])
    off = np.abs(kept - rows[wanted]).max()
    assert off <= index.error * np.abs(rows).max()
    assert (off == 0) == (index.error == 0)
    assert index.trained_on_rows == (factory not in ("Flat", "HNSW16"))


def test_lists_of_packed_codes_cannot_tell_their_vectors(tmp_path, rows):
    make("IVF4,PQ8x4fs", rows).save(tmp_path / "x.faiss")
    assert indexes.load(tmp_path / "x.faiss", 1).vectors(IDS[:2]) is None


def test_a_search_for_more_than_there_are_ends_in_minus_one(rows):
    index = indexes.build("Flat", K, [(IDS[:3], rows[:3])], lambda: rows[:3], threads=1)
    ids, _ = index.search(rows[:1], 5)
    assert sorted(ids[0, :3]) == [1, 4, 7] and ids[0, 3:].tolist() == [-1, -1]


def test_more_probes_find_more(rows):
    index, truth = make("IVF16,Flat", rows), exact(rows, rows, 10)
    shares = []
    for probes in (1, 4, 99):
        index.tune(probes, 16)
        ids, _ = index.search(rows, 10)
        shares.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]))
    assert shares[0] < shares[1] < shares[2] == 1


def test_probes_reach_an_inverted_file_behind_a_rotation(rows):
    index, truth = make("PCA16,IVF16,Flat", rows), exact(rows, rows, 10)
    index.tune(probes=16, breadth=16)
    ids, _ = index.search(rows, 10)
    # The transform subtracts the mean, which moves inner products a little; one cell of sixteen would find a third.
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]) > 0.9


def test_a_wider_search_of_a_graph_finds_more(rows):
    index, truth = make("HNSW4", rows), exact(rows, rows, 10)
    shares = []
    for breadth in (1, 400):
        index.tune(probes=1, breadth=breadth)
        ids, _ = index.search(rows, 10)
        shares.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]))
    assert shares[0] < shares[1]


@pytest.mark.parametrize("factory", ["nonsense", "", "PQ7", "IVF4"])
def test_what_is_no_factory_is_refused(rows, factory):
    message = f"expected a FAISS factory string for index.factory, got {factory!r}; try Flat or IVF256,SQ8"
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(factory, rows)


@pytest.mark.parametrize("factory", ["IDMap,Flat", "Flat,IDMap2"])
def test_ids_of_the_users_own_are_refused(rows, factory):
    with pytest.raises(ConfigError, match="expected index.factory without IDMap, which is always added, got "):
        make(factory, rows)


@pytest.mark.parametrize("factory", ["IVF256,Flat", "PQ8"])
def test_too_few_rows_to_train_on_are_a_matter_of_the_configuration(rows, factory):
    message = f"expected enough rows to train index.factory '{factory}', got 100; use fewer cells, or Flat"
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(factory, rows[:100], IDS[:100])


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 50])
def test_what_is_no_index_is_refused(tmp_path, content):
    path = tmp_path / "x.faiss"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"expected an index at .*, got none that opens; see `lowland veri"):
        indexes.load(path, 1)


def test_a_full_disk_is_noticed(rows):
    with pytest.raises(OSError) as caught:
        faiss_part.write(make("Flat", rows).empty.index, Path("/dev/full"))
    assert caught.value.errno == errno.ENOSPC


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(indexes, "PART_ROWS", 64)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("factory", ["Flat", "SQ8"])
def test_parts_answer_as_one_index(rows, factory, threads, small_parts, monkeypatch):
    index = make(factory, rows)
    index.threads = threads
    assert [part.index.ntotal for part in index.parts] == [64] * 6 + [16]
    monkeypatch.setattr(indexes, "PART_ROWS", 10**9)
    whole = make(factory, rows)
    assert len(whole.parts) == 1
    for found, expected in zip(index.search(rows[:50], 150), whole.search(rows[:50], 150), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.array_equal(np.sort(index.ids()), IDS)


@pytest.mark.parametrize("k", [7, 40, 90, 400, 500])
def test_the_best_are_found_wherever_they_lie(rows, k, small_parts):
    """In order of their products with one query, so that its best are all in one part."""
    order = np.argsort(-(rows @ rows[0]))
    index, queries = make("Flat", rows[order]), rows[[0, 5]]
    found, products = index.search(queries, k)
    assert found.shape == products.shape == (2, k)
    assert np.array_equal(found[:, : min(k, 400)], exact(rows[order], queries, k))
    assert (np.diff(products[:, : min(k, 400)]) <= 0).all() and (found[:, 400:] == -1).all()


@pytest.mark.parametrize("order", ["by chance", "best first"])
def test_so_many_are_the_best_as_must_be(rows, order, small_parts):
    """The last part is small, and all parts together give as many as are asked for."""
    order = np.argsort(-(rows @ rows[0])) if order == "best first" else np.arange(400)
    index = make("Flat", rows[order])
    found, _ = index.search(rows[:5], 60, sure=30)
    assert np.array_equal(found[:, :30], exact(rows[order], rows[:5], 30)) and (found >= 0).all()


def test_cells_and_graphs_are_one_part(rows, small_parts):
    assert [len(make(factory, rows).parts) for factory in ("IVF4,Flat", "HNSW16", "PCA16,IVF4,Flat")] == [1, 1, 1]


@pytest.mark.parametrize("factory", ["Flat", "RaBitQfs2"])
def test_parts_that_do_not_change_stay_the_files_that_they_are(tmp_path, rows, factory, small_parts):
    make(factory, rows[:300], IDS[:300]).save(tmp_path / "x.faiss")
    index = indexes.load(tmp_path / "x.faiss", 1)
    index.remove(IDS[[70, 71]])
    index.add([(IDS[300:], rows[300:])])
    index.save(tmp_path / "y.faiss")
    same = [(tmp_path / "x.faiss" / name).samefile(tmp_path / "y.faiss" / name)
            for name in ("empty", "0", "1", "2", "3", "4")]  # fmt: skip
    assert same == [True, True, False, True, True, False]
    assert not (tmp_path / "x.faiss" / "6").exists() and (tmp_path / "y.faiss" / "6").exists()
    assert np.array_equal(np.sort(indexes.load(tmp_path / "y.faiss", 1).ids()), np.delete(IDS, [70, 71]))
    assert np.array_equal(np.sort(indexes.load(tmp_path / "x.faiss", 1).ids()), IDS[:300])


def test_a_part_whose_rows_are_all_gone_is_no_more(tmp_path, rows, small_parts):
    index = make("Flat", rows)
    index.remove(IDS[64:128])
    assert len(index.parts) == 6
    index.remove(IDS)
    index.save(tmp_path / "x.faiss")
    ids, _ = indexes.load(tmp_path / "x.faiss", 1).search(rows[:2], 7)
    assert ids.tolist() == [[-1] * 7] * 2


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "IVF4,Flat"])
def test_a_part_is_mapped_into_memory_until_it_is_changed(tmp_path, rows, factory):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("nothing here says what is mapped")
    make(factory, rows).save(tmp_path / "index")
    index = indexes.load(tmp_path / "index", 1)
    assert str(tmp_path / "index" / "0") in maps.read_text()
    index.add([(IDS[:1] + 10**6, rows[:1])])
    assert str(tmp_path / "index" / "0") not in maps.read_text()
    assert index.search(rows[:1], 2)[0].shape == (1, 2)


def test_a_product_for_several_queries_finds_what_a_scan_for_each_does(rows):
    index = make("Flat", rows)
    one_by_one = [index.search(query[None], 5) for query in rows[:PRODUCTS]]
    together = index.search(rows[:PRODUCTS], 5)
    np.testing.assert_array_equal(together[0], np.concatenate([ids for ids, _ in one_by_one]))
    np.testing.assert_allclose(together[1], np.concatenate([products for _, products in one_by_one]), rtol=1e-5)
