"""Which estimators there are: what each answers, with which sign, at which checkpoints, and what it reads. Light.

The mathematics is in `pipeline.core.estimators`, a class for each name; a test says that the two agree. Signed scores
are positive where the row helped, unsigned ones larger where it matters more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.fields import nearest

Sign = Literal["signed", "unsigned"]

CHECKPOINTS = ("trained", "flat")
"""Those of every run."""

CURVATURE_SPLIT = {"trained": "train", "flat": "validation"}
"""The rows behind the curvature at each checkpoint: train for classical influence, validation for FVM."""


@dataclass(frozen=True)
class Method:
    """An estimator.

    Attributes:
        title: its name for people.
        at: checkpoints that can answer, the usual one first; or "epochs", "seeds" or
            "twins" (epochs, and the same of the twin), all checkpoints of that kind; or twin-flat, the twin's.
        rows: sign of its score of a train row, a column of scores.parquet; None where it has none.
        pairs: sign of its score of a query and a train row; None where it has none.
        reads: "curvature", "validation" (gradients of the validation rows), "candidates" (gradients under all labels),
            "solved" (the stage `solve`; with "recorded" the stages `record` and `trace`),
            "ensemble" (the stages `ensemble` and `losses`).
        control: a simple score that others must beat.
        projections: the projections that it is defined for; empty: all.
        note: formula.
    """

    title: str
    at: tuple[str, ...]
    rows: Sign | None
    pairs: Sign | None
    reads: tuple[str, ...]
    note: str
    control: bool = False
    projections: tuple[str, ...] = ()

    @property
    def suspicious(self) -> int:
        """What to multiply its score of a row with so that larger is more suspicious."""
        return -1 if self.rows == "signed" else 1


def _control(title: str, checkpoint: str, note: str) -> Method:
    return Method(title, (checkpoint,), "unsigned", None, (), note, control=True)


FACTORINGS = (("kfac", "K-FAC"), ("ekfac", "EK-FAC"))
FACTORED = ("kronecker", "kronecker_pca")

METHODS = {
    "s": Method("FVM, set level (S)", ("flat",), "unsigned", None, ("curvature",),
                "g^T (C + lambda)^-1 g at flat, C of the validation rows (FVM, set level); larger: more harmful"),
    "w": Method("FVM, W", ("flat",), "unsigned", None, ("curvature",),
                "g^T H^-1 C H^-1 g at flat, the mean of the single-point form over the validation rows"),
    "loss_flat": _control("loss", "flat", "the loss at flat, nats"),
    "norm_flat": _control("gradient norm", "flat", "norm of the full gradient at flat"),
    "loss_trained": _control("loss", "trained", "the loss at trained, nats"),
    "self_influence": Method("self-influence", ("trained",), "unsigned", None, ("curvature",),
                             "g^T (C + lambda)^-1 g at trained, C of the train rows"),
    "tracin": Method("TracIn", ("epochs",), "signed", "signed", ("validation",),
                     "sum over checkpoints of rate x g_val^T g, mean over validation rows; one, the last, of rate 1, "
                     "where checkpoints.epochs is empty"),
    "classical": Method("classical influence", ("trained",), "signed", None, ("curvature", "validation"),
                        "mean over validation rows of g_val^T (C + lambda)^-1 g at trained"),
    **{f"classical_{name}": Method(f"classical influence, {title}", ("trained",), "signed", None, ("solved",),
                                   "g_val^T (C + lambda)^-1 g of whole gradients at trained, solved by " + title)
       for name, title in (("cg", "CG"), ("lissa", "LiSSA"), *FACTORINGS)},
    **{f"s_{name}": Method(f"FVM, set level (S), {title}", ("flat",), "unsigned", None, ("solved",),
                           "g^T (C + lambda)^-1 g of whole gradients at flat, C of the validation rows, by " + title)
       for name, title in FACTORINGS},
    **{f"w_{name}": Method(f"FVM, W, {title}", ("flat",), "unsigned", None, ("solved",),
                           "g^T H^-1 C H^-1 g of whole gradients at flat, C of the validation rows, by " + title)
       for name, title in FACTORINGS},
    **{f"influence_{name}": Method(f"influence, {title}", ("trained",), None, "signed", ("solved",),
                                   "g_q^T (C + lambda)^-1 g of whole gradients, C of the train rows, by " + title)
       for name, title in FACTORINGS},
    **{f"fvm_{name}": Method(f"FVM, single point, {title}", ("flat",), None, "unsigned", ("solved",),
                             "(g_q^T (C + lambda)^-1 g)^2 of whole gradients, C of the validation rows, by " + title)
       for name, title in FACTORINGS},
    "relatif": Method("RelatIF", ("trained",), "signed", "signed", ("curvature", "validation"),
                      "mean over validation rows of g_val^T H^-1 g / |H^-1 g| at trained"),
    "datainf": Method("DataInf", ("trained",), "signed", "signed", ("validation",),
                      "mean over validation rows of g_val^T A g at trained, A the mean of the inverses of g_i g_i^T + "
                      "lambda, lambda = .1 mean g_ij^2"),
    "logra": Method("LoGra", ("trained",), "signed", "signed", ("validation",),
                    "mean over validation rows of g_val^T (F + lambda)^-1 g at trained in Kronecker-factored "
                    "codes, lambda = .1 tr(F) / K", projections=FACTORED),
    "trak": Method("TRAK", ("seeds",), "signed", "signed", ("validation",),
                   "mean over validation rows and models of f_val^T (F^T F + lambda)^-1 f, times the mean of "
                   "1 - p; f the gradients of the margin"),
    "gex": Method("GEX", ("trained",), "unsigned", "signed", ("ensemble",),
                  "mean over the members of a chained ensemble of the squared change of the loss from trained"),
    "fine": Method("f-INE", ("twins",), "signed", "signed", ("validation",),
                   "mu of a step with and without the row, on the mean loss of the validation rows: v / sd over the "
                   "recorded epochs, v = g_val^T g"),
    "fine_max": Method("f-INE, over thresholds", ("twins",), "signed", None, ("validation",),
                       "the same, of largest magnitude over all thresholds: biased away from zero"),
    "fine_self": Method("f-INE of a row on itself", ("twins",), "unsigned", None, ("validation",),
                        "mu of a step with and without the row, on its own loss"),
    "lasting": Method("standing after another training", ("twin-flat",), "unsigned", None, (),
                      "share of the train rows with less loss at the flat minimum of the twin"),
    "gan_itd": Method("GAN, through the steps (ITD)", ("trained",), "signed", None, ("solved", "recorded"),
                      "d metric / d weight of the row through the recorded steps of the joint training, the metric of "
                      "the generator on the validation rows"),
    "gan_aid": Method("GAN, at rest (AID)", ("trained",), "signed", None, ("solved", "recorded"),
                      "-(dF / dw)^T S u, u a Neumann series of (J^T S)^-1 g at trained; F the gradients of both "
                      "players, J = dF / dweights, g the gradient of the metric on the validation rows"),
    "influence": Method("influence", ("trained", "flat"), None, "signed", ("curvature",), "g_q^T H^-1 g"),
    "fvm": Method("FVM, single point", ("flat",), None, "unsigned", ("curvature",), "(g_q^T H^-1 g)^2"),
    "cosine": Method("DMin (cosine)", ("trained", "flat"), "signed", "signed", ("validation",),
                     "mean over validation rows of the cosine of g_val and g at trained"),
    "confident_learning": Method("confident learning (cleanlab)", ("flat",), "unsigned", None, ("candidates",),
                                 "1 - the quality of the given label: p of the label, adjusted by the class, at flat"),
}  # fmt: skip
"""Name in the config, and column of scores.parquet, to what it stands for."""

POSTERIOR = Method("noise-channel posterior with neighbours", ("flat",), "unsigned", None, (),
                   "-ln of the posterior that the given label is the true one, nats")  # fmt: skip
"""The column `wrong`, where the task gives labels: from predictions (`pipeline.core.posterior`), not from gradients."""

RANKED = {"wrong": POSTERIOR, **METHODS}
"""All columns of scores.parquet by which rows can be ranked."""

CONTROLS = tuple(name for name, method in METHODS.items() if method.control)
SOLVED = tuple(name for name, method in METHODS.items() if "solved" in method.reads)
"""Those that the stages `solve` and `trace` make."""
SOLVED_PAIRS = tuple(name for name in SOLVED if METHODS[name].pairs)
"""Those of them that score pairs, of every query and train row, and nothing else."""
SCORED = tuple(name for name, method in METHODS.items() if (method.rows and not method.control) or name in SOLVED_PAIRS)
"""Names that `scores.estimators` may list."""
RELABELLING = tuple(
    name
    for name, method in METHODS.items()
    if method.rows == "signed"
    and method.at[0] in ("trained", "epochs")
    and set(method.reads) <= {"curvature", "validation"}
)
"""Names that `evaluate.relabel` may list: a row under another label is another gradient of the loss, scored as that."""
TRACED = tuple(name for name, method in METHODS.items() if "recorded" in method.reads)
"""Those of them that go through the joint training of a generator and a discriminator: the stage `trace`."""
SCORES = {name: METHODS[name].at for name in ("influence", "fvm", "cosine")}
"""Pair scores that `lowland query` answers, and the checkpoints that answer them, the usual one first."""


def columns_of(estimators: list[str]) -> list[str]:
    """Columns of scores.parquet that are scores: S, which the report shows, the controls, and those asked for."""
    return [name for name in METHODS if name in ("s", *CONTROLS, *estimators) and METHODS[name].rows]


def paired(estimators: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Scores of pairs, and where each is asked: those of `lowland query`, and those asked for that have pairs."""
    answered = [(name, (checkpoint,)) for name, checkpoints in SCORES.items() for checkpoint in checkpoints]
    further = [name for name in estimators if METHODS[name].pairs and name not in SCORES]
    return [*answered, *((name, METHODS[name].at[:1]) for name in further)]


def solved_from(name: str) -> tuple[str, ...]:
    """The splits whose gradients one of `SOLVED` depends on."""
    return ("train", "validation", "query") if name in SOLVED_PAIRS else ("train", "validation")


def is_checkpoint(name: str) -> bool:
    """Whether a checkpoint may have this name: trained, flat, twin-flat, or an epoch, seed or twin with its number."""
    return name in (*CHECKPOINTS, "twin-flat") or re.fullmatch(r"(epoch|seed|twin)-[1-9]\d*", name) is not None


def parse_score(text: str) -> tuple[str, str]:
    """A score such as "influence@trained" as (score, checkpoint); without "@" the score's usual checkpoint.

    Raises:
        ConfigError: no such score, or not at that checkpoint.
    """
    name, _, checkpoint = text.partition("@")
    if name not in SCORES:
        raise ConfigError(f"expected a score out of {', '.join(SCORES)}, got {name!r}{nearest(name, SCORES)}")
    checkpoint = checkpoint or SCORES[name][0]
    if checkpoint not in SCORES[name]:
        known = " or ".join(SCORES[name])
        raise ConfigError(f"expected {name} at {known}, got {checkpoint!r}; write {name}@{SCORES[name][0]}")
    return name, checkpoint
