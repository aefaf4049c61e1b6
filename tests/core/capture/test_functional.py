"""The functional engine: its modes, its memory groups and chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.capture.functional import FunctionalEngine
from pipeline.core.projection import make
from pipeline.errors import TaskError
from tests.core.capture.models import ROWS, classify, problem
from tests.oracles import per_sample_gradients


def run(engine: FunctionalEngine, model: nn.Module, batch: Any, rows: int) -> Tensor:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    sketch = make("identity", shapes, 1, 0).sketch(rows, torch.float64)
    assert engine.capture(batch, sketch).shape == (rows,)
    return sketch.codes()


@pytest.mark.parametrize(
    ("name", "mode"), [("mlp", "vmap"), ("norms", "vmap"), ("attention", "vmap"), ("data-dependent", "loop")]
)
def test_mode_is_chosen_by_the_model(name: str, mode: str) -> None:
    case = problem(name)
    engine = FunctionalEngine(case.model, case.loss, [n for n, _ in case.model.named_parameters()])
    assert engine.mode is None
    run(engine, case.model, case.batch, ROWS)
    assert engine.mode == mode


@pytest.mark.parametrize("name", ["mlp", "data-dependent"])
@pytest.mark.parametrize("budget", [1, 600, 2000, 10**6])
def test_memory_budget_changes_nothing(name: str, budget: int) -> None:
    case = problem(name)
    names = [n for n, _ in case.model.named_parameters()]
    engine = FunctionalEngine(case.model, case.loss, names, budget_bytes=budget)
    true = per_sample_gradients(case.model, case.loss, case.batch, ROWS, names)
    torch.testing.assert_close(run(engine, case.model, case.batch, ROWS), true, rtol=1e-10, atol=1e-12)


def test_groups_and_chunks_keep_to_the_budget() -> None:
    case = problem("mlp")
    names = [n for n, _ in case.model.named_parameters()]  # 30, 5, 15, 3 numbers of 8 bytes
    engine = FunctionalEngine(case.model, case.loss, names, budget_bytes=35 * 8 * ROWS)
    assert list(engine._groups(ROWS)) == [names[:2], names[2:]]
    assert engine.chunk_size(names[:2]) == ROWS // 2
    assert engine.chunk_size(names) == 1


def test_texts_in_the_batch_are_cut_into_rows() -> None:
    model = nn.Linear(2, 2)

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        lengths = torch.tensor([[float(len(text)), 1.0] for text in batch["text"]])
        return classify(model, (lengths, batch["label"]))

    batch = {"text": ["a", "lion", "at large"], "label": torch.tensor([0, 1, 0]), "source": "zoo"}
    engine = FunctionalEngine(model, loss, ["weight", "bias"])
    true = per_sample_gradients(model, loss, batch, 3, ["weight", "bias"])
    torch.testing.assert_close(run(engine, model, batch, 3).float(), true)
    assert engine.mode == "loop"


def test_a_scalar_loss_is_told() -> None:
    case = problem("mlp")
    engine = FunctionalEngine(case.model, lambda m, b: classify(m, b).mean(), ["0.weight"])
    with pytest.raises(TaskError, match=r"shape \[B\] = \[1\], got \[\]"):
        engine.capture(case.batch, make("identity", {"0.weight": (5, 6)}, 1, 0).sketch(ROWS))


def test_nothing_to_capture_is_told() -> None:
    with pytest.raises(TaskError, match="expected at least one parameter to capture, got none"):
        FunctionalEngine(nn.Linear(1, 1), classify, [])
