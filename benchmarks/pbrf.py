"""Influence against the proximal Bregman response, and the gap to leave-one-out taken apart (Bae et al., NeurIPS 2022).

A tanh MLP of 1,210 parameters on digits, SGD with weight decay, in float64. For each of some train rows m and query
rows q, the change of q's loss when m is removed:

    a  cold start       trained from scratch without m, same seed and order
    b  warm start       from theta_s, the loss without m minimised by L-BFGS; from the same descent with m
    c  proximity        b with lambda/2 |theta - theta_s|^2
    d  PBRF             min (1/N) sum_i D_i(theta) - (1/N) l_m(theta) + lambda/2 |theta - theta_s|^2, D_i the KL
                        divergence of the predictions at theta_s from those at theta
    e  linear           g_q^T (G + lambda)^-1 g_m / N, G the Gauss-Newton matrix, dense
    f  Lowland          e as `lowland run` answers it: `influence` at `trained`, from stored codes

a - b is what the warm start hides, b - c the proximity, c - d that theta_s is no minimum, d - e linearisation, e - f
the solver and the stores. Each gap is the root mean square difference, over that of d. For a, b and c the change is
that against the same training with m, so that going on with training alone does not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from benchmarks.pbrf_task import DECAY, TanhDigits
from benchmarks.stages import Run
from benchmarks.tables import keep
from pipeline.provenance import digest_code, digest_value
from pipeline.shards import Plan
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.stores import open_codes
from pipeline.steps.tasks import model_at, seed_everything
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout

SEEDS = (0, 1, 2)
REMOVED = 30
STEPS = 400
NAMES = ("a cold start", "b warm start", "c with proximity", "d PBRF", "e linear, dense", "f Lowland")
GAPS = ("warm start (a - b)", "proximity (b - c)", "non-convergence (c - d)", "linearisation (d - e)",
        "solver and stores (e - f)")  # fmt: skip


def lowland_run(seed: int) -> Layout:
    """The stages of a run on the task that `influence` at `trained` needs: whole gradients, GGN, default damping."""
    run = Run("pbrf", str(seed), {
        "seed": seed,
        "task": {"class": f"{Path(__file__).parent / 'pbrf_task.py'}:TanhDigits", "options": {"seed": seed}},
        "projection": {"method": "identity"},
        "gradients": {"codec": "float32"},
        "curvature": {"kind": "ggn"},
    })  # fmt: skip
    trained = {"checkpoint": "trained"}
    shards = {
        split: [{**trained, "split": split, "shard": shard.name} for shard in run.plan.splits[split].shards]
        for split in ("train", "query")
    }
    run.make([
        ("train", {}), ("projection", trained), *(("gradients", each) for own in shards.values() for each in own),
        *(("candidates", each) for each in shards["train"]), ("curvature", {**trained, "split": "train"}),
    ])  # fmt: skip
    return run.layout


class Problem:
    """A trained model, its rows, and what removing one of them does."""

    def __init__(self, layout: Layout, seed: int) -> None:
        """Of a finished run."""
        self.seed, self.task = seed, TanhDigits(seed)
        self.model = model_at(self.task, layout, "trained").double()
        self.start = flat(self.model)
        self.rows, _, self.queries = self.task.parts
        self.n = len(self.rows[0])
        curvature = read_manifest(layout.curvature("trained", "train"))
        self.damping = float(curvature.record["damping"])
        self.stored = self._stored(layout)
        with torch.no_grad():
            self.before = self.model(self.rows[0]).log_softmax(1)

    def _stored(self, layout: Layout) -> np.ndarray:
        """f: what Lowland's stores answer, [Q, N], over N."""
        plan, (preconditioner, _) = Plan.load(layout.plan), open_preconditioner(layout, "trained", "train")
        train, queries = (open_codes(layout, plan, "trained", split).codes() for split in ("train", "query"))
        found: np.ndarray = preconditioner.solve(queries.astype(np.float64)) @ train.astype(np.float64).T / self.n
        return found

    def losses(self, parameters: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Of rows at flat parameters, [n]."""
        return self.task.loss(lambda x: self.outputs(parameters, x), batch)

    def outputs(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Logits at flat parameters."""
        shapes = {name: p.shape for name, p in self.model.named_parameters()}
        pieces = parameters.split([shape.numel() for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        found: Tensor = functional_call(self.model, named, (x,))
        return found

    def change(self, parameters: Tensor, reference: Tensor) -> np.ndarray:
        """Of the query rows' losses, [Q]."""
        with torch.no_grad():
            return (self.losses(parameters, self.queries) - self.losses(reference, self.queries)).numpy()

    def objective(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        """The loss that training lowers, under weights of rows [N]."""
        return lambda p: self.losses(p, self.rows) @ weight / self.n + DECAY / 2 * p @ p

    def proximal(self, of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The same, held near theta_s."""
        return lambda p: of(p) + self.damping / 2 * (p - self.start).square().sum()

    def bregman(self, row: int) -> Callable[[Tensor], Tensor]:
        """The proximal Bregman objective without a row."""

        def value(p: Tensor) -> Tensor:
            now = self.outputs(p, self.rows[0]).log_softmax(1)
            divergence = (self.before.exp() * (self.before - now)).sum(1).mean()
            return divergence - self.losses(p, self.of(row))[0] / self.n

        return self.proximal(value)

    def of(self, row: int) -> tuple[Tensor, Tensor]:
        """A row as a batch."""
        return self.rows[0][row : row + 1], self.rows[1][row : row + 1]

    def without(self, row: int | None) -> Tensor:
        """Weights of rows."""
        weight = torch.ones(self.n, dtype=torch.float64)
        if row is not None:
            weight[row] = 0
        return weight

    def cold(self, row: int | None) -> Tensor:
        """Parameters after training from scratch, without a row."""
        task = TanhDigits(self.seed)
        if row is not None:
            task.kept = torch.tensor([i for i in range(self.n) if i != row])
        seed_everything(self.seed, "train")
        model = task.model()
        task.train(model)
        return flat(model)

    def linear(self) -> Tensor:
        """e, [Q, N]: dense."""
        jacobian = jacrev(lambda p: self.outputs(p, self.rows[0]))(self.start)  # [N, C, P]
        p = self.before.exp()
        inner = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        matrix = torch.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / self.n
        own, asked = (
            jacrev(lambda p, rows=rows: self.losses(p, rows))(self.start) for rows in (self.rows, self.queries)
        )
        solved = torch.linalg.solve(matrix + self.damping * torch.eye(len(matrix), dtype=torch.float64), own.T)
        return asked @ solved / self.n


def flat(model: nn.Module) -> Tensor:
    """All parameters, [P]."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def minimised(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """By L-BFGS from `start`."""
    parameters = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=STEPS, tolerance_grad=1e-10, tolerance_change=1e-14,
                                  history_size=50, line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(parameters)
        value.backward()
        return value

    optimizer.step(closure)
    return parameters.detach()


def responses(problem: Problem, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The change of every query's loss by each removal, [rows, Q], under every name."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    whole = {
        "a": problem.cold(None),
        "b": minimised(problem.objective(problem.without(None)), problem.start),
        "c": minimised(problem.proximal(problem.objective(problem.without(None))), problem.start),
    }
    linear = problem.linear()
    for row in rows.tolist():
        weight = problem.without(row)
        reached = {
            "a": problem.cold(row),
            "b": minimised(problem.objective(weight), whole["b"]),
            "c": minimised(problem.proximal(problem.objective(weight)), whole["c"]),
        }
        for name in NAMES[:3]:
            found[name].append(problem.change(reached[name[0]], whole[name[0]]))
        found["d PBRF"].append(problem.change(minimised(problem.bregman(row), problem.start), problem.start))
        found["e linear, dense"].append(linear[:, row].numpy())
        found["f Lowland"].append(problem.stored[:, row])
    return {name: np.stack(values) for name, values in found.items()}


def measures(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Correlations over rows, the mean over queries; gaps over the size of the response."""
    out = {}
    for name in ("a cold start", "b warm start", "d PBRF"):
        pairs = list(zip(found["f Lowland"].T, found[name].T, strict=True))
        out[f"Pearson, Lowland and {name}"] = float(np.mean([pearsonr(x, y).statistic for x, y in pairs]))
        out[f"Spearman, Lowland and {name}"] = float(np.mean([spearmanr(x, y).statistic for x, y in pairs]))
    size = np.sqrt(np.square(found["d PBRF"]).mean())
    for gap, (one, other) in zip(GAPS, pairwise(NAMES), strict=True):
        out[f"gap: {gap}"] = float(np.sqrt(np.square(found[one] - found[other]).mean()) / size)
    return out


def cell(layout: Layout, seed: int) -> dict[str, float]:
    """The measures of a seed, those that are kept where they are of this code and of these stores."""
    place, curvature = layout.run / "measures.json", read_manifest(layout.curvature("trained", "train")).digest
    key = digest_value([digest_code([Path(__file__)]), curvature])
    if place.is_file() and (kept := json.loads(place.read_text(encoding="utf-8")))["key"] == key:
        found: dict[str, float] = kept["measures"]
        return found
    problem = Problem(layout, seed)
    rows = np.random.default_rng(seed).choice(problem.n, REMOVED, replace=False)
    found = measures(responses(problem, rows))
    place.write_text(json.dumps({"key": key, "measures": found}), encoding="utf-8")
    return found


def main() -> None:
    """All seeds; a row a figure."""
    torch.set_num_threads(1)
    cells: list[dict[str, float]] = []
    for seed in SEEDS:
        cells.append(cell(lowland_run(seed), seed))
        print(f"seed {seed}: {cells[-1]}", flush=True)
    keep("pbrf", "python -m benchmarks pbrf", rows_of(cells), seeds=SEEDS, removed=REMOVED, queries=20)


def rows_of(cells: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Mean and range over the seeds."""
    rows = []
    for name in cells[0]:
        values = [cell[name] for cell in cells]
        rows.append({"figure": name, "mean": float(np.mean(values)), "least": min(values), "most": max(values)})
    return rows


if __name__ == "__main__":
    main()
