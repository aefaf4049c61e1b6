"""The recipe of docs/retrieval.md, as it stands there: reductions and scans on dask workers that are jobs of Slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays
from pipeline.storage.tables import read_table
from tests.cluster.cluster import Cluster
from tests.workflow.runs import Project, environment

pytestmark = [pytest.mark.cluster, pytest.mark.long]
ROOT = Path(__file__).parents[2]


def recipe() -> str:
    text = (ROOT / "docs/retrieval.md").read_text(encoding="utf-8")
    scripts = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "SLURMCluster" in part]
    assert len(scripts) == 1
    return scripts[0]


def test_the_recipe_gives_what_threads_give(cluster: Cluster, project: Project, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    (tmp_path / "on_slurm.py").write_text(recipe(), encoding="utf-8")
    own = environment()
    own["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where `lowland` is
    own["SLURM_CONF"] = os.environ["SLURM_CONF"]
    command = [sys.executable, "on_slurm.py", "-c", str(project.config), "--workdir", "run", "--cores", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any("Registered to" in log.read_text(encoding="utf-8") for log in (tmp_path / "logs").iterdir())
    here, there = Layout(project.run), Layout(tmp_path / "run")
    for checkpoint, split in (("flat", "validation"), ("trained", "train")):
        one, other = (open_arrays(layout.curvature(checkpoint, split), "curvature")[1] for layout in (here, there))
        assert all(np.array_equal(one.read(name), other.read(name)) for name in one.names())
    for table in ("scores", "topk"):
        np.testing.assert_equal(read_table(getattr(there, table)), read_table(getattr(here, table)))
