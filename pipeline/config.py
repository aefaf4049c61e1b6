"""The typed configuration. `configs/default.yaml` holds every default; overlays deep-merge over it.

Models here carry types and ranges and no default values, so that a key missing from `default.yaml` fails at once and the
two cannot drift apart. Light on purpose: the Snakefile imports it at every parse.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]

CHECKPOINTS = ("trained", "flat")
SPLITS = ("train", "validation", "query")


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
        """As plain values without `data`: rows are known by content, so what only says which there are counts for nothing."""
        return {key: value for key, value in super().plain().items() if key != "data"}


class PlanSection(Section):
    """How the rows are cut into jobs."""

    shard_rows: Count


class ComputeSection(Section):
    """How a job computes."""

    batch_rows: Count
    threads: Count


class FlattenSection(Section):
    """The search for the flat validation minimum."""

    method: Literal["plain", "sam", "asam", "lpf"]
    strength: Literal["auto"] | NotNegative
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

    method: Literal["sjlt", "dmin", "rademacher", "kronecker", "identity"]
    dimension: Count
    sample_rows: Count


class GradientsSection(Section):
    """Capture and storage of the per-sample gradients."""

    engine: Literal["auto", "hooks", "functional"]
    codec: Literal["int8", "bf16", "float32"]
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

    seed: int
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


STAGES = {
    "prepare": ("task", "plan"),
    "train": ("seed", "task", "compute"),
    "flatten": ("seed", "task", "flatten", "sharpness", "compute"),
    "projection": ("seed", "task", "projection", "gradients", "compute"),
    "gradients": ("task", "gradients", "compute"),
    "suspects": ("candidates", "compute"),
    "candidates": ("seed", "task", "gradients", "candidates", "compute"),
    "curvature": ("curvature", "compute"),
    "vectors": ("compute",),
    "index": ("seed", "index", "compute"),
    "scores": ("compute",),
    "query": ("query", "index", "compute"),
    "evaluate": ("seed", "task", "evaluate", "compute"),
    "report": ("task", "report", "query"),
}
"""The sections that each stage reads, in the order of the flow: what its results depend on, and nothing else."""

CURVATURE_SPLIT = {"trained": "train", "flat": "validation"}
"""The rows behind the curvature at each checkpoint: train for classical influence, validation for FVM."""

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
        raise ConfigError(f"expected {name} at {' or '.join(SCORES[name])}, got {checkpoint!r}; write {name}@{SCORES[name][0]}")
    return name, checkpoint


def workflow_root() -> Path:
    """The directory that holds Snakefile, stages and configs: the checkout, or the installed package's copy."""
    package = Path(__file__).parent
    return next((root for root in (package.parent, package / "workflow") if (root / "Snakefile").is_file()), package.parent)


def defaults() -> dict[str, Any]:
    """The contents of `configs/default.yaml`."""
    return read_yaml(workflow_root() / "configs" / "default.yaml")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"expected a config file at {path}, got: {error.strerror}; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected YAML in {path}, got: {' '.join(str(error).split())}; mend that line") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"expected sections such as 'task:' in {path}, got a {type(value).__name__}; see `lowland init`")
    return value


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` over `base`, section by section; `task.options` is replaced whole where the task's class changes."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def load(path: Path | None = None) -> Config:
    """The configuration of `path` over the defaults; paths in it are made absolute.

    Raises:
        ConfigError: see `validate` and `read_yaml`.
    """
    if path is None:
        return validate(defaults())
    return anchor(validate(merge(defaults(), read_yaml(path))), path.resolve().parent)


def sections(config: Config, stage: str) -> dict[str, Any]:
    """The plain values that a stage depends on: the argument of its rule."""
    values = {name: getattr(config, name) for name in STAGES[stage]}
    plain = {name: value.plain() if isinstance(value, Section) else value for name, value in values.items()}
    if stage == "prepare":
        plain["task"]["data"] = config.task.data
    return plain


def partial(values: dict[str, Any]) -> Config:
    """The sections of one stage, as its rule passes them; reading any other section is an error of ours."""
    fields = Config.model_fields
    typed: dict[str, Any] = {}
    for name, value in values.items():
        value = {"data": {}, **value} if name == "task" else value
        section = fields[name].annotation
        typed[name] = section.model_validate(value) if isinstance(section, type) and issubclass(section, Section) else value
    return Config.model_construct(**typed)


def anchor(config: Config, directory: Path) -> Config:
    """`config` with the task's file and checkpoint as absolute paths; relative ones start at `directory`."""
    task = config.task
    file, colon, name = task.class_.rpartition(":")
    update: dict[str, Any] = {}
    if colon and file.endswith(".py"):
        update["class_"] = f"{absolute(file, directory)}:{name}"
    if task.checkpoint is not None:
        update["checkpoint"] = absolute(task.checkpoint, directory)
    if task.directory is None and any(isinstance(value, str) for value in (*task.options.values(), *task.data.values())):
        update["directory"] = str(directory)
    return config.model_copy(update={"task": task.model_copy(update=update)})


def absolute(path: str, directory: Path) -> str:
    """`path`, read as relative to `directory`, with the home directory expanded."""
    return str((directory / Path(path).expanduser()).resolve())


def validate(values: dict[str, Any]) -> Config:
    """Plain values as a typed configuration.

    Raises:
        ConfigError: one sentence on the first wrong key or value, with its nearest neighbour where a key is unknown.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentence(error.errors()[0])) from error


def _sentence(problem: Any) -> str:
    """One problem of pydantic's in our words."""
    path = [str(part) for part in problem["loc"]]
    where = ".".join(part for part in path if part.isidentifier() or part.isdigit())
    if problem["type"] == "extra_forbidden":
        known = keys_of(Config, path[:-1])
        return f"expected a known config key, got {where!r}{nearest(path[-1], known)}; keys here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"expected the config key {where!r}, got nothing; add it"
    return f"expected for config key {where!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def keys_of(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a section knows; `path` leads from `model` to the section."""
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    if not path:
        return list(fields)
    inner = fields.get(path[0])
    return keys_of(inner, path[1:]) if isinstance(inner, type) and issubclass(inner, BaseModel) else []


def nearest(word: str, known: Any) -> str:
    """The hint " (did you mean 'x'?)", or nothing where no known word is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
