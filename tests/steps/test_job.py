import logging
from pathlib import Path

import pytest

from pipeline.config import load, partial, sections
from pipeline.steps import job as jobs
from pipeline.steps.job import Job, Progress, hearing
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_silent_for_two_seconds_and_then_says_rate_and_rest(clock):
    said = []
    progress = Progress("counting", 100, "rows", said.append)
    clock[0] = 1.9
    progress.add(10)
    assert said == []
    clock[0] = 2.5
    progress.add(15)
    assert said == ["counting: 25 of 100 rows, 10/s, 8 s left"]
    clock[0] = 3.0
    progress.add(1)
    assert len(said) == 1


def a_job(tmp_path: Path, said: list[str]) -> Job:
    return Job("vectors", Layout(tmp_path), partial(sections(load(), "vectors")), said.append)


def test_what_a_task_logs_is_heard_every_two_seconds_and_only_while_it_trains(clock, tmp_path):
    said: list[str] = []
    logger = logging.getLogger("pipeline.tasks.training")
    with hearing(a_job(tmp_path, said)):
        logger.info("epoch %d", 1)
        clock[0] = 2.1
        logger.info("epoch %d", 2)
        logger.info("epoch %d", 3)
    clock[0] = 9.0
    logger.info("epoch %d", 4)
    assert said == ["epoch 2"]
    assert logging.getLogger("pipeline").handlers == []


def test_an_artefact_is_recorded_with_the_code_of_its_stage_and_said_when_written(tmp_path):
    said: list[str] = []
    job = a_job(tmp_path, said)
    path = job.layout.report
    with job.writing(path, "report", {"of": 1}) as (temporary, record):
        temporary.write_text("page")
        record["extra"] = 2
    manifest = open_artefact(path, "report")
    assert manifest.record["stage"] == "vectors" and manifest.record["extra"] == 2
    assert manifest.record["code"] == jobs.digest_of("vectors", job.config)
    assert len(said) == 1 and said[0].startswith("report/index.html written after")
