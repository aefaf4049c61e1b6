import json

import pytest

from benchmarks import tables

ROWS = [
    {"model": "a", "ratio": 1.23456, "peak_bytes": 3 * 2**20, "note": ""},
    {"model": "a", "ratio": None, "peak_bytes": None, "note": "x|y"},
    {"model": "b", "ratio": 1234.5, "peak_bytes": 0, "note": ""},
]


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tables, "STARTED", (0.0, 0.0))
    monkeypatch.setattr(tables.os, "cpu_count", lambda: 2)
    return tmp_path / "results"


def busy(monkeypatch, cores):
    monkeypatch.setattr(tables, "spent", lambda: (100.0, 100.0 * cores))


def test_markdown_shows_bytes_in_mebibytes_and_missing_figures_as_dashes():
    assert tables.markdown(ROWS).splitlines() == [
        "| model | ratio | peak MiB | note |",
        "| --- | --- | --- | --- |",
        "| a | 1.235 | 3.0 |  |",
        "| a | - | - | x\\|y |",
        "| b | 1234 | 0.0 |  |",
    ]


def test_grouped_makes_a_table_for_each_value_and_drops_its_column():
    first, second = tables.grouped(ROWS, "model").split("\n\n### b\n\n")
    assert first.startswith("### a\n\n| ratio | peak MiB | note |")
    assert second == tables.markdown([{key: ROWS[2][key] for key in ("ratio", "peak_bytes", "note")}])


def test_results_of_a_quiet_machine_are_kept(results, monkeypatch, capsys):
    busy(monkeypatch, 0.2)
    tables.keep("name", "make it", ROWS, by="model", threads=1)
    kept = json.loads((results / "name.json").read_text())
    assert (kept["rows"], kept["threads"], kept["command"]) == (ROWS, 1, "make it")
    assert kept["cores_taken_by_others"] == 0.2
    assert (results / "name.md").read_text() in capsys.readouterr().out


def test_results_of_a_busy_machine_go_elsewhere(results, monkeypatch, capsys):
    busy(monkeypatch, 0.3)
    tables.keep("name", "make it", ROWS, threads=2)
    assert not results.exists()
    assert "not kept, since other processes took 0.30 cores" in capsys.readouterr().out
    assert list(results.parent.glob("benchmarks-*/name.json"))


@pytest.mark.parametrize("threads", [1, None])
def test_others_may_have_the_cores_that_are_not_timed(results, monkeypatch, threads):
    busy(monkeypatch, 1.2 if threads else 2)
    tables.keep("name", "make it", ROWS, threads=threads)
    assert (results / "name.json").exists()


def test_own_time_does_not_count_as_that_of_others(monkeypatch):
    monkeypatch.setattr(tables.Path, "read_text", lambda self, **_: "cpu  500 60 40 9999 7\ncpu0 1 1 1\n")
    monkeypatch.setattr(tables.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(tables.os, "times", lambda: (1.0, 0.5, 2.0, 0.5, 77.0))
    assert tables.spent()[1] == pytest.approx(6.0 - 4.0)


def test_a_system_that_does_not_tell_is_no_error(monkeypatch):
    def missing(self, **_):
        raise FileNotFoundError

    monkeypatch.setattr(tables.Path, "read_text", missing)
    assert tables.spent()[1] is None


def test_where_the_system_does_not_tell_nobody_is_accused():
    assert tables.others((0.0, None), (1.0, None)) == 0
    assert tables.others((0.0, 1.0), (2.0, 2.0)) == 0.5
