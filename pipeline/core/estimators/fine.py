"""f-INE (Panda, Tarsadiya, Sourav, Prathosh, Karimireddy, ICLR 2026, arXiv 2510.10510): influence as a test.

How well can a model that was trained with a row be told from one trained without? If what is observed is Gaussian, the
answer is one number, mu (`core/tradeoff`). The paper estimates it within one training; what a step "with" and "without"
the row is, what the auxiliary model does, and how steps are scaled it leaves open. The reconstruction here:

* **Points and steps.** theta_1 ... theta_T are weights of the training after some epochs (`checkpoints.epochs`), and
  theta'_1 ... theta'_T those of its twin, a training from another seed (`checkpoints.twin`). At each point an epoch is
  walked with weights that stand still: every train row goes into one of R = 32 batches by a hash of its position and
  the point. (Recorded batches there are none: a task's `train` is the user's.)
* **Observation.** A step b at point t changes the loss of a query q, to first order, by the learning rate times
  -A_tb, with  A_tb = sum over rows j of the batch of g_q(t)^T g_j(t).  Its twin A'_tb is the same of the same rows at
  theta'_t, and D = A - A' the difference in differences, without what both trainings have in common.
* **Without the row i**, its terms are taken out of its batch, from A and A' alike. **With** it, its own
  v_ti = g_q(t)^T g_i(t) is added to A at each step, and A' stays without: taken from both, the row would cancel.
* **Scale.** What is observed at a point is centred and divided by its standard deviation sd_ti over the R steps without
  the row: trends along the training and learning rates drop out, and steps are alike, as the central limit asks.

With m_ti = v_ti / sd_ti, over all T R steps the sample without i has mean 0 and variance 1, that with i has mean
mean_t m_ti and variance 1 + var_t m_ti, so that the plug-in is

    mu_i = mean_t m_ti / sqrt(1 + var_t(m_ti) / 2)

It is mu of a step; k such steps have sqrt(k) mu, whose order is the same. v_ti is also the expected difference between
steps that hold i and steps that do not, since batches are drawn row by row; that form (`Included`) has noise of its
own, but is zero on average for rows that were never trained on, as the first is not: a step on a row that was not
trained on would change the loss, too.

    fine       mu on the mean loss of the validation rows, or of a query; signed: positive helped
    fine_max   the same, of largest magnitude over thresholds instead of plugged in; biased away from zero
    fine_self  mu of a row on its own loss; unsigned: rows that only they themselves teach have a large one

Space: codes of each checkpoint. Letters: T points, R steps of a point, q queries, n rows, K coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, PairEstimator, Rows, Stores, divided
from pipeline.core.tradeoff import band, over_thresholds, plug_in

STEPS = 32
"""R, steps of a point."""
ROWS_AT_ONCE = 256
"""Whose observations are held at once over thresholds."""


def dealt(positions: Array, point: int) -> Array:
    """The step of each row at a point, [n], 0 to R - 1: a hash (splitmix64) of where it stands."""
    x = positions.astype(np.uint64) + np.uint64(1 << 40) * np.uint64(point + 1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(((x ^ (x >> np.uint64(31))) % np.uint64(STEPS)).astype(np.int64))


@dataclass(frozen=True)
class Batches:
    """The sums of codes over the rows of each step, at a point's checkpoint: [R, K] of some rows."""

    checkpoint: str
    point: int

    def __call__(self, rows: Rows) -> Array:
        """Of some rows."""
        members = np.arange(STEPS)[:, None] == dealt(rows.positions, self.point)
        sums: Array = members.astype(np.float64) @ rows.codes(self.checkpoint)
        return sums


@dataclass(frozen=True)
class Seen:
    """What is observed at a point, of queries and rows, [q, n], or of rows that each ask for themselves, [n].

    Attributes:
        own: v.
        gone: what is taken out of D at the row's own step, v - v'.
        held: D there, with all rows.
        centre: mean of D over the steps, with all rows.
        square: its variance.
    """

    own: Array
    gone: Array
    held: Array
    centre: Array
    square: Array

    @property
    def mean(self) -> Array:
        """Of D over the steps without the row."""
        return np.asarray(self.centre - self.gone / STEPS)

    @property
    def deviation(self) -> Array:
        """Of D over the steps without the row: `gone` leaves the sum of squares, and the mean moves."""
        lost = self.gone * (2 * (self.held - self.centre) - self.gone) / STEPS + np.square(self.gone / STEPS)
        return np.sqrt(np.maximum(self.square - lost, 0))

    @property
    def influence(self) -> Array:
        """m: v over that deviation."""
        return divided(self.own, self.deviation)


@dataclass(frozen=True)
class FINE(PairEstimator):
    """Pairs are no products, as their scale depends on both; what is asked with stands side by side for all points."""

    points: tuple[str, ...]
    twins: tuple[str, ...]
    sums: tuple[Array, ...]

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The sums of all steps; `at` names the T points, then the twin's T points in the same order."""
        half = len(at) // 2
        sums = [stores.total("train", [each], Batches(each, number % half)) for number, each in enumerate(at)]
        return cls(np.zeros(0), tuple(at[:half]), tuple(at[half:]), tuple(sums)).asked_by(stores, at)

    def ask(self, queries: Rows) -> Array:
        """g at all checkpoints, [q, K summed over them]."""
        return np.concatenate([queries.codes(each) for each in (*self.points, *self.twins)], 1)

    def features(self, rows: Rows) -> Array:
        """The same of train rows."""
        return self.ask(rows)

    def answered(self, asked: Array, rows: Rows) -> Array:
        """mu, [q, n]."""
        return _plugged_in([seen.influence for seen in self.seen(asked, rows)])

    def rows(self, rows: Rows) -> Array:
        """mu on the mean loss of the validation rows, [n]: one test, and not a mean of tests."""
        found: Array = self.answered(self.mean[None], rows)[0]
        return found

    def seen(self, asked: Array, rows: Rows) -> Iterator[Seen]:
        """Point by point, [q, n]."""
        parts = self._parts(asked)
        for number, pair in enumerate(self.pairs_of_points):
            own, other = (parts[each] @ rows.codes(self.names[each]).T for each in pair)
            steps = self.steps(asked, number)
            held = steps[:, dealt(rows.positions, number)]
            yield Seen(own, own - other, held, steps.mean(1, keepdims=True), steps.var(1, keepdims=True))

    def steps(self, asked: Array, number: int) -> Array:
        """D of all steps of a point, with all rows, [q, R]."""
        parts = self._parts(asked)
        ahead, beside = (parts[each] @ self.sums[each].T for each in self.pairs_of_points[number])
        return np.asarray(ahead - beside)

    def unseen(self, asked: Array, positions: Array) -> Iterator[Included]:
        """The test of rows that were never trained on, one at a time, by the steps that they would have been in.

        Args:
            asked: of one query, [1, D].
            positions: of the rows, beyond those of the train rows, [n].
        """
        points = range(len(self.points))
        raw = np.stack([self.steps(asked, number)[0] for number in points])
        steps = divided(raw - raw.mean(1, keepdims=True), raw.std(1, keepdims=True))
        members = np.stack([dealt(positions, number) for number in points], 1)[..., None] == np.arange(STEPS)
        yield from (Included(steps, each) for each in members)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all checkpoints, the twin's last."""
        return *self.points, *self.twins

    @property
    def pairs_of_points(self) -> list[tuple[int, int]]:
        """Where each point and its twin stand among the names."""
        return [(number, len(self.points) + number) for number in range(len(self.points))]

    def _parts(self, asked: Array) -> list[Array]:
        return np.split(asked, np.cumsum([each.shape[1] for each in self.sums])[:-1], axis=1)


@dataclass(frozen=True)
class Included:
    """Steps that hold a row against steps that do not: studentised D, [T, R], and which hold it, [T, R] bool."""

    studentised: Array
    members: Array

    def samples(self) -> tuple[Array, Array]:
        """Present and absent."""
        return self.studentised[self.members], self.studentised[~self.members]

    def mu(self) -> float:
        """Plugged in."""
        return float(plug_in(*self.samples()))

    def largest(self) -> float:
        """Over thresholds."""
        return float(over_thresholds(*(each[None] for each in self.samples()))[0])

    def band(self, draws: int, rng: np.random.Generator) -> tuple[float, float]:
        """Where 95 % of mu lie if it makes no difference to be held."""
        return band(*self.samples(), draws, rng)


@dataclass(frozen=True)
class FINEMax(FINE):
    """mu of largest magnitude over thresholds."""

    def answered(self, asked: Array, rows: Rows) -> Array:
        """[q, n]."""
        seen = list(self.seen(asked, rows))
        found: Array = np.zeros(seen[0].own.shape)
        for query in range(len(asked)):
            steps = [self.steps(asked[query : query + 1], number)[0] for number in range(len(self.points))]
            for start in range(0, found.shape[1], ROWS_AT_ONCE):
                part = slice(start, start + ROWS_AT_ONCE)
                absent = [
                    _without(each, query, part, own, dealt(rows.positions[part], number))
                    for number, (each, own) in enumerate(zip(seen, steps, strict=True))
                ]
                present = [of + each.influence[query][part, None] for of, each in zip(absent, seen, strict=True)]
                found[query, part] = over_thresholds(np.concatenate(present, 1), np.concatenate(absent, 1))
        return found


@dataclass(frozen=True)
class FINESelf(FINE):
    """mu of each row on its own loss."""

    def rows(self, rows: Rows) -> Array:
        """[n]."""
        found, every = [], np.arange(len(rows.positions))
        for number, pair in enumerate(self.pairs_of_points):
            both = [rows.codes(self.names[each]) for each in pair]
            own, other = (np.square(codes).sum(1) for codes in both)
            ahead, beside = (codes @ self.sums[each].T for codes, each in zip(both, pair, strict=True))
            steps = ahead - beside
            held = steps[every, dealt(rows.positions, number)]
            found.append(Seen(own, own - other, held, steps.mean(1), steps.var(1)).influence)
        return _plugged_in(found)


def _without(seen: Seen, query: int, part: slice, steps: Array, step: Array) -> Array:
    """Studentised steps of a point without each row, [n, R]."""
    members = step[:, None] == np.arange(STEPS)
    left = steps - seen.gone[query][part, None] * members - seen.mean[query][part, None]
    return divided(left, np.broadcast_to(seen.deviation[query][part, None], left.shape))


def _plugged_in(influences: list[Array]) -> Array:
    """mean m / sqrt(1 + var m / 2) over the points."""
    of = np.stack(influences)
    mu: Array = of.mean(0) / np.sqrt(1 + of.var(0) / 2)
    return mu
