"""One pass over the data for several checkpoints and projections gives what a pass for each would."""

from __future__ import annotations

import torch

from pipeline.core.capture.cover import cover
from pipeline.core.capture.several import capture_all
from pipeline.core.projection import make
from tests.core.capture.models import ROWS, problem


def test_equals_a_pass_for_each() -> None:
    first, second = problem("attention"), problem("attention")
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.mul_(1.1)
    cases = (first, second)
    shapes = {name: tuple(value.shape) for name, value in first.model.named_parameters()}
    engines = [cover(case.model, case.loss, tuple(shapes), first.batch).engine for case in cases]
    projections = [make(method, shapes, 16, 0) for method in ("identity", "sjlt", "kronecker")]

    def sketches() -> list:
        return [projection.sketch(ROWS, torch.float64) for projection in projections]

    together = [sketches() for _ in cases]
    losses = capture_all(first.batch, list(zip(engines, together, strict=True)))
    for engine, joint, found in zip(engines, together, losses, strict=True):
        for sketch, alone in zip(joint, sketches(), strict=True):
            torch.testing.assert_close(found, engine.capture(first.batch, alone), rtol=0, atol=0)
            torch.testing.assert_close(sketch.codes(), alone.codes(), rtol=0, atol=0)
            torch.testing.assert_close(sketch.squared_norms(), alone.squared_norms(), rtol=0, atol=0)
    assert not torch.equal(together[0][0].codes(), together[1][0].codes())
