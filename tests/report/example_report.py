"""A report with every part filled, on scikit-learn's digits, and one with nothing that can be left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from pipeline.report.data import (
    Bar,
    Bars,
    Candidate,
    Confusion,
    Curvature,
    Evaluation,
    EvaluationRow,
    FlaggedRow,
    Flattening,
    Hit,
    Index,
    Lines,
    Made,
    QueryAnswer,
    Report,
    Scores,
    Series,
    Sharpness,
    Sizes,
    Suspect,
)
from pipeline.tasks.base import Shown

N = 1000
CONFIG = "seed: 0\ntask:\n  class: pipeline.tasks.digits:Digits\nflatten:\n  method: sam\n  strength: auto\n"


def full() -> Report:
    """Every part, from a fixed seed."""
    generator = np.random.default_rng(0)
    digits = load_digits()
    images = (255 - digits.images * 15.9).astype(np.uint8)
    labels = digits.target
    scores = np.exp(generator.normal(-1, 1.2, N))
    worst = np.argsort(-scores)[:24]
    suggested = labels[worst]
    given = np.where(np.arange(24) % 6 == 5, suggested, (suggested + generator.integers(1, 10, 24)) % 10)
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (given, suggested), 1)
    suspects = [
        Suspect(
            rank=i + 1,
            row=int(row),
            score=float(scores[row]),
            given=str(given[i]),
            suggested=str(suggested[i]),
            otherwise=str((given[i] + 1) % 10),
            margin=float(generator.uniform(0.1, 3)),
            loss=float(generator.uniform(2, 7)),
            percentile=100 * (1 - (i + 1) / N),
            shown=Shown(image=images[row]),
        )
        for i, row in enumerate(worst)
    ]
    return Report(
        title="Handwritten digits with wrong labels",
        run="demo",
        sizes=Sizes(N, 300, 497, 35_594, 1024, "int8", ("trained", "flat"), classes=10),
        suspects=suspects,
        queries=[_query(q, images, labels, generator) for q in (1203, 1340, 1511)],
        flattening=_flattening(generator),
        sharpness=[
            Sharpness("trained", 1.8321, 0.9127, 0.0412, 214.37, 1.2),
            Sharpness("flat", 0.2144, 0.1033, 0.0097, 18.902, 0.31),
        ],
        curvatures=[
            Curvature("flat-validation", "empirical Fisher", 300, 300, 1.0, 0.0213, 4 / np.arange(1, 301) ** 1.7),
            Curvature("trained-train", "GGN", N, 1000, 1.0, 1.1e-4, 0.6 / np.arange(1, 1001) ** 1.3),
        ],
        indexes=[
            Index("flat-dot", "inner product", "Flat", N, 1.0),
            Index("trained-cosine", "cosine", "IVF64,SQ8", N, 0.9341),
        ],
        scores=Scores(np.append(scores, np.nan), [str(k) for k in labels[: N + 1]]),
        confusion=Confusion([str(k) for k in range(10)], counts),
        evaluations=[_evaluation(), _lds(), _retrained(), _tail(), _agreement()],
        flagged=[FlaggedRow("train", 1000, "loss is not finite")],
        unseen=0.0123,
        warnings=["Only 300 validation rows: the strength was chosen on 75 of them."],
        provenance=_provenance(),
        config=CONFIG,
        version="0.1.0",
    )


def minimal() -> Report:
    """Nothing but what a report must have: no suspects, classes, queries or flattening."""
    return Report(title="A line", run="", sizes=Sizes(8, 4, 0, 3, 3, "float32", ("trained",)))


def words() -> Report:
    """A regression on tables and a long text, with a score that is not finite."""
    table = Shown(table={"rooms": 6, "age": 41.25, "note": "by the river", "height": np.float32(2.5)})
    text = Shown(text="It is a truth universally acknowledged. " * 40)
    hits = [Hit(1, 5, -0.5, "2.31", text), Hit(2, 6, float("nan"), None, None)]
    return Report(
        title="House prices",
        run="prices",
        sizes=Sizes(506, 100, 1, 1_200, 64, "float32", ("trained", "flat")),
        suspects=[
            Suspect(1, 17, 12.5, given="50.0", loss=8.125, shown=table),
            Suspect(2, 3, float("nan"), shown=text),
            Suspect(3, 4, 1.5e-7),
        ],
        queries=[QueryAnswer(2, hits, given="2.4", shown=text)],
        scores=Scores(np.full(506, np.nan)),
    )


def _query(row: int, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> QueryAnswer:
    alike = np.flatnonzero(labels[:N] == labels[row])
    nearest = alike[np.argsort(((images[alike] - images[row].astype(float)) ** 2).sum((1, 2)))][:8]
    others = generator.choice(np.flatnonzero(labels[:N] != labels[row]), 8, replace=False)
    strength = np.sort(generator.gamma(2, 0.8, 8))[::-1]

    def hits(rows: np.ndarray, sign: float) -> list[Hit]:
        return [
            Hit(i + 1, int(r), sign * float(strength[i]), str(labels[r] if sign > 0 else labels[row]), Shown(images[r]))
            for i, r in enumerate(rows)
        ]

    predicted = str(labels[row]) if row != 1340 else str((labels[row] + 1) % 10)
    return QueryAnswer(
        row - N, hits(nearest, 1), hits(others, -0.6), str(labels[row]), predicted, shown=Shown(images[row])
    )


def _flattening(generator: np.random.Generator) -> Flattening:
    steps = np.arange(0, 301, 5)
    history = [(int(s), float(0.9 * np.exp(-s / 60) + 0.06 + generator.normal(0, 0.012))) for s in steps]
    candidates = [
        Candidate(rho, end, [(int(s), float((1 - end) * np.exp(-s / 50) + end)) for s in steps[::4]], rho == 0.2)
        for rho, end in ((0.05, 0.1931), (0.1, 0.1702), (0.2, 0.1544), (0.5, 0.1719))
    ]
    return Flattening(
        "SAM",
        0.2,
        "rho",
        "chosen by the held-out loss of an internal split",
        candidates,
        history,
        "Converged: the held-out loss changed by less than 1 % over the last 100 steps.",
    )


def _evaluation() -> Evaluation:
    rows = [
        EvaluationRow("FVM (S)", "flat", {"AUC": 0.9973, "average precision": 0.9801}),
        EvaluationRow("loss", "flat", {"AUC": 0.9981, "average precision": 0.9822}, control=True),
        EvaluationRow("loss", "trained", {"AUC": 0.9322, "average precision": None}, control=True),
        EvaluationRow("TracIn", "trained", {"AUC": 0.8154}, note="last checkpoint"),
    ]
    share = np.linspace(0, 1, 101)
    series = [
        Series("FVM (S), flat", np.column_stack([1000 * share, 1 - (1 - share) ** 14])),
        Series("loss, flat", np.column_stack([1000 * share, 1 - (1 - share) ** 15]), control=True),
        Series("TracIn, trained", np.column_stack([1000 * share, 1 - (1 - share) ** 2.5])),
    ]
    caption = "Share of the wrong labels among the rows inspected, most suspicious first."
    chart = Lines("Wrong labels found", caption, series, "train rows inspected", "share of the wrong labels")
    return Evaluation(rows, truth="planted noise: 20 % of the labels flipped", chart=chart)


def _lds() -> Evaluation:
    found = [("influence", "trained", 0.551, False), ("influence", "flat", 0.344, False), ("TracIn", "trained", 0.283, False),
             ("FVM, single point", "flat", -0.052, False), ("DMin (cosine)", "flat", 0.298, False),
             ("loss of the train row", "trained", 0.021, True),
             ("cosine of the inputs, minus where labels differ", "none", 0.317, True)]  # fmt: skip
    rows = [EvaluationRow(m, at, {"LDS": v, "low": v - 0.05, "high": v + 0.06}, c) for m, at, v, c in found]
    bars = [Bar(f"{m}, {at}", v, v - 0.05, v + 0.06, "simple controls" if c else "scores") for m, at, v, c in found]
    chart = Bars("LDS, margin", "Lines: 95 % of bootstrap draws.", bars, "LDS", [("ceiling", 0.731)])
    return Evaluation(
        rows, "Which scores predict models on other rows?", "models on random halves", "An old table.", chart
    )


def _retrained() -> Evaluation:
    acts = ("removed", "relabelled", "pruned")
    gains = [(f"score {i}, flat: {act}", (i + 1) * (k + 1) - 4.0, act) for k, act in enumerate(acts) for i in range(4)]
    bars = [Bar(label, gain, gain - 0.8, gain + 0.8, act) for label, gain, act in gains]
    chart = Bars("Accuracy gained", "Lines: one standard error.", bars, "points of accuracy")
    rows = [EvaluationRow(label, "flat", {"gain": gain}, note=act) for label, gain, act in gains]
    return Evaluation(rows, "What do models gain without suspects?", "the test accuracy of models", chart=chart)


def _tail() -> Evaluation:
    share = np.arange(1, 101.0)
    series = [Series("memorisation", np.column_stack([share, np.exp(-share / 12)]))]
    chart = Lines(
        "The long tail", "From the most memorised to the least.", series, "train rows, per cent", "memorisation"
    )
    rows = [EvaluationRow("mean memorisation", "none", {"value": 0.1234}, note="400 models")]
    return Evaluation(rows, "Which rows are known by heart?", "models on random subsets", chart=chart)


def _agreement() -> Evaluation:
    values = {"overlap": 0.91, "error": 0.012, "chance": 0.01, "spearman": None}
    rows = [EvaluationRow("influence", "trained", values, note="top rows of queries, k = 10, damping 1 to 0.1")]
    return Evaluation(rows, "Are the best rows the same under other dampings?", "", "Overlap: share in common.")


def _provenance() -> list[Made]:
    return [
        Made("checkpoints/trained.safetensors", "5f1d" * 16, "train", "2030-01-02 03:04", 61.25, 142_376),
        Made("gradients/flat/train/000.zarr", "a07c" * 16, "gradients", "2030-01-02 03:09", 3.75, 1_064_960),
    ]


if __name__ == "__main__":
    import sys

    from pipeline.report.page import render

    Path(sys.argv[1]).write_text(render(full()), encoding="utf-8")
    Path(sys.argv[2]).write_text(render(words()), encoding="utf-8")
