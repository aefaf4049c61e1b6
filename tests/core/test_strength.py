"""The choice of the strength: the rule, the fallback, what is discarded, and that nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.core.holdout import splits
from pipeline.core.minimum import Divergence
from pipeline.core.strength import choose, finished, lowest, pick
from pipeline.errors import ConfigError
from tests.core.test_minimum import SETTINGS
from tests.oracles_minimum import blobs, mlp, nll

SAM = replace(SETTINGS, method="sam", steps=40, batch_rows=16)


def fresh():
    return mlp(0, [4, 6, 3])


def chosen(points, settings, candidates, folds=2, held_out=0.25, report=None):
    return finished(choose(fresh, nll, points, settings, candidates, folds, held_out), report)


def curves_of(means, spread):
    """One final point a strength; rows differ from the first strength's by `spread` times a fixed pattern of mean 0."""
    pattern = torch.linspace(-1, 1, 25, dtype=torch.float64)
    return {s: (mean + (spread * pattern if s else 0 * pattern))[None] for s, mean in means.items()}


def test_the_rule_takes_the_greatest_within_one_paired_standard_error():
    means = {0.0: 1.0, 0.1: 1.05, 0.2: 1.1, 0.5: 1.5}
    error = float(torch.linspace(-1, 1, 25, dtype=torch.float64).std()) / 5  # at spread 1: .123
    assert 0.1 < error < 0.5
    assert pick(curves_of(means, 1.0)) == 0.2
    assert pick(curves_of(means, 0.5)) == 0.1
    assert pick(curves_of(means, 0.0)) == 0.0
    assert lowest(curves_of(means, 1.0)) == 0.0


def test_a_difference_common_to_all_rows_counts_however_much_rows_differ_among_themselves():
    rows = torch.linspace(0, 100, 25, dtype=torch.float64)
    assert pick({0.0: rows[None], 0.5: rows[None] + 0.01}) == 0.0


def test_the_choice_reports_what_it_did():
    points, seen = blobs(1, 60), []
    choice = chosen(points, SAM, [0.0, 0.1, 50.0], report=seen.append)
    assert [t.strength for t in choice.trials] == [0.0, 0.1, 50.0]
    assert choice.strength in (0.0, 0.1), "a rho of 50 cannot be as good"
    assert (choice.held_out_rows, choice.fit_rows) == (15, 45)
    assert min(t.behind for t in choice.trials) == 0.0 and choice.trials[2].behind > choice.trials[2].behind_error
    assert all(t.steps == (0, *range(2, 41, 2)) and len(t.losses) == 21 and t.failure is None for t in choice.trials)
    assert len({t.losses[0] for t in choice.trials}) == 1, "all start from the trained weights"
    assert "greatest of 0, 0.1, 50 within one standard error" in choice.reason
    assert [(p.run, p.strength) for p in seen if p.descent.step == 40] == [
        (1, 0.0), (2, 0.0), (3, 0.1), (4, 0.1), (5, 50.0), (6, 50.0),
    ]  # fmt: skip
    assert {p.runs for p in seen} == {6}


def test_same_seed_same_choice_whatever_the_global_generator():
    first = chosen(blobs(1, 60), SAM, [0.0, 0.1])
    torch.manual_seed(99)
    assert chosen(blobs(1, 60), SAM, [0.0, 0.1]) == first


def test_each_fold_starts_from_new_weights_and_fits_its_own_rows_only():
    models = []

    def make_model():
        models.append(fresh())
        return models[-1]

    seen = []

    def loss(model, batch):
        if torch.is_grad_enabled():
            seen.append((models.index(model), batch[0]))
        return nll(model, batch)

    points = blobs(1, 60)
    finished(choose(make_model, loss, points, SAM, [0.0, 0.1], 2, 0.25))
    parts = splits(60, 2, 0.25, SAM.seed)
    assert len(models) == 4
    for number in range(4):
        held = points.x[parts[number % 2][1]]
        fitted = torch.cat([x for index, x in seen if index == number])
        assert not (fitted[:, None] == held[None]).all(-1).any()


def test_a_diverged_candidate_is_discarded_and_named():
    choice = chosen(blobs(1, 60), SAM, [0.0, 0.1])
    diverging = finished(choose(fresh, loss_that_breaks(20), blobs(1, 60), SAM, [0.0, 0.1, 50.0], 2, 0.25))
    assert "discarded as diverged: 50" in diverging.reason
    assert "expected a finite loss while descending by sam" in diverging.trials[2].failure
    assert diverging.strength == choice.strength


def loss_that_breaks(radius):
    """Cross-entropy, but not a number where the weights are further than `radius` from the start."""
    start = [p.detach().clone() for p in fresh().parameters()]

    def loss(model: nn.Module, batch):
        far = sum(float((p.detach() - s).square().sum()) for p, s in zip(model.parameters(), start, strict=True))
        return nll(model, batch) * (float("nan") if far > radius**2 else 1.0)

    return loss


def test_all_diverged_says_so():
    with pytest.raises(
        Divergence, match=r"expected one strength of 0\.1, 0\.2 to converge, got none: lower the learning"
    ):
        chosen(blobs(1, 60), replace(SAM, learning_rate=1e200), [0.1, 0.2])


@pytest.mark.parametrize(("method", "strength"), [("sam", 0.2), ("asam", 2.0), ("lpf", 0.03)])
def test_too_few_rows_fall_back_and_say_so(method, strength):
    for count, held_out in ((39, 0.3), (45, 0.2)):
        choice = chosen(blobs(1, count), replace(SAM, method=method), [0.05, 0.1], held_out=held_out)
        assert choice.strength == strength and choice.trials == ()
        assert f"{count} clean rows, {round(count * held_out)} of them held out, are too few" in choice.reason
        assert f"the fallback {strength:g} for {method} is used" in choice.reason
        assert choice.verdict == "not watched: too few clean rows"


def test_a_given_strength_is_kept_and_only_watched():
    watched = chosen(blobs(1, 60), SAM, [0.07], folds=1)
    assert watched.strength == 0.07 and watched.reason.startswith("given") and len(watched.trials) == 1
    few = chosen(blobs(1, 20), SAM, [0.07], folds=1)
    assert few.strength == 0.07 and few.reason.startswith("given") and few.verdict.startswith("not watched")


def test_plain_has_nothing_to_choose():
    choice = chosen(blobs(1, 60), replace(SAM, method="plain"), [0.1, 0.2])
    assert choice.strength == 0.0 and [t.strength for t in choice.trials] == [0.0] and choice.reason.startswith("given")


@pytest.mark.parametrize(
    ("candidates", "folds", "held_out", "message"),
    [
        ([], 1, 0.2, "expected at least one candidate strength, got none"),
        ([0.1], 0, 0.2, "expected at least 1 internal split, got 0"),
        ([0.1], 1, 0.0, "expected a held-out share between 0 and 1, got 0.0"),
        ([0.1], 1, 1.0, "expected a held-out share between 0 and 1, got 1.0"),
    ],
)
def test_bad_requests_are_refused(candidates, folds, held_out, message):
    with pytest.raises(ConfigError, match=message):
        chosen(blobs(1, 60), SAM, candidates, folds, held_out)


def test_an_edge_of_the_grid_is_mentioned():
    assert "it is the greatest candidate" in chosen(blobs(1, 60), SAM, [0.0, 1e-9]).reason
