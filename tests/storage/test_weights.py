"""Weights: round trips, refusals that name what is wrong, and pickles that do not run."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.errors import CheckpointError
from pipeline.storage.weights import load_into, read_weights, save_weights


def model(width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


class Tied(nn.Module):
    """Two names for one tensor, and one that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.turned = nn.Parameter(torch.randn(4, 2).T)


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("make", [model, Tied])
def test_safetensors_round_trip_to_the_bit(tmp_path, make):
    torch.manual_seed(0)
    first, second = make(), make()
    with torch.no_grad():
        next(first.parameters()).add_(1)
    save_weights(tmp_path / "w.safetensors", first)
    assert not same(first, second)
    load_into(second, tmp_path / "w.safetensors")
    assert same(first, second)


def test_tied_weights_stay_tied(tmp_path):
    first, second = Tied(), Tied()
    save_weights(tmp_path / "w.safetensors", first)
    load_into(second, tmp_path / "w.safetensors")
    assert second.head.weight is second.embedding.weight
    assert torch.equal(second.head.weight, first.embedding.weight)


def test_saved_weights_do_not_follow_the_model(tmp_path):
    first = model()
    save_weights(tmp_path / "w.safetensors", first)
    before = first[0].weight.detach().clone()
    with torch.no_grad():
        first[0].weight.add_(1)
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["0.weight"], before)


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_state_dicts_of_torch_load(tmp_path, suffix, wrapped):
    first, second, path = model(), model(seed=1), tmp_path / f"w.{suffix}"
    torch.save({"state_dict": first.state_dict(), "epoch": 3} if wrapped else first.state_dict(), path)
    load_into(second, path)
    assert same(first, second)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path):
    mark, path = tmp_path / "it_ran", tmp_path / "w.pt"
    torch.save({"weight": Hostile(mark)}, path)
    with pytest.raises(
        CheckpointError, match=r"expected only tensors in .*w.pt, got UnpicklingError: .*; save the state dict alone"
    ):
        read_weights(path)
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(CheckpointError):
        read_weights(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # the file is as dangerous as the test believes
    assert mark.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None])
def test_what_holds_no_weights_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^expected (weights|only tensors) in .*{name}, got [^\n]+$"):
        read_weights(path)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_that_are_cut_short_are_refused(tmp_path, name):
    path = tmp_path / name
    save_weights(path, model()) if name.endswith("safetensors") else torch.save(model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"got a file that does not load: [^\n]+$"):
        read_weights(path)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(
        CheckpointError, match=rf"^expected weights at .*{name}, got nothing there; check task.checkpoint$"
    ):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_what_is_no_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError, match=r"expected a state dict in .*w.pt, got (list|dict|Tensor); save model.state_dict\(\)"
    ):
        read_weights(tmp_path / "w.pt")


def test_shapes_and_names_that_differ_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, model(5))
    with pytest.raises(
        CheckpointError,
        match=r"got others: 0.weight \(4, 3\) in the model, \(5, 3\) in the file; 0.bias .* and 4 more$",
    ):
        load_into(model(4), path)
    save_weights(path, nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(CheckpointError, match=r"got others: 1.weight is missing in the file; .* and 4 more$"):
        load_into(model(), path)
    save_weights(path, model())
    with pytest.raises(
        CheckpointError, match=r"got others: 1.bias is unknown to the model; 1.num_batches_tracked .* and 4 more$"
    ):
        load_into(nn.Sequential(nn.Linear(3, 4)), path)


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    save_weights(tmp_path / "w.safetensors", model(5))
    first, second = model(4), model(4)
    with pytest.raises(CheckpointError):
        load_into(first, tmp_path / "w.safetensors")
    assert same(first, second)


def test_what_the_system_says_is_not_lost_when_writing_fails(tmp_path):
    """In a process of its own, whose files may not grow beyond 1 kB."""
    code = f"""
import resource, signal
from pathlib import Path
from torch import nn
from pipeline.storage.weights import save_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_weights(Path({str(tmp_path / "w.safetensors")!r}), nn.Linear(100, 100))
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == [str(errno.EFBIG)]
