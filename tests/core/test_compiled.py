"""Loops as machine code: the same results as the functions as they stand, also where nothing can be kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import compiled, rounding
from pipeline.core.projection import selected

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def both(loop, *arguments: np.ndarray | np.float32) -> None:
    """Machine code and plain Python leave the same in the arrays, bit for bit."""
    found, expected = ([each.copy() for each in arguments] for _ in range(2))
    loop(*found)
    loop.__wrapped__(*expected)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, other)
    assert any((own != given).any() for own, given in zip(found, arguments, strict=True))


def test_machine_code_does_what_the_loop_says(rng):
    lines, scale = rng.normal(size=(70, 9)).astype(np.float32), rng.uniform(1, 2, 70).astype(np.float32)
    order, steps = rng.permutation(70), rng.uniform(1, 10, (3, 9)).astype(np.float32)
    both(rounding.find_peaks, lines, order, scale, np.zeros((3, 9), np.int32))
    both(rounding.round_int8, lines, scale, steps, np.zeros((70, 9), np.int8))
    places, shifts = np.arange(70) // 2, np.tile(np.array([1, 16], np.uint8), 35)
    halves, empty = np.full(3, 8, np.float32), np.zeros((3, 9), np.float32)
    both(rounding.round_mixed, lines, order, scale, scale, places, shifts, halves, steps / 40,
         np.zeros((35, 9), np.uint8), empty)  # fmt: skip
    both(rounding.add_energies, steps, halves, steps[::-1], np.zeros(9))
    peaks, row_scale = np.exp(-5 * rng.uniform(0, 4, (3, 9))).astype(np.float32), np.linspace(1, 2, 9, dtype=np.float32)
    both(rounding.find_steps, peaks, row_scale, np.float32(127), np.float32(1), rounding.BLOCK_STEPS,
         np.zeros((3, 9), np.uint8), empty, empty)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_selected_products(rng, dtype):
    left, right = rng.normal(size=(5, 7)).astype(dtype), rng.normal(size=(6, 7)).astype(dtype)
    both(selected._multiply, left, right, rng.integers(0, 5, 20), rng.integers(0, 6, 20), np.zeros((20, 7), dtype))


def in_a_process(code: str, kept: Path | str = "") -> str:
    """What a fresh interpreter prints, with a place of its own to keep machine code."""
    environment = {**os.environ, **({"NUMBA_CACHE_DIR": str(kept)} if kept else {})}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    return done.stdout.strip()


PRODUCT = """
import numpy as np
from pipeline.core.projection.selected import _multiply
values, found = np.full((1, 3), 3.0), np.zeros((1, 3))
_multiply(values, values, np.zeros(1, int), np.zeros(1, int), found)
print(found)
"""


@pytest.mark.parametrize("size", [0, 60])
def test_machine_code_that_is_damaged_is_made_anew(tmp_path, size):
    assert in_a_process(PRODUCT, tmp_path) == "[[9. 9. 9.]]"
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc")]
    assert files
    for path in files:
        os.truncate(path, size)
    assert in_a_process(PRODUCT, tmp_path) == "[[9. 9. 9.]]"


def test_results_do_not_change_where_nothing_can_be_kept(monkeypatch, rng):
    import numba.core.caching

    monkeypatch.setattr(numba.core.caching.FunctionCache, "_impl_class", Nowhere)
    # what was made before is not asked
    monkeypatch.setattr(compiled, "machine_code", compiled.machine_code.__wrapped__)
    values, found = rng.normal(size=(2, 3)), np.zeros((2, 3))
    selected._multiply(values, values, np.arange(2), np.arange(2), found)
    np.testing.assert_array_equal(found, values**2)


class Nowhere:
    """What numba asks for a place to keep machine code, and there is none."""

    def __init__(self, function) -> None:
        raise RuntimeError(f"cannot cache function {function}")


def test_what_only_reads_loads_no_compiler():
    assert in_a_process("import sys, pipeline.core.codec; print('numba' in sys.modules)") == "False"
