import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

import benchmarks.peers.__main__ as child
from benchmarks import peers
from benchmarks.models import case
from benchmarks.peers import NAMES, module_of, rows_of
from benchmarks.peers.shapes import layers, side, without
from benchmarks.timing import Work

HERE = Path(peers.__file__).parent
WITHOUT_PIPELINE = [HERE.parent / "models.py", HERE.parent / "timing.py", *HERE.rglob("*.py")]


@pytest.mark.parametrize("path", WITHOUT_PIPELINE, ids=lambda path: str(path.relative_to(HERE.parent)))
def test_what_runs_in_the_peers_environment_needs_nothing_of_lowland(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])]
        assert not [name for name in names if name and name.split(".")[0] == "pipeline"]
        assert "benchmarks.tables" not in names


def test_every_peer_has_a_module_and_is_pinned():
    lines = (HERE / "requirements.txt").read_text().splitlines()
    assert tuple(line for line in lines if not line.startswith("#")) == NAMES
    pins = (HERE / "constraints.txt").read_text().splitlines()
    for name in NAMES:
        assert (HERE / f"{module_of(name).rsplit('.', 1)[1]}.py").exists()
        assert [pin for pin in pins if pin.startswith(f"{name}==")]


def test_both_environments_have_one_torch():
    own = (HERE.parents[1] / "constraints.txt").read_text().splitlines()
    assert {line for line in own if line.startswith("torch==")} == {
        line for line in (HERE / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
    }


def test_a_peer_that_is_not_installed_is_a_row():
    (found,) = rows_of(sys.executable, "no-such-peer", "mlp", 64)
    assert found["note"] == "failed: ModuleNotFoundError: No module named 'benchmarks.peers.no_such_peer'"
    assert (found["engine"], found["ratio_median"]) == ("no-such-peer", None)


def test_a_peer_that_takes_too_long_is_a_row():
    (found,) = rows_of(sys.executable, "traker", "mlp", 64, limit_s=0.01)
    assert found["note"] == "failed: stopped after 0 s"


def refuses(chosen, size):
    raise AssertionError


def test_a_method_that_a_peer_refuses_leaves_the_others(monkeypatch, capsys):
    def quick(chosen, size):
        print("chatter")
        return Work("quick", size, lambda batches: None)

    methods = SimpleNamespace(METHODS={"refused": refuses, "quick": quick})
    monkeypatch.setattr(child.importlib, "import_module", lambda name: methods)
    monkeypatch.setattr(child, "one_thread", lambda: None)
    monkeypatch.setattr(sys, "argv", ["peers", "torch", "mlp", "64"])
    child.main()
    refused, measured = map(child.json.loads, capsys.readouterr().out.splitlines())
    assert refused["note"] == "not supported: AssertionError: raise AssertionError"
    assert (measured["method"], measured["K"]) == ("quick", 64)
    assert measured["engine"].startswith("torch ")
    assert measured["ratio_median"] < 1


@pytest.mark.parametrize(("size", "modules", "expected"), [(4096, 1, 64), (4096, 3, 37), (1, 5, 1)])
def test_sides_come_near_to_the_size(size, modules, expected):
    assert side(size, modules) == expected
    assert all(
        abs(modules * expected**2 - size) <= abs(modules * other**2 - size)
        for other in range(1, 100)
        if modules * 1 < size
    )


def test_what_is_left_out_is_counted_by_kind():
    model = case("cnn").model
    assert without(model, layers(model, nn.Linear)) == "leaves out 4 Conv2d, 4 GroupNorm"
    assert without(model, layers(model, nn.Linear, nn.Conv2d, nn.GroupNorm)) == ""
