"""Why jobs run, in words: from lines as Snakemake 9 prints them."""

from __future__ import annotations

import json

import pytest

from pipeline.cli.plan import read_jobs
from pipeline.steps.reasons import words

PARAMS = "Params have changed since last execution: Union of exclusive params before and now across all output: before: {} now: {} "


def changed(before: list[str], now: list[str]) -> str:
    return PARAMS.format(",".join(map(repr, before)), ",".join(map(repr, now)))


def test_settings_are_named_with_both_values():
    before = json.dumps({"curvature": {"damping": 1.0, "kind": "fisher"}, "compute": {"threads": 1}})
    now = json.dumps({"curvature": {"damping": 0.5, "kind": "fisher"}, "compute": {"threads": 1}})
    assert words(changed([before], [now])) == ["curvature.damping: 1.0 -> 0.5"]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("code ab", "code cd", "its code has changed, or the task's"),
        ("rows 20-30 aa", "rows 20-40 bb", "rows 20-40, before 20-30"),
        ("rows 0-20 aa", "rows 0-20 bb", "contents of its rows"),
        ("rows 0-20 aa", "rows 0-20 aa but 3", "rows dropped from the shard or restored"),
        ("retired ", "retired 3, 7", "retired rows: 2, before 0"),
        ("content train aa, query bb", "content train aa, query cc", "rows of query have changed"),
        ("weights aa", "weights bb", "other weights are given"),
        ("truth aa", "truth bb", "other true labels"),
        ("evaluations ", "evaluations stability ab", "other evaluations to show"),
    ],
)
def test_every_param_has_its_words(before, now, said):
    assert words(changed([before], [now])) == [said]


def test_several_reasons_are_told_apart():
    text = "Updated input files: results/checkpoints/flat.json; Code has changed since last execution; " + changed(
        ["code a", "it's; x"], ["code b"]
    )
    assert words(text) == [
        "changed since: checkpoints/flat", "its rule has changed", "its code has changed, or the task's", "it's; has changed"
    ]  # fmt: skip


def test_shards_are_counted():
    names = ", ".join(f"results/gradients/flat/train/0000{i}.json" for i in range(3))
    assert words(f"Input files updated by another job: {names}, results/curvature/trained-train.json") == [
        "follows from gradients/flat/train (3 shards), curvature/trained-train"
    ]
    assert words("Missing output files: results/index/flat-inner.json") == ["not made yet, or lost"]


def test_jobs_are_read_from_a_dry_run():
    text = """Building DAG of jobs...
rule index:
    input: results/gradients/trained/train/00000.json
    output: results/index/trained-inner.json
    log: logs/index/trained-inner.log
    jobid: 3
    benchmark: benchmarks/index/trained-inner.tsv
    reason: Forced execution
    wildcards: checkpoint=trained, metric=inner
    resources: tmpdir=<TBD>, mem_mb=4000, mem_mib=3815

localrule all:
    input: results/index/trained-inner.json
    jobid: 0
    reason: Input files updated by another job: results/index/trained-inner.json

"""
    (job,) = read_jobs(text)
    assert (job.stage, job.artefact, job.why, job.reserved_mb) == ("index", "index/trained-inner", ("forced",), 4000)
