"""The estimators, one method a file, all answering from the same stores.

An estimator is *fitted* on stores (`Estimator.fit`: what depends on no single row: a preconditioner, a kernel, the
mean of the validation rows), then *scores rows* (one number a train row: does it harm) and, where the method has it,
*scores pairs* (one number for a query and a train row: did it drive this prediction). `pipeline.methods` declares for
each name the sign, the checkpoints and what is read, so that the workflow knows what to make first; the classes here
hold formula and source.

* **Signs.** Signed: positive where the row helped. Unsigned: larger where it matters more.
* **Pairs** are products of what a query asks with and the features of a row, so that one scan, one index and one mean
  over the validation rows serve all of them (`base`).
* **Spaces.** All here live in the space of codes, K numbers, in which linear algebra is exact: a second moment of codes
  is the compressed second moment. Influence between whole gradients is approximated as far as the projection keeps
  inner products (docs/methods.md).
* **Checkpoints.** What needs further training is another checkpoint of the run (`checkpoints:` in the config):
  `epoch-5`, `seed-1`; the same stages capture its gradients.
* **Memory.** Fits are sums over blocks of rows, scores are made block by block: nothing here holds all rows.
"""

from __future__ import annotations

from pipeline.core.estimators.base import Estimator, PairEstimator
from pipeline.core.estimators.classical import Classical
from pipeline.core.estimators.confident_learning import ConfidentLearning
from pipeline.core.estimators.control import Loss, Norm
from pipeline.core.estimators.datainf import DataInf
from pipeline.core.estimators.dmin import DMin
from pipeline.core.estimators.fine import FINE, FINEMax, FINESelf
from pipeline.core.estimators.fvm import MeanOfPairs, SetLevel, SinglePoint
from pipeline.core.estimators.gex import GEX
from pipeline.core.estimators.lasting import Lasting
from pipeline.core.estimators.logra import LoGra
from pipeline.core.estimators.relatif import RelatIF
from pipeline.core.estimators.self_influence import SelfInfluence
from pipeline.core.estimators.solved import (
    AtRest,
    ByCG,
    ByEKFAC,
    ByKFAC,
    ByLiSSA,
    InfluenceByEKFAC,
    InfluenceByKFAC,
    MeanOfPairsByEKFAC,
    MeanOfPairsByKFAC,
    SetLevelByEKFAC,
    SetLevelByKFAC,
    SinglePointByEKFAC,
    SinglePointByKFAC,
    ThroughSteps,
)
from pipeline.core.estimators.tracin import TracIn
from pipeline.core.estimators.trak import TRAK

__all__ = ["ESTIMATORS", "Estimator", "PairEstimator"]

ESTIMATORS: dict[str, type[Estimator]] = {
    "s": SetLevel,
    "w": MeanOfPairs,
    "loss_flat": Loss,
    "norm_flat": Norm,
    "loss_trained": Loss,
    "self_influence": SelfInfluence,
    "tracin": TracIn,
    "classical": Classical,
    "classical_cg": ByCG,
    "classical_lissa": ByLiSSA,
    "classical_kfac": ByKFAC,
    "classical_ekfac": ByEKFAC,
    "s_kfac": SetLevelByKFAC,
    "s_ekfac": SetLevelByEKFAC,
    "w_kfac": MeanOfPairsByKFAC,
    "w_ekfac": MeanOfPairsByEKFAC,
    "influence_kfac": InfluenceByKFAC,
    "influence_ekfac": InfluenceByEKFAC,
    "fvm_kfac": SinglePointByKFAC,
    "fvm_ekfac": SinglePointByEKFAC,
    "gan_itd": ThroughSteps,
    "gan_aid": AtRest,
    "relatif": RelatIF,
    "datainf": DataInf,
    "logra": LoGra,
    "trak": TRAK,
    "gex": GEX,
    "fine": FINE,
    "fine_max": FINEMax,
    "fine_self": FINESelf,
    "lasting": Lasting,
    "influence": Classical,
    "fvm": SinglePoint,
    "cosine": DMin,
    "confident_learning": ConfidentLearning,
}
"""The names of `pipeline.methods`, and what computes them."""
