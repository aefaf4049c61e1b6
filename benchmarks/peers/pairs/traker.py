"""traker: TRAK of one model, in several numbers of dimensions."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator

from torch import Tensor, from_numpy
from trak import TRAKer

from benchmarks.peers.pairs import Question

BATCH = 100
DIMENSIONS = (2048, 512, 128)
"""Its own default first; with more than there are train rows its kernel, which has no damping, is singular."""


def trak(asked: Question) -> Iterator[tuple[str, Tensor]]:
    """By the task that it has for classification."""
    for dimension in DIMENSIONS:
        yield f"{dimension} dimensions", scores(asked, dimension)


def scores(asked: Question, dimension: int) -> Tensor:
    """In one of them, [Q, N]."""
    rows, queries = len(asked.train[1]), len(asked.query[1])
    with tempfile.TemporaryDirectory() as directory:
        tracer = TRAKer(
            model=asked.model, task="image_classification", train_set_size=rows, device="cpu", proj_dim=dimension,
            save_dir=directory, use_half_precision=False, logging_level=logging.ERROR,
        )  # fmt: skip
        tracer.load_checkpoint(asked.model.state_dict(), model_id=0)
        for batch in zip(*(part.split(BATCH) for part in asked.train), strict=True):
            tracer.featurize(batch=batch, num_samples=len(batch[1]))
        tracer.finalize_features()
        tracer.start_scoring_checkpoint("queries", asked.model.state_dict(), model_id=0, num_targets=queries)
        for batch in zip(*(part.split(BATCH) for part in asked.query), strict=True):
            tracer.score(batch=batch, num_samples=len(batch[1]))
        return from_numpy(tracer.finalize_scores("queries").copy()).T


METHODS = {"TRAK": trak}
