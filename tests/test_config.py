"""The configuration: models and default.yaml in sync, overlays, anchoring, and every message."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipeline import config as settings
from pipeline.config import (
    Config,
    Section,
    anchor,
    defaults,
    keys_of,
    merge,
    parse_score,
    partial,
    read_yaml,
    sections,
    validate,
)
from pipeline.errors import ConfigError, LowlandError
from pipeline.storage.layout import METRIC_OF

STEPS = Path(settings.__file__).parent / "steps"
DEFAULT_YAML = settings.workflow_root() / "configs" / "default.yaml"
BLOCK_SCALARS = {"options": {}, "data": {}}
"""Keys whose value is a mapping of the user's own, not a section."""


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def leaves(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Paths of all keys that a model knows."""
    found = set()
    for name, field in model.model_fields.items():
        path = (*prefix, field.alias or name)
        found |= leaves(field.annotation, path) if is_section(field.annotation) else {path}
    return found


def written(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Paths of all keys in plain values."""
    found = set()
    for name, value in values.items():
        nested = isinstance(value, dict) and name not in BLOCK_SCALARS
        found |= written(value, (*prefix, name)) if nested else {(*prefix, name)}
    return found


def changed(path: str, value: Any) -> dict[str, Any]:
    """The defaults with one value replaced."""
    values = copy.deepcopy(defaults())
    *parents, last = path.split(".")
    inner = values
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return values


def config_file(directory: Path, text: str) -> Path:
    path = directory / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# Models and default.yaml


def test_every_key_of_the_models_is_in_default_yaml_and_the_other_way_round():
    assert written(defaults()) == leaves(Config)


def test_models_carry_no_default_values():
    models = [Config, *(field.annotation for field in Config.model_fields.values() if is_section(field.annotation))]
    assert [name for model in models for name, field in model.model_fields.items() if not field.is_required()] == []


def test_every_key_of_default_yaml_is_explained():
    """A comment above or beside a key, or above the group of keys that it stands in."""
    explained, wrong = False, []
    for line in DEFAULT_YAML.read_text(encoding="utf-8").splitlines():
        stripped = line.strip()
        if not stripped:
            explained = False
        elif stripped.startswith("#"):
            explained = True
        elif re.fullmatch(r"\w+:", stripped):
            explained = False  # a section; its keys explain themselves
        elif not explained and " #" not in stripped:
            wrong.append(stripped)
    assert wrong == []


def test_the_defaults_are_valid_and_survive_a_round_trip():
    config = settings.load()
    assert config.task.class_ == "digits" and config.flatten.strength == "auto"
    assert validate(config.plain() | {"task": config.task.model_dump(by_alias=True)}) == config


@pytest.mark.parametrize("method", ["plain", "sam", "asam", "lpf"])
@pytest.mark.parametrize("strength", ["auto", 0, 0.2, "1e-3"])
def test_strength_takes_auto_and_numbers(method, strength):
    values = merge(defaults(), {"flatten": {"method": method, "strength": strength}})
    assert validate(values).flatten.strength == (strength if strength == "auto" else float(strength))


# Stages


def test_stages_cover_every_section_and_each_has_a_module():
    assert {name for names in settings.STAGES.values() for name in names} == set(Config.model_fields)
    missing = [stage for stage in settings.STAGES if not (STEPS / f"{stage}.py").is_file()]
    assert missing == []


def sections_read(path: Path) -> set[str]:
    """Names after `job.config.` or `config.` in a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in Config.model_fields:
            owner = node.value
            if (isinstance(owner, ast.Attribute) and owner.attr == "config") or (
                isinstance(owner, ast.Name) and owner.id == "config"
            ):
                found.add(node.attr)
    return found


@pytest.mark.parametrize("stage", settings.STAGES)
def test_a_stage_reads_no_section_that_it_does_not_declare(stage):
    assert sections_read(STEPS / f"{stage}.py") <= set(settings.STAGES[stage])


def test_a_stage_gets_its_sections_and_nothing_else():
    config = settings.load()
    for stage, names in settings.STAGES.items():
        assert tuple(sections(config, stage)) == names
    assert sections(config, "vectors") == {"compute": {"threads": 1, "device": "auto", "precision": "auto"}}


def test_only_prepare_depends_on_what_says_which_rows_there_are():
    config = validate(merge(defaults(), {"task": {"data": {"limit": 5}}}))
    assert sections(config, "prepare")["task"]["data"] == {"limit": 5}
    assert "data" not in sections(config, "train")["task"]
    assert sections(config, "train") == sections(settings.load(), "train")


def test_partial_has_the_declared_sections_typed_and_guards_the_others():
    config = partial(sections(settings.load(), "gradients"))
    assert config.gradients.codec == "mixed" and config.task.class_ == "digits" and config.task.data == {}
    with pytest.raises(AttributeError, match="curvature"):
        _ = config.curvature
    assert partial({"seed": 3}).seed == 3


def test_partial_refuses_unknown_sections():
    with pytest.raises(
        LowlandError, match=r"expected sections out of seed, task, .*, got 'sed'; copy the job's command"
    ):
        partial({"sed": 3})


def test_sections_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        settings.load().plan.shard_rows = 3


def test_labels_by_other_estimators_want_gradients_under_all_classes():
    config = validate(changed("evaluate.relabel", ["tracin"]))
    settings.check_classes(config, config.candidates.max_classes)
    with pytest.raises(
        ConfigError, match=r"at most 32 classes for evaluate.relabel, got 33; set candidates.max_classes to 33"
    ):
        settings.check_classes(config, 33)
    settings.check_classes(settings.load(), 33)


def test_confident_learning_wants_gradients_under_all_classes():
    config = validate(changed("scores.estimators", ["confident_learning"]))
    settings.check_classes(config, config.candidates.max_classes)
    with pytest.raises(
        ConfigError, match="at most 32 classes for confident_learning, got 40; set candidates.max_classes to 40"
    ):
        settings.check_classes(config, 40)
    settings.check_classes(settings.validate(settings.merge(config.plain(), {"candidates": {"max_classes": 40}})), 40)


# Overlays and paths


def test_an_overlay_replaces_leaves_and_lists_and_keeps_the_rest():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 2}
    assert merge(base, {"a": {"y": [3]}, "c": 4}) == {"a": {"x": 1, "y": [3]}, "b": 2, "c": 4}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 2}


def test_an_empty_file_or_section_says_nothing(tmp_path):
    assert settings.load(config_file(tmp_path, "# nothing\n")) == settings.load()
    assert settings.load(config_file(tmp_path, "plan:\n  # shard_rows: 7\ntask:\n")) == settings.load()


def test_relative_paths_start_beside_the_config_file(tmp_path):
    path = config_file(tmp_path, "task: {class: 'my/task.py:Mine', checkpoint: w.pt, options: {file: rows.csv}}")
    task = settings.load(path).task
    assert (task.class_, task.checkpoint) == (f"{tmp_path}/my/task.py:Mine", f"{tmp_path}/w.pt")
    assert task.directory == str(tmp_path) and task.options == {"file": "rows.csv"}


def test_relative_paths_start_at_the_directory_that_the_task_names(tmp_path):
    path = config_file(tmp_path, "task: {class: 'task.py:Mine', checkpoint: ../w.pt, directory: inner}")
    task = settings.load(path).task
    assert (task.class_, task.checkpoint) == (f"{tmp_path}/inner/task.py:Mine", f"{tmp_path}/w.pt")
    assert task.directory == f"{tmp_path}/inner"


def test_anchoring_twice_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = config_file(tmp_path, "task: {class: 'task.py:Mine', checkpoint: ~/w.pt, data: {file: rows.csv}}")
    config = settings.load(path)
    assert config.task.checkpoint == f"{tmp_path}/home/w.pt"
    assert anchor(config, Path("/elsewhere")) == config


def test_files_that_only_say_which_rows_there_are_change_nothing_of_a_stage(tmp_path):
    def passed(task):
        return settings.sections(
            settings.load(config_file(tmp_path, f"task: {{class: diffusion, {task}}}")), "train", False
        )

    assert passed("data: {queries: samples.npz}") == passed("data: {}")
    assert passed("data: {queries: samples.npz}, options: {groups: class}") == passed("options: {groups: class}")
    assert passed("options: {fashion: here}") != passed("options: {fashion: here}, directory: inner")


def test_built_in_tasks_and_absolute_paths_stay_as_they_are(tmp_path):
    task = settings.load(config_file(tmp_path, "task: {checkpoint: /weights/w.pt}")).task
    assert (task.class_, task.checkpoint, task.directory) == ("digits", "/weights/w.pt", None)


# Messages


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("flatten.strength", "x", "expected 'flatten.strength' in the config to be \"auto\" or a number >= 0, got 'x'"),
        ("flatten.strength", -0.1, ("expected 'flatten.strength' in the config to be \"auto\" or a number >= 0, got " "-0.1")),
        ("flatten.strength", None, ("expected 'flatten.strength' in the config to be \"auto\" or a number >= 0, got " "None")),
        ("ensemble.learning_rate", "fast", "expected 'ensemble.learning_rate' in the config to be \"auto\" or a number > 0, got 'fast'"),
        ("ensemble.steps", 0, "expected 'ensemble.steps' in the config to be \"auto\" or a whole number >= 1, got 0"),
        ("gan.scale", 0, "expected 'gan.scale' in the config to be \"auto\" or a number > 0, got 0"),
        ("retrain.removed_share", 1, "expected 'retrain.removed_share' in the config to be \"auto\" or a number between 0 and 1, got 1"),
        ("projection.selected", 0, ("expected 'projection.selected' in the config to be \"auto\" or a whole number >= 1, got 0")),
        ("projection.selected", "all", ("expected 'projection.selected' in the config to be \"auto\" or a whole number >= 1, got 'all'")),
        ("flatten.method", "swa", ("expected 'flatten.method' in the config to be 'plain', 'sam', 'asam' or 'lpf', got " "'swa'")),
        ("flatten.candidates", [0.1, -1], ("expected 'flatten.candidates.1' in the config to be greater than or equal " "to 0, got -1")),
        ("compute.threads", 0, "expected 'compute.threads' in the config to be greater than or equal to 1, got 0"),
        ("compute.threads", "two", "expected 'compute.threads' in the config to be a valid integer, unable to parse"),
        ("curvature.damping", 0, "expected 'curvature.damping' in the config to be greater than 0, got 0"),
        ("curvature.damping", float("inf"), ("expected 'curvature.damping' in the config to be a finite number, got " "inf")),
        ("flatten.momentum", 1, "expected 'flatten.momentum' in the config to be less than 1, got 1"),
        ("plan", None, "expected 'plan' in the config to be a section with keys of its own, got None"),
        ("task.options", [1], "expected 'task.options' in the config to be a section with keys of its own, got [1]"),
        ("task.class", "", "expected 'task.class' in the config to be "),
        ("compute.thread", 2, ("expected a known config key, got 'compute.thread' (did you mean 'threads'?); keys here: " "threads")),
        ("gradients.batch-rows", 2, "expected a known config key, got 'gradients.batch-rows' (did you mean 'batch_rows'?)"),
        ("task.class_", "x", "expected a known config key, got 'task.class_' (did you mean 'class'?)"),
        ("curvatur", {}, "expected a known config key, got 'curvatur' (did you mean 'curvature'?)"),
        ("zzz", 1, "expected a known config key, got 'zzz'; keys here: seed, task, plan,"),
        ("query.scores", ["fvn"], "expected a score out of influence, fvm, cosine, got 'fvn' (did you mean 'fvm'?)"),
        ("evaluate.relabel", ["clasical"], "expected evaluate.relabel out of tracin, classical, relatif, datainf, logra, cosine, got 'clasical'"),
        ("evaluate.relabel", ["datainf"], "expected evaluate.relabel among scores.estimators, got datainf, which is not there; add it"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named_in_one_sentence(path, value, message):
    with pytest.raises(ConfigError) as caught:
        validate(changed(path, value))
    text = str(caught.value)
    assert text.startswith(message) and "\n" not in text
    assert not re.search(r"Section|pydantic|literal\[|Input should", text)


@pytest.mark.parametrize("path", sorted(".".join(path) for path in leaves(Config)))
def test_a_missing_key_is_named(path):
    values = copy.deepcopy(defaults())
    *parents, last = path.split(".")
    inner = values
    for name in parents:
        inner = inner[name]
    del inner[last]
    with pytest.raises(ConfigError, match=re.escape(f"expected the config key {path!r}, got nothing; add it")):
        validate(values)


def test_keys_of_a_section_are_those_written_in_yaml():
    assert keys_of(Config, ["task"]) == ["class", "options", "data", "checkpoint", "directory"]
    assert keys_of(Config, ["seed"]) == keys_of(Config, ["nowhere"]) == []


def test_files_that_hold_no_sections_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"expected a config file at .*none.yaml, got: No such file or directory; check the path"
    ):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"expected a config file at .*, got: Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match=r"expected YAML in .*my.yaml, got: .*line 1.*; mend that line"):
        read_yaml(config_file(tmp_path, "a: [1"))
    with pytest.raises(ConfigError, match=r"expected sections such as 'task:' in .*, got a list; see `lowland init`"):
        read_yaml(config_file(tmp_path, "- 1"))
    (tmp_path / "my.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected YAML"):
        read_yaml(tmp_path / "my.yaml")


def test_no_python_objects_are_made_from_yaml(tmp_path):
    with pytest.raises(ConfigError, match="expected YAML"):
        read_yaml(config_file(tmp_path, "task: !!python/object/apply:os.system ['true']"))


# Scores


def test_scores_name_their_checkpoint_or_take_the_usual_one():
    assert parse_score("influence") == ("influence", "trained")
    assert parse_score("influence@flat") == ("influence", "flat")
    assert parse_score("fvm") == ("fvm", "flat")
    assert all(parse_score(text) for text in settings.load().query.scores)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fvm@trained", "expected fvm at flat, got 'trained'; write fvm@flat"),
        ("cosine@x", "expected cosine at trained or flat, got 'x'; write cosine@trained"),
        ("cosin", "expected a score out of influence, fvm, cosine, got 'cosin' (did you mean 'cosine'?)"),
        ("", "expected a score out of influence, fvm, cosine, got ''"),
    ],
)
def test_other_scores_are_refused(text, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        parse_score(text)


def test_every_score_has_an_index_kind_and_known_checkpoints():
    assert set(METRIC_OF) == set(settings.SCORES)
    assert (
        {name for names in settings.SCORES.values() for name in names}
        == set(settings.CHECKPOINTS)
        == set(settings.CURVATURE_SPLIT)
    )
    assert set(settings.CURVATURE_SPLIT.values()) <= set(settings.SPLITS)


def test_plain_values_are_what_yaml_would_hold():
    plain = settings.load().plain()
    assert plain["task"]["class"] == "digits" and yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert all(issubclass(field.annotation, Section) for name, field in Config.model_fields.items() if name != "seed")


@pytest.mark.parametrize("change", [{"basis": 8}, {"selected": 64}, {"groups": 2}, {"sample_rows": 99}])
def test_all_that_a_projection_is_fitted_with_is_an_argument_of_its_rule(change: dict[str, int]) -> None:
    changed = validate(merge(defaults(), {"projection": change}))
    assert sections(changed, "projection") != sections(validate(defaults()), "projection")
