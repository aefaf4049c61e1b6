"""Imports point down, each foreign library has one owner, and what should start light does."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pipeline"

RANKS = {
    "errors": 0, "config": 1, "fields": 1, "methods": 1, "schema": 1, "schema_estimators": 1, "shards": 1, "provenance": 1, "resources": 1, "retrainings": 1, "core": 2, "tasks": 3, "storage": 3, "steps": 4, "report": 4, "cli": 5,
    "warm": 1, "__main__": 5,
}  # fmt: skip

OWNERS = {
    "zarr": ("storage/arrays.py",),
    "numba": ("core/compiled.py",),
    "dask": ("storage/reduction.py",),
    "distributed": ("storage/reduction.py",),
    "blake3": ("provenance.py",),
    "faiss": ("storage/faiss_part.py",),
    "safetensors": ("storage/weights.py",),
    "pyarrow": ("storage/tables.py",),
    "snakemake": ("cli/slurm.py",),
    "psutil": ("cli/locks.py",),
    "jinja2": ("report/",),
    "matplotlib": ("report/",),
    "click": ("cli/",),
    "sklearn": ("tasks/", "steps/evaluate.py", "steps/inputs.py", "steps/likeness.py"),
    "cleanlab": ("core/estimators/confident_learning.py",),
    "pydantic": ("fields.py", "schema.py", "schema_estimators.py", "config.py"),
    "pydantic_core": ("fields.py",),
    "yaml": ("config.py", "cli/"),
}
"""Where a foreign library may be imported: a file, or a folder."""

OPTIONAL = {"transformers", "peft", "diffusers", "distributed", "snakemake_executor_plugin_slurm", "cleanlab"}
"""Libraries that are asked for when they are used: by some built-in tasks, by --dask, by a profile."""

WITHOUT_TORCH = ("codec", "curvature", "preconditioner", "influence", "agreement")
ANSWERS = (
    "steps.query", "steps.retrieve", "steps.codes", "steps.stores", "steps.ranking", "steps.verify", "cli.query", "cli.suspects", "cli.verify",
)  # fmt: skip
LONGEST = 300


def modules() -> list[str]:
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@cache
def imports(module: str) -> frozenset[str]:
    """Dotted names that a module imports, wherever the import stands, for typing only or not."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import, which these checks cannot follow"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return frozenset(found)


def own(module: str) -> set[str]:
    """First names below the package of what a module imports of it; the package's own `__version__` has no rank."""
    return {name.split(".")[1] for name in imports(module) if name.startswith("pipeline.")} - {"__version__"}


def foreign(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(module)} - {"pipeline"} - set(sys.stdlib_module_names)


def room(module: str) -> str:
    return Path(module).parts[0].removesuffix(".py")


@pytest.mark.parametrize("module", modules())
def test_every_import_points_to_the_same_or_a_lower_rank(module):
    if module == "__init__.py":
        assert own(module) == set()
        return
    higher = {name for name in own(module) if RANKS[name] > RANKS[room(module)]}
    assert higher == set()


def test_every_room_has_a_rank():
    assert {room(module) for module in modules()} - {"__init__"} <= set(RANKS)


@pytest.mark.parametrize("library", OWNERS)
def test_a_foreign_library_is_imported_by_its_owner_only(library):
    users = [module for module in modules() if library in foreign(module)]
    assert [user for user in users if not user.startswith(OWNERS[library] or ("nobody",))] == []
    assert users


def test_foreign_libraries_are_declared_dependencies():
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[0].lower()
    distributions = {
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "faiss": "faiss-cpu",
        "PIL": "pillow",
        "pydantic_core": "pydantic",
        "snakemake_interface_executor_plugins": "snakemake",
    }
    used = {name for module in modules() for name in foreign(module)} - OPTIONAL
    assert [name for name in sorted(used) if f'"{distributions.get(name, name)}' not in declared] == []


@pytest.mark.parametrize("module", [module for module in modules() if room(module) == "core"])
def test_the_core_knows_numpy_torch_and_itself(module):
    others = {library for library in ("cleanlab", "numba") if module in OWNERS[library]}
    assert foreign(module) <= {"numpy", "torch"} | others
    assert own(module) <= {"core", "errors"}
    source = ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))
    calls = {node.func.id for node in source if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert calls.isdisjoint({"print", "open", "input"}) and "pathlib.Path" not in imports(module)


@pytest.mark.parametrize(
    "name", [*WITHOUT_TORCH, *(f"estimators/{path.stem}" for path in (PACKAGE / "core/estimators").glob("*.py"))]
)
def test_scoring_and_codec_are_numpy_only(name):
    assert foreign(f"core/{name}.py") <= {"numpy", "cleanlab"}


@pytest.mark.parametrize("module", modules())
def test_no_module_is_too_long(module):
    assert len((PACKAGE / module).read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("module", modules())
def test_every_module_says_what_it_is(module):
    assert ast.get_docstring(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))


def in_a_process(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_answers_from_the_stores_needs_no_torch():
    names = [f"pipeline.{name}" for name in ANSWERS]
    in_a_process(
        f"import sys, importlib\nsys.modules['torch'] = None\n[importlib.import_module(name) for name in {names}]"
    )


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    return set(in_a_process(code).split())


HEAVY = {"numpy", "torch", "zarr", "pyarrow", "faiss", "dask", "sklearn", "matplotlib", "jinja2", "pandas", "snakemake"}


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.cli.main",
        "pipeline.config",
        "pipeline.methods",
        "pipeline.shards",
        "pipeline.steps.code",
        "pipeline.steps.freshness",
    ],
)
def test_what_runs_at_every_start_or_parse_imports_nothing_heavy(module):
    assert loaded_by(module).isdisjoint(HEAVY)


def test_help_starts_without_anything_heavy():
    code = "import sys; from pipeline.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    shown = in_a_process(code + f"print('heavy:', sorted({HEAVY} & set(sys.modules)))")
    # Listing the commands asks each for its one line of help; query and suspects read with numpy.
    assert "lowland" in shown and not {"torch", "sklearn", "matplotlib", "snakemake"} & set(
        shown.rpartition("heavy:")[2].replace("'", " ").split()
    )
