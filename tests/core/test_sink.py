"""Several sinks as one get what each gets alone, to the bit."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from pipeline.core.capture.cover import cover
from pipeline.core.projection import METHODS, Projection, Settings, fitter
from pipeline.core.sink import Several
from tests.core.capture.models import ROWS, problem

DIMENSIONS = (40, 23)


@pytest.mark.parametrize("name", ["mlp", "conv groups", "language model", "attention"])
def test_codes_of_all_projections_in_one_pass_are_those_of_single_passes(name: str) -> None:
    case = problem(name)
    shapes = {n: tuple(p.shape) for n, p in case.model.named_parameters()}
    engine = cover(case.model, case.loss, tuple(shapes), case.batch).engine

    def fitted(together: bool) -> list[Projection]:
        works = [fitter(method, shapes, k, 0, Settings(basis=4)) for method in METHODS for k in DIMENSIONS]
        for group in [works] if together else [[work] for work in works]:
            while waiting := [work for work in group if not work.done]:
                with ExitStack() as stack:
                    sinks = [stack.enter_context(work.batch(ROWS, torch.float64)) for work in waiting]
                    engine.capture(case.batch, Several(sinks) if together else sinks[0])
                for work in waiting:
                    work.end_pass()
        return [work.projection() for work in works]

    def sketched(projections: list[Projection], together: bool) -> list[tuple[Tensor, ...]]:
        sketches = [each.sketch(ROWS, torch.float64, norms="estimated") for each in projections]
        for sink in [Several(sketches)] if together else sketches:
            engine.capture(case.batch, sink)
        return [(each.codes(), each.squared_norms(), each.squared_norm_errors()) for each in sketches]

    expected, found = sketched(fitted(together=False), together=False), sketched(fitted(together=True), together=True)
    assert len(found) == len(METHODS) * len(DIMENSIONS)
    for ours, own in zip(found, expected, strict=True):
        assert own[0].any() and all(torch.equal(a, b) for a, b in zip(ours, own, strict=True))
