"""The sections of the configuration: names, types and ranges.

Models here have no default values, so that a key missing from `configs/default.yaml` fails at once and the two cannot
drift apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.errors import ConfigError

CHECKPOINTS = ("trained", "flat")
SPLITS = ("train", "validation", "query")

SCORES = {"influence": ("trained", "flat"), "fvm": ("flat",), "cosine": ("trained", "flat")}
"""Pairwise scores and the checkpoints that answer them, the usual one first."""


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


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint " (did you mean 'x'?)", or nothing where no known word is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _in_one_sentence(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One message for both alternatives of a union; pydantic has one for each."""
    try:
        return check(value)
    except ValidationError as error:
        raise PydanticCustomError("auto_or_number", 'Input should be "auto" or a number >= 0') from error


Strength = Annotated[Literal["auto"] | NotNegative, WrapValidator(_in_one_sentence)]


def _selection_in_one_sentence(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """The same for a count."""
    try:
        return check(value)
    except ValidationError as error:
        raise PydanticCustomError("auto_or_count", 'Input should be "auto" or a whole number >= 1') from error


Selection = Annotated[Literal["auto"] | Count, WrapValidator(_selection_in_one_sentence)]


class Section(BaseModel):
    """A part of the configuration: typed, frozen, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON; keys as written in YAML."""
        return self.model_dump(mode="json", by_alias=True)


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


class Config(Section):
    """The whole configuration of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    task: TaskSection
    plan: PlanSection
    compute: ComputeSection
    flatten: FlattenSection
    sharpness: SharpnessSection
    projection: ProjectionSection
    gradients: GradientsSection
    candidates: CandidatesSection
    curvature: CurvatureSection
    index: IndexSection
    query: QuerySection
    report: ReportSection
    evaluate: EvaluateSection
