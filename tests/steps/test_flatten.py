from types import SimpleNamespace

import pytest
import torch

from pipeline.config import load, merge, partial, sections, validate
from pipeline.core.minimum import Divergence
from pipeline.core.strength import Choice, Trial
from pipeline.steps import flatten
from pipeline.steps.job import Job
from pipeline.storage.layout import Layout


@pytest.fixture
def job(tmp_path):
    said: list[str] = []
    values = merge(load().model_dump(by_alias=True), {"flatten": {"strength": 0.2, "watch": False}})
    config = partial(sections(validate(values), "flatten"))
    return Job("flatten", Layout(tmp_path), config, said.append), said


ROWS = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def stages(monkeypatch):
    """Everything but the retries: a descent that diverges above a learning rate."""
    rates: list[float] = []

    def descend(job, task, model, rows, settings):
        rates.append(settings.learning_rate)
        if settings.learning_rate > limit[0]:
            raise Divergence("expected a finite loss, got inf")
        return [[1.0, 0.5]]

    limit = [0.0]
    monkeypatch.setattr(flatten, "_descend", descend)
    monkeypatch.setattr(flatten, "_sharpness", lambda *_: {"loss": 1.0})
    monkeypatch.setattr(flatten, "model_at", lambda *_: torch.nn.Linear(1, 1))
    return rates, limit


def test_a_descent_that_diverges_is_tried_again_at_a_tenth_of_the_rate_and_this_is_said(job, stages):
    (rates, limit), (made, said) = stages, job
    limit[0] = 0.01
    *_, settings, history = flatten._flattened(made, None, ROWS)
    assert rates == pytest.approx([0.02, 0.002]) and settings.learning_rate == pytest.approx(0.002)
    assert history == [[1.0, 0.5]]
    assert len(said) == 1 and "trying again with learning rate 0.002" in said[0]


def test_two_retries_and_then_the_error(job, stages):
    (rates, limit), (made, _) = stages, job
    limit[0] = 1e-9
    with pytest.raises(Divergence):
        flatten._flattened(made, None, ROWS)
    assert rates == pytest.approx([0.02, 0.002, 0.0002])


def test_a_descent_that_makes_the_held_out_loss_worse_is_tried_again_too(job, stages, monkeypatch):
    (rates, limit), (made, said) = stages, job
    limit[0] = 1.0

    def choose(job, task, rows, rate):
        losses = (0.5, 0.6) if rate > 0.01 else (0.5, 0.4)
        return Choice(0.2, "given", "worse", (Trial(0.2, (0, 1), losses, 0.0, 0.0, None),), 10, 30)

    monkeypatch.setattr(flatten, "_choose", choose)
    flatten._flattened(made, None, ROWS)
    assert rates == pytest.approx([0.002]) and "trying again" in said[0]
