"""The typed configuration. `configs/default.yaml` holds every default; overlays deep-merge over it.

Light on purpose: the Snakefile imports it at every parse. The sections themselves are in `pipeline.schema`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError, LowlandError
from pipeline.fields import Section, nearest
from pipeline.methods import CHECKPOINTS, CURVATURE_SPLIT, SCORES, is_checkpoint, parse_score
from pipeline.schema import SPLITS, Config, FlattenSection, TaskSection

__all__ = [
    "CHECKPOINTS", "CURVATURE_SPLIT", "SCORES", "SPLITS", "STAGES", "Config", "FlattenSection", "Section",
    "TaskSection", "absolute", "anchor", "defaults", "is_checkpoint", "keys_of", "load", "merge", "nearest",
    "parse_score", "partial", "read_yaml", "sections", "validate", "workflow_root",
]  # fmt: skip

STAGES = {
    "prepare": ("task", "plan"),
    "train": ("seed", "task", "compute"),
    "flatten": ("seed", "task", "flatten", "sharpness", "compute"),
    "folds": ("seed", "task", "flatten", "folds", "compute"),
    "posterior": ("seed", "task", "posterior", "compute"),
    "trajectory": ("seed", "task", "checkpoints", "compute"),
    "twin": ("seed", "task", "checkpoints", "compute"),
    "twin_flat": ("seed", "task", "flatten", "checkpoints", "compute"),
    "member": ("seed", "task", "compute"),
    "ensemble": ("seed", "task", "ensemble", "compute"),
    "losses": ("task", "ensemble", "compute"),
    "projection": ("seed", "task", "projection", "gradients", "compute"),
    "gradients": ("task", "gradients", "compute"),
    "suspects": ("candidates", "compute"),
    "candidates": ("seed", "task", "gradients", "candidates", "compute"),
    "curvature": ("curvature", "compute"),
    "solve": ("seed", "task", "gradients", "curvature", "solvers", "compute"),
    "record": ("seed", "task", "gan", "compute"),
    "trace": ("task", "gan", "compute"),
    "vectors": ("compute",),
    "index": ("seed", "index", "compute"),
    "scores": ("checkpoints", "scores", "compute"),
    "query": ("query", "index", "compute"),
    "evaluate": ("seed", "task", "checkpoints", "scores", "evaluate", "compute"),
    "retrieval": ("task", "checkpoints", "scores", "compute"),
    "stability": ("query", "stability", "compute"),
    "report": ("task", "report", "query", "suspects"),
    "retrain": ("seed", "task", "retrain", "compute"),
    "lds": ("seed", "task", "checkpoints", "scores", "retrain", "compute"),
    "memorisation": ("seed", "task", "checkpoints", "scores", "retrain", "compute"),
    "retraining": ("task", "checkpoints", "retrain", "compute"),
    "replay": ("seed", "task", "gan", "compute"),
}
"""The sections that each stage reads, in the order of the flow: what its results depend on, and nothing else."""

UNUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "candidates": {"candidates": ("suspect_share",)},
    "suspects": {"candidates": ("rows", "max_classes", "sampled_labels")},
    "trajectory": {"checkpoints": ("seeds", "twin")},
    "twin": {"checkpoints": ("seeds", "twin")},
    "twin_flat": {"checkpoints": ("seeds", "twin")},
    "record": {"gan": ("depth", "damping", "scale", "horizons", "replayed_rows", "replayed_draws")},
    "trace": {"gan": ("epochs", "horizons", "replayed_rows", "replayed_draws")},
    "replay": {"gan": ("epochs", "depth", "damping", "scale")},
}
"""Stage and section to the keys of it that this stage does not read: changing one is no reason to run it again."""


def workflow_root() -> Path:
    """The directory that holds Snakefile, stages and configs: the checkout, or the installed package's copy."""
    package = Path(__file__).parent
    return next(
        (root for root in (package.parent, package / "workflow") if (root / "Snakefile").is_file()), package.parent
    )


def defaults() -> dict[str, Any]:
    """The contents of `configs/default.yaml`."""
    return read_yaml(workflow_root() / "configs" / "default.yaml")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds sections; one that is empty or null says nothing and is left out.

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
        raise ConfigError(
            f"expected sections such as 'task:' in {path}, got a {type(value).__name__}; see `lowland init`"
        )
    return {key: section for key, section in value.items() if section is not None}


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` over `base`, section by section; a list is replaced whole."""
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


def sections(config: Config, stage: str, places: bool = True) -> dict[str, Any]:
    """The plain values that a stage depends on: the argument of its rule.

    Args:
        config: the whole configuration.
        stage: its name.
        places: with where the task's files are; else their names only, as no result depends on where they are.
    """
    values = {name: getattr(config, name) for name in STAGES[stage]}
    plain = {name: value.plain() if isinstance(value, Section) else value for name, value in values.items()}
    if stage == "prepare":
        plain["task"]["data"] = config.task.data
    for name, keys in UNUSED.get(stage, {}).items():
        plain[name] = {key: value for key, value in plain[name].items() if key not in keys}
    if "task" in plain and not places:
        plain["task"] = {**plain["task"], **{key: _name(value) for key, value in places_of(config).items()}}
        if not _texts(config.task.options):  # then only `data` starts there, of which the plan knows the rows
            plain["task"]["directory"] = None
    return plain


def places_of(config: Config) -> dict[str, str | None]:
    """Where the task's file, weights and data are: what `sections` without places leaves to be passed apart."""
    task = config.task
    return {"class": task.class_, "checkpoint": task.checkpoint, "directory": task.directory}


def _name(path: str | None) -> str | None:
    return None if path is None else Path(path).name


def _texts(options: dict[str, Any]) -> bool:
    """Whether any option may be a path."""
    return any(isinstance(value, str) for value in options.values())


def check_classes(config: Config, classes: int) -> None:
    """Refuse what so many classes do not allow.

    Raises:
        ConfigError: gradients of all rows under all labels are wanted, and not captured under so many.
    """
    most = config.candidates.max_classes
    if config.evaluate.relabel and classes > most:
        raise ConfigError(
            f"expected at most {most} classes for evaluate.relabel, got {classes}; set candidates.max_classes to "
            f"{classes}, or empty evaluate.relabel"
        )
    if "confident_learning" in config.scores.estimators and classes > most:
        raise ConfigError(
            f"expected at most {most} classes for confident_learning, got {classes}; set candidates.max_classes to "
            f"{classes}, for gradients of every train row under so many labels, or take it out of scores.estimators"
        )


def partial(values: dict[str, Any], memory_mb: int | None = None, dask: str | None = None) -> Config:
    """The sections of one stage, as its rule passes them; reading any other section is an error of ours.

    Args:
        values: the sections.
        memory_mb: `compute.memory_mb`, which is passed apart, as no result depends on it; None: the default.
        dask: `compute.dask`, which is passed apart for the same reason.
    """
    fields = Config.model_fields
    typed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            known = ", ".join(fields)
            raise LowlandError(f"expected sections out of {known}, got {name!r}; copy the job's command from its log")
        value = {"data": {}, **value} if name == "task" else value
        if name in {section for keys in UNUSED.values() for section in keys}:
            value = {**defaults()[name], **value}
        if name == "compute":
            value = {**value, "memory_mb": memory_mb or defaults()["compute"]["memory_mb"], "dask": dask}
        section = fields[name].annotation
        typed[name] = (
            section.model_validate(value) if isinstance(section, type) and issubclass(section, Section) else value
        )
    return Config.model_construct(**typed)


def anchor(config: Config, directory: Path) -> Config:
    """`config` with the task's file and checkpoint as absolute paths.

    Relative ones start at `task.directory`, which itself is relative to `directory` and stands for it where it is null.
    """
    task = config.task
    directory = Path(absolute(task.directory, directory)) if task.directory is not None else directory
    file, colon, name = task.class_.rpartition(":")
    update: dict[str, Any] = {}
    if colon and file.endswith(".py"):
        update["class_"] = f"{absolute(file, directory)}:{name}"
    if task.checkpoint is not None:
        update["checkpoint"] = absolute(task.checkpoint, directory)
    if task.directory is not None or _texts(task.options) or _texts(task.data):
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
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = keys_of(Config, path[:-1])
        return f"expected a known config key, got {where!r}{nearest(path[-1], known)}; keys here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"expected the config key {where!r}, got nothing; add it"
    mapping = problem["type"] in ("model_type", "dict_type")
    wanted = "a section with keys of its own" if mapping else problem["msg"].removeprefix("Input should be ")
    return f"expected {where!r} in the config to be {wanted}, got {problem['input']!r}"


def keys_of(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a section knows; `path` leads from `model` to the section."""
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    if not path:
        return list(fields)
    inner = fields.get(path[0])
    return keys_of(inner, path[1:]) if isinstance(inner, type) and issubclass(inner, BaseModel) else []
