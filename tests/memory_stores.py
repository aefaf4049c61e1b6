"""Stores in memory, for estimators: random codes at some checkpoints, in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.curvature import outer_sum, spectrum_of_sum
from pipeline.core.preconditioner import Preconditioner


@dataclass
class MemoryRows:
    by_checkpoint: dict
    losses: dict
    members: np.ndarray
    positions: np.ndarray

    def codes(self, checkpoint):
        return self.by_checkpoint[checkpoint][self.positions].astype(np.float64)

    def column(self, checkpoint, name):
        assert name == "loss"
        return self.losses[checkpoint][self.positions]

    def ensemble(self):
        return self.members[self.positions]


class MemoryStores:
    """What `pipeline.core.estimators.base.Stores` asks for; `step` rows a block."""

    damping = 0.7

    def __init__(self, rng, checkpoints=("trained",), train=23, validation=9, size=5, step=7, classification=True):
        count = {"train": train, "validation": validation}
        self.codes = {s: {c: rng.normal(size=(n, size)) for c in checkpoints} for s, n in count.items()}
        self.losses = {s: {c: rng.exponential(size=n) + 0.01 for c in checkpoints} for s, n in count.items()}
        self.members = {s: rng.exponential(size=(n, 4)) for s, n in count.items()}
        self.solutions = rng.normal(size=train)
        self.products = rng.normal(size=(train, validation)).astype(np.float32)
        self.step, self.classification, self.rates, self.edges = step, classification, {}, [0, size]
        self.given, self.logs = rng.integers(0, 3, train), np.log(rng.dirichlet(np.ones(3), train))

    def rows(self, split, positions=None):
        every = np.arange(len(next(iter(self.codes[split].values()))))
        return MemoryRows(
            self.codes[split], self.losses[split], self.members[split], every if positions is None else positions
        )

    def total(self, split, at, part):
        every, total = self.rows(split).positions, None
        for start in range(0, len(every), self.step):
            value = part(self.rows(split, every[start : start + self.step]))
            total = value if total is None else total + value
        return total

    def preconditioner(self, checkpoint):
        codes = self.codes["train"][checkpoint]
        return Preconditioner.fit(spectrum_of_sum(outer_sum(codes), len(codes)), self.damping)

    def rate(self, checkpoint):
        return self.rates.get(checkpoint, 1.0)

    def blocks(self, checkpoint):
        return [slice(a, b) for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)]

    def solved(self, name):
        if name.startswith(("influence", "fvm")):
            return self.products
        return self.solutions if name == "classical_cg" else -self.solutions

    def classes(self):
        return self.classification

    def labels(self):
        return self.given

    def log_probabilities(self, checkpoint):
        return np.arange(len(self.given)), self.logs
