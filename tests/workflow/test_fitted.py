"""A projection that is fitted on the rows, through all stages: fitted, stored, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline.provenance import digest_bytes
from pipeline.shards import Plan
from pipeline.steps.stores import open_codes
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays
from tests.workflow.runs import ROWS, Project
from tests.workflow.steps import compute, config_of, scores_of
from tests.workflow.test_invariance import beginning, same

pytestmark = pytest.mark.workflow

FITTED = {"method": "eigenbasis", "dimension": 64, "sample_rows": 40, "basis": 16, "selected": 160}
WHOLE = {**FITTED, "dimension": 10**6, "basis": 10**6, "selected": "auto"}
EXACT = {"gradients": {"codec": "float32"}}


def train_codes(directory: Path) -> np.ndarray:
    return (
        open_codes(Layout(directory), Plan.load(Layout(directory).plan), "trained", "train").codes().astype(np.float64)
    )


@pytest.fixture(scope="module")
def reference(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the identity in float32."""
    directory = tmp_path_factory.mktemp("reference")
    compute(directory, config_of(project.config, projection={"method": "identity"}, **EXACT))
    return directory


def test_without_truncation_it_answers_as_the_identity_does(reference: Path, project: Project, tmp_path: Path) -> None:
    directory = beginning(reference, tmp_path, "checkpoints")
    same(compute(directory, config_of(project.config, projection=WHOLE, **EXACT)), scores_of(reference))
    codes, true = train_codes(directory), train_codes(reference)
    assert codes.shape == true.shape and not np.allclose(codes, true, atol=1e-3)
    assert np.allclose(codes @ codes.T, true @ true.T, rtol=1e-4, atol=1e-5 * (true @ true.T).max())


def test_compressed_it_is_stored_and_read_back(reference: Path, project: Project, tmp_path: Path) -> None:
    directory = beginning(reference, tmp_path, "checkpoints")
    scores = compute(directory, config_of(project.config, projection=FITTED))
    manifest, arrays = open_arrays(Layout(directory).projection("trained"), "projection")
    assert manifest.identity["projection"] == {"method": "eigenbasis", "dimension": 64}
    assert arrays.read("state_components").shape == (160 * 64,)
    hashes = open_arrays(Layout(directory).hashes, "rows")[1]
    fitted, codec = (manifest.record[name] for name in ("fitted", "codec_fitted"))
    assert (fitted["basis"], fitted["selected"], fitted["groups"]) == ([16], 160, 1)
    assert fitted["train"]["rows"] == codec["train"]["rows"] == ROWS // 2 and codec["train"] != fitted["train"]
    every = sorted(map(bytes, hashes.read("validation")))
    assert fitted["validation"] == {"rows": len(every), "content": digest_bytes(*every)}
    codes, true = train_codes(directory), train_codes(reference)
    assert codes.shape == (ROWS, 64)
    kept = np.square(codes).sum() / np.square(true).sum()
    assert 0.9 < kept < 1.001
    assert spearmanr(codes @ codes[0], true @ true[0]).statistic > 0.95
    assert np.isfinite(scores["s"]).all()


def test_batches_change_no_score(reference: Path, project: Project, tmp_path: Path) -> None:
    one, other = (
        compute(
            beginning(reference, tmp_path / str(rows), "checkpoints"),
            config_of(project.config, projection=FITTED, gradients={**EXACT["gradients"], "batch_rows": rows}),
        )
        for rows in (4, 20)
    )
    same(one, other)


def test_the_same_rows_give_the_same_projection(reference: Path, project: Project, tmp_path: Path) -> None:
    digests = []
    for name, basis in (("one", 16), ("again", 16), ("narrower", 8)):
        directory = beginning(reference, tmp_path / name, "checkpoints")
        compute(directory, config_of(project.config, projection={**FITTED, "basis": basis}))
        digests.append(read_manifest(Layout(directory).projection("trained")).digest)
    assert digests[0] == digests[1] != digests[2]
