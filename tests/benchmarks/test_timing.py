import sys
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from benchmarks import timing
from benchmarks.models import CASES, Case, case, loss
from benchmarks.timing import PROBED, Measured, Work, measure, peak, ratios, row

MIB = 2**20


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Case("small", "small", nn.Linear(4, 3), (torch.randn(5, 4), torch.randint(3, (5,))), batches=3)


@pytest.mark.parametrize("key", CASES)
def test_cases_are_the_same_in_every_process_and_have_a_loss_a_row(key):
    first, second = case(key), case(key)
    assert torch.equal(first.batch[0], second.batch[0])
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert loss(first.model, (first.batch[0][:2], first.batch[1][:2])).shape == (2,)


def test_a_ratio_takes_the_faster_of_the_floors_before_and_after(monkeypatch):
    times = iter([2.0, 6.0, 3.0, 5.0, 8.0, 4.0])
    monkeypatch.setattr(timing, "seconds", lambda _: next(times))
    assert ratios(lambda: None, lambda: None, 2) == [3.0, 2.0]


def counted(calls):
    return Work("counts", 7, calls.append)


def test_quick_work_takes_all_batches_in_all_runs_and_two_single_ones_for_memory(small):
    calls = []
    found = measure(small, small, counted(calls), runs=4)
    assert calls == [1, PROBED, 3, 3, 3, 3, 1]
    assert found.runs == 4
    assert found.ratio_min <= found.ratio_median <= found.ratio_max


def test_slow_work_runs_once(small, monkeypatch):
    monkeypatch.setattr(timing, "peak", lambda _, work: (work(), (9, 20.0))[1])
    monkeypatch.setattr(timing, "seconds", lambda work: (work(), 0.5)[1])
    calls = []
    assert measure(small, small, counted(calls), budget_s=25.0) == Measured(40.0, 40.0, 40.0, 1, 9)
    assert calls == [1]


def test_work_between_has_fewer_runs_of_single_batches(small, monkeypatch):
    monkeypatch.setattr(timing, "peak", lambda _, work: (work(), (9, 8.0))[1])
    calls = []
    assert measure(small, small, counted(calls), budget_s=25.0).runs == 3
    assert calls == [1, 1, 1, 1, 1]


def test_what_a_run_begins_with_does_not_make_it_shorter(small, monkeypatch):
    monkeypatch.setattr(timing, "peak", lambda _, work: (work(), (9, 0.48))[1])
    monkeypatch.setattr(timing, "seconds", lambda work: (work(), 0.9)[1])  # of PROBED batches, .06 each and .42 before
    calls = []
    measure(replace(small, batches=400), small, counted(calls), runs=2, budget_s=6.06)
    assert PROBED == 8 and calls[2] == 50


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_peak_sees_what_a_run_holds_and_gives_back(small):
    def hold(mebibytes):
        return lambda: torch.ones(mebibytes * MIB // 4).sum()

    for mebibytes in (256, 64, 128):
        held, seconds = peak(small, hold(mebibytes))
        assert seconds > 0
        if held is None:
            pytest.skip("the system does not let a process forget its peak")
        assert abs(held - mebibytes * MIB) < 16 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_peak_sees_memory_that_was_freed_in_pieces_before(small):
    kept = []

    def hold():
        pieces = [torch.ones(4096) for _ in range(4096)]  # 64 MiB, too small each to go back to the system by itself
        kept.append(pieces[-1])

    hold()
    held, _ = peak(small, hold)
    if held is None:
        pytest.skip("the system does not let a process forget its peak")
    assert held > 48 * MIB


def test_the_floor_leaves_gradients_of_one_batch(small):
    timing.floor(small, 3)
    once = [parameter.grad.clone() for parameter in small.model.parameters()]
    timing.floor(small, 1)
    assert all(torch.equal(a, p.grad) for a, p in zip(once, small.model.parameters(), strict=True))


def test_a_row_says_when_there_were_fewer_runs(small):
    work = Work("fast", 7, print, "by hand")
    found = row(small, "ours", work, Measured(1.0, 2.0, 3.0, 2, 9))
    figures = {key: value for key, value in asdict(Measured(1.0, 2.0, 3.0, 2, 9)).items() if key != "runs"}
    assert found == {"model": "small", "engine": "ours", "method": "fast", "K": 7, **figures, "note": "by hand; 2 runs"}
    assert row(small, "ours", work, Measured(1.0, 2.0, 3.0, timing.RUNS, 9))["note"] == "by hand"
