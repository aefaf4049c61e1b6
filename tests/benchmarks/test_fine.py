"""The benchmark of f-INE: what is planted stands where it is said to, and tables say what the scores say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import fine
from benchmarks.fine_task import COPIED, COPIES, POISONED, TARGET, TRIGGERED, with_trigger


@pytest.fixture(scope="module")
def task():
    return fine.SMALL.task()


def test_copies_are_of_their_queries_and_poison_has_the_trigger_and_its_label(task):
    train, query = task.train_rows(), task.query_rows()
    for q in range(COPIED):
        for i in task.copies_of(q):
            assert torch.equal(train[i][0], query[q][0]) and train[i][1] == query[q][1]
    triggered = [train[i] for i in task.poison()] + [query[COPIED + i] for i in range(TRIGGERED)]
    assert all(torch.equal(with_trigger(row[0][None])[0], row[0]) and row[1] == TARGET for row in triggered)
    plain = [train[i][0] for i in range(fine.SMALL.train)] + [row[0] for row in task.validation_rows()]
    assert not any(torch.equal(with_trigger(image[None])[0], image) for image in plain)


def test_only_planted_noise_counts_as_wrong(task):
    wrong, judged = fine.wrong_labels(task)
    assert judged.sum() == fine.SMALL.train and (wrong & judged).sum() == round(0.2 * fine.SMALL.train)
    assert len(judged) == fine.SMALL.train + COPIED * COPIES + POISONED


def test_jaccard_is_over_pairs_of_seeds():
    assert fine.jaccard([{1, 2}, {2, 3}, {1, 2}]) == [1 / 3, 1.0, 1 / 3]
    assert fine.top(np.array([0.0, 5.0, *[1.0] * 18])) == {1, 2}


def test_a_score_that_knows_copies_and_poison_has_full_marks(task, rng):
    queries, rows = COPIED + TRIGGERED + 3, len(task.labels)
    scores = rng.normal(size=(queries, rows)) - 10
    for q in range(COPIED):
        scores[q, task.copies_of(q)] = 5
    scores[COPIED : COPIED + TRIGGERED, task.poison()] = 5
    first, chance = fine.of_pairs([{"fine": scores, "fvm": scores}] * 2, task)[::2]
    assert first["Jaccard"] == first["copies positive"] == first["copies in the tenth"] == "1.000 (1.000 to 1.000)"
    assert (
        first["poison first"] == first["poison in the tenth"] == "1.000 (1.000 to 1.000)"
        and chance["score"] == "chance"
    )
    none = fine.of_pairs([{"fine": -scores}] * 2, task)[0]
    assert none["copies positive"] == none["poison first"] == "0.000 (0.000 to 0.000)"


def test_suspects_that_last_are_those_of_every_seed(rng):
    base = np.arange(100.0)
    other = base.copy()
    other[95:] = -1  # five of the ten do not last
    columns = [{"wrong": values} | dict.fromkeys(("fine", "lasting", "loss_trained", "loss_flat"), base)
               for values in (base, other)]  # fmt: skip
    share, *found = fine.of_suspects(columns)
    assert share["value"] == "0.500 (0.500 to 0.500)"
    assert len(found) == len(fine.STABILITY) and all(row["value"] for row in found)
