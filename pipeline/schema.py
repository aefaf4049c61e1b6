"""The sections of the configuration: names, types and ranges.

Models here have no default values, so that a key missing from `configs/default.yaml` fails at once and the two cannot
drift apart.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.fields import Count, NotNegative, Positive, Section, Selection, Share, Strength, nearest
from pipeline.methods import METHODS, RELABELLING, parse_score
from pipeline.schema_estimators import (
    CheckpointsSection,
    EnsembleSection,
    GanSection,
    RetrainSection,
    ScoresSection,
    SolversSection,
)

SPLITS = ("train", "validation", "query")


class TaskSection(Section):
    """What is attributed."""

    class_: str = Field(alias="class", min_length=1)
    options: dict[str, Any]
    data: dict[str, Any]
    checkpoint: str | None
    directory: str | None

    def plain(self) -> dict[str, Any]:
        """As plain values without `data`: rows are known by content, and `data` only says which there are."""
        return {key: value for key, value in super().plain().items() if key != "data"}


class PlanSection(Section):
    """How the rows are cut into jobs."""

    shard_rows: Selection


class ComputeSection(Section):
    """How a job computes."""

    threads: Count
    memory_mb: Count
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "bfloat16"]
    dask: str | None

    def plain(self) -> dict[str, Any]:
        """As plain values without `memory_mb` and `dask`: they decide on batches and workers, and so on no result."""
        return {key: value for key, value in super().plain().items() if key not in ("memory_mb", "dask")}


class FlattenSection(Section):
    """The search for the flat validation minimum."""

    method: Literal["plain", "sam", "asam", "lpf"]
    strength: Strength
    candidates: list[NotNegative] | None
    folds: Count
    held_out: Share
    watch: bool
    steps: Count
    optimizer: Literal["sgd", "adamw"]
    learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NotNegative
    batch_rows: Count
    noise_parts: Count
    noise_growth: Positive


class SharpnessSection(Section):
    """How sharpness is measured, before and after."""

    radius: Positive
    noise: Positive
    draws: Annotated[int, Field(ge=2)]
    iterations: Annotated[int, Field(ge=2)]
    rows: Count


class ProjectionSection(Section):
    """The map from a gradient to K numbers."""

    method: Literal[
        "sjlt", "dmin", "rademacher", "tensorsketch", "kronecker", "kronecker_pca", "eigenbasis", "identity"
    ]
    dimension: Count
    sample_rows: Count
    basis: Selection
    selected: Selection
    groups: Selection


class GradientsSection(Section):
    """Capture and storage of the per-sample gradients."""

    engine: Literal["auto", "hooks", "functional"]
    codec: Literal["mixed", "int8", "bf16", "float32"]
    batch_rows: Selection
    norms: Literal["exact", "estimated"]
    parts: Literal["sum", "separate"]
    normalise: Literal["none", "part"]
    include: list[str]
    exclude: list[str]


class CandidatesSection(Section):
    """Gradients under every label, for relabelling."""

    rows: Literal["all", "suspects"]
    max_classes: Count
    suspect_share: Share
    sampled_labels: Count


class CurvatureSection(Section):
    """The curvature that preconditions queries."""

    kind: Literal["fisher", "ggn", "diagonal", "identity"]
    damping: Positive


class FoldsSection(Section):
    """Flat minima of parts of the validation rows."""

    count: Count


class PosteriorSection(Section):
    """How likely each given label is wrong."""

    landmarks: Annotated[int, Field(ge=0)]


class SuspectsSection(Section):
    """How suspects are ranked."""

    score: Literal[
        "auto", "wrong", "s", "w", "loss_flat", "loss_trained", "self_influence", "gan_itd", "gan_aid", "margin"
    ]


class IndexSection(Section):
    """The FAISS index of the codes."""

    factory: str = Field(min_length=1)
    rows: Literal["auto", "plain", "whitened"]
    probes: Count
    breadth: Count
    oversample: Count
    recall_rows: Count


class QuerySection(Section):
    """What is answered ahead for the declared query rows."""

    k: Count
    scores: list[str]

    @field_validator("scores")
    @classmethod
    def known(cls, scores: list[str]) -> list[str]:
        """Each score is one that the stores can answer."""
        for score in scores:
            parse_score(score)
        return scores


class ReportSection(Section):
    """What the page shows."""

    suspects: Count
    queries: Annotated[int, Field(ge=0)]
    evaluation: bool


class EvaluateSection(Section):
    """Evaluation against true labels."""

    neighbours: Count
    relabel: list[str]

    @field_validator("relabel")
    @classmethod
    def known(cls, names: list[str]) -> list[str]:
        """Each is one that can score a row under another label."""
        for name in names:
            if name not in RELABELLING:
                known = ", ".join(RELABELLING)
                raise ConfigError(f"expected evaluate.relabel out of {known}, got {name!r}{nearest(name, RELABELLING)}")
        return names


class StabilitySection(Section):
    """How far answers depend on what could as well be otherwise."""

    dampings: list[Positive]
    suspects_share: Share


class Config(Section):
    """The whole configuration of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    task: TaskSection
    plan: PlanSection
    compute: ComputeSection
    flatten: FlattenSection
    checkpoints: CheckpointsSection
    ensemble: EnsembleSection
    sharpness: SharpnessSection
    projection: ProjectionSection
    gradients: GradientsSection
    candidates: CandidatesSection
    curvature: CurvatureSection
    solvers: SolversSection
    gan: GanSection
    folds: FoldsSection
    posterior: PosteriorSection
    suspects: SuspectsSection
    index: IndexSection
    scores: ScoresSection
    query: QuerySection
    report: ReportSection
    evaluate: EvaluateSection
    stability: StabilitySection
    retrain: RetrainSection

    @model_validator(mode="after")
    def defined(self) -> Config:
        """Estimators are asked for with projections that they are defined for."""
        for name in (*self.scores.estimators, *(parse_score(text)[0] for text in self.query.scores)):
            fitting = METHODS[name].projections
            if fitting and self.projection.method not in fitting:
                raise ConfigError(
                    f"expected projection.method {' or '.join(fitting)} for {name}, got {self.projection.method}; set "
                    f"it, or take {name} out"
                )
        if "gex" in self.scores.estimators and not self.ensemble.members:
            raise ConfigError("expected ensemble.members of at least 1 for gex, got 0; set it, or take gex out")
        twins = [name for name in self.scores.estimators if METHODS[name].at[0] in ("twins", "twin-flat")]
        if twins and not (self.checkpoints.twin and len(self.checkpoints.epochs) > 1):
            raise ConfigError(
                f"expected checkpoints.twin: true and at least two checkpoints.epochs for {twins[0]}, got twin: "
                f"{str(self.checkpoints.twin).lower()} and {len(self.checkpoints.epochs)} epochs; set them, or take "
                f"{', '.join(twins)} out"
            )
        unasked = [name for name in self.evaluate.relabel if name not in self.scores.estimators]
        if unasked:
            raise ConfigError(
                f"expected evaluate.relabel among scores.estimators, got {unasked[0]}, which is not there; add it"
            )
        return self
