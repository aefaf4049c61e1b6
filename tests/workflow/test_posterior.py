"""What a run says of how it found which labels are wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core import posterior as core
from pipeline.core.posterior import Rows
from pipeline.errors import DataError
from pipeline.steps import posterior
from pipeline.steps.job import Job
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from tests.workflow.runs import Project
from tests.workflow.steps import config_of

pytestmark = pytest.mark.workflow


def found(project: Project, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """The record of the stage, made anew in a copy of the run, and what it said."""
    layout, said = Layout(project.copy_of_run(tmp_path)), list[str]()
    posterior.run(Job("posterior", layout, config_of(project.config), said.append))
    return read_manifest(layout.posterior).record, "\n".join(said)


def test_exponents_and_honesty_of_the_sources_are_said(project: Project, tmp_path: Path) -> None:
    record, said = found(project, tmp_path)
    assert f"share of labels that are likely wrong: {record['likely_wrong']:.3f}" in said
    for name, honest in record["honesty"].items():
        assert f"{name} {record['exponents'].get(name, 0):.2f} ({honest:.2f})" in said
    assert record["assumed"] is False and "are assumed to be right" not in said


def test_a_channel_that_is_assumed_is_said(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "TELLING", np.inf)
    record, said = found(project, tmp_path)
    assert record["assumed"] is True and "60% of them are assumed to be right" in said


def test_classes_in_other_shares_are_said(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior, "alike", lambda *_: False)
    assert "classes have other shares among validation rows" in found(project, tmp_path)[1]


def test_no_finite_prediction_is_one_sentence(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = posterior._known

    def spoilt(*given: Any) -> Rows:
        rows: Rows = known(*given)
        return replace(rows, prior=np.full_like(rows.prior, np.nan))

    monkeypatch.setattr(posterior, "_known", spoilt)
    with pytest.raises(DataError, match="expected finite predictions of the train rows, got none"):
        found(project, tmp_path)
