"""A regression and a language model: tasks of another kind need nothing outside their own file."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from pipeline.tasks.base import Task
from pipeline.tasks.checks import check_task, row_set
from tests.tasks.examples import END, Regression, TinyLanguageModel

TASKS = [Regression(), TinyLanguageModel("sum"), TinyLanguageModel("mean")]


@pytest.mark.parametrize("task", TASKS)
def test_they_are_small_and_learn_in_a_second(task: Task) -> None:
    facts = check_task(task)
    torch.manual_seed(0)
    model = task.model()
    batch = row_set(task, "train").batch(range(facts.train))
    with torch.no_grad():
        before = task.loss(model, batch).mean()
    start = time.process_time()
    task.train(model)
    assert time.process_time() - start < 3  # a second on one thread of a free machine
    with torch.no_grad():
        assert task.loss(model, batch).mean() < 0.8 * before
    assert facts.train <= 60 and facts.trains and not facts.classifies
    assert sum(p.numel() for p in model.parameters()) <= 5000


def double(batch: Any) -> Any:
    return [part.double() for part in batch] if isinstance(batch, list) else batch  # word numbers stay whole


@pytest.mark.parametrize("task", TASKS)
def test_losses_are_per_row(task: Task) -> None:
    torch.manual_seed(1)
    model, rows = task.model().double(), row_set(task, "train")
    with torch.no_grad():
        together = task.loss(model, double(rows.batch([3, 1, 2])))
        alone = torch.cat([task.loss(model, double(rows.batch([i]))) for i in (3, 1, 2)])
    assert together.shape == (3,) and torch.allclose(together, alone, atol=1e-12)


def test_the_language_model_sums_over_its_own_letters_only() -> None:
    task = TinyLanguageModel("sum")
    model = task.model().double()
    rows = [row for row in task.train_rows() if row["text_length"] < 20]
    assert rows
    row = rows[0]
    length = row["text_length"] + 1  # letters and the end
    assert int(row["tokens"][length - 1]) == END and not row["tokens"][length:].any()
    with torch.no_grad():
        log_p = model(row["tokens"][None, :-1])[0].log_softmax(-1)
        oracle = -sum(log_p[t, row["tokens"][t + 1]] for t in range(length - 1))
        assert torch.allclose(task.loss(model, task.collate([row]))[0], oracle, atol=1e-12)
        mean = TinyLanguageModel("mean").loss(model, task.collate([row]))[0]
    assert torch.allclose(mean * (length - 1), oracle, atol=1e-12)


def test_no_letter_sees_the_future() -> None:
    model = TinyLanguageModel().model().double()
    tokens = torch.randint(1, END, (1, 24), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 10:] = 3
    with torch.no_grad():
        assert torch.allclose(model(tokens)[0, :10], model(changed)[0, :10], atol=1e-12)
        assert not torch.allclose(model(tokens)[0, 10:], model(changed)[0, 10:])


def test_the_language_model_shows_text() -> None:
    task = TinyLanguageModel()
    assert task.show(task.train_rows()[5]).text == "a watched pot never boil"  # the first 24 letters
    assert task.show(task.train_rows()[32]).text == "knowledge is power"
