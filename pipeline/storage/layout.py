"""Where things are in a run, said once. A run is a directory; everything made is below its `results/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

METRIC_OF = {"influence": "inner", "fvm": "inner", "cosine": "cosine"}
"""The kind of index that answers a score: by inner products with codes, or with codes of unit length."""


@dataclass(frozen=True)
class Layout:
    """The places of a run, relative to its directory."""

    run: Path

    @property
    def results(self) -> Path:
        """The top of all that is made."""
        return self.run / "results"

    @property
    def tombstones(self) -> Path:
        """The rows that the user has retired: a decision, so not among the results."""
        return self.run / "retired.json"

    @property
    def plan(self) -> Path:
        """Rows and shards."""
        return self.results / "prepare" / "plan.json"

    @property
    def hashes(self) -> Path:
        """Content hash of every row."""
        return self.results / "prepare" / "rows.zarr"

    @property
    def inputs(self) -> Path:
        """The same without its label."""
        return self.results / "prepare" / "inputs.zarr"

    @property
    def config(self) -> Path:
        """The configuration in force, whole."""
        return self.results / "prepare" / "config.yaml"

    def checkpoint(self, name: str) -> Path:
        """Weights: `trained` or `flat`, or those of the `folds`."""
        return self.results / "checkpoints" / f"{name}.safetensors"

    @property
    def losses(self) -> Path:
        """Losses of all rows at the members of the geometric ensemble."""
        return self.results / "losses" / "ensemble.zarr"

    def solved(self, name: str) -> Path:
        """Scores of all train rows that a solver on whole gradients left."""
        return self.results / "solved" / f"{name}.zarr"

    @property
    def recorded(self) -> Path:
        """The last steps of the joint training of a generator and a discriminator."""
        return self.results / "recorded" / "steps.zarr"

    @property
    def seen(self) -> Path:
        """Content hashes of the train rows that were there when `trained` was made."""
        return self.results / "checkpoints" / "seen.zarr"

    def projection(self, checkpoint: str) -> Path:
        """The map to K numbers and the codec's column scales."""
        return self.results / "projection" / f"{checkpoint}.zarr"

    def gradients(self, checkpoint: str, split: str, shard: str) -> Path:
        """Codes of a shard."""
        return self.results / "gradients" / checkpoint / split / f"{shard}.zarr"

    def candidates(self, checkpoint: str, split: str, shard: str) -> Path:
        """Codes of a shard's rows under every label."""
        return self.results / "candidates" / checkpoint / split / f"{shard}.zarr"

    @property
    def suspects(self) -> Path:
        """The rows that get candidates where not all do."""
        return self.results / "candidates" / "suspects.zarr"

    @property
    def posterior(self) -> Path:
        """How likely each train row's label is wrong."""
        return self.results / "posterior" / "posterior.zarr"

    def curvature(self, checkpoint: str, split: str) -> Path:
        """The spectral factor of a split's curvature."""
        return self.results / "curvature" / f"{checkpoint}-{split}.zarr"

    def vectors(self, checkpoint: str, split: str) -> Path:
        """Preconditioned gradients of validation or query rows."""
        return self.results / "vectors" / f"{checkpoint}-{split}.zarr"

    def index(self, checkpoint: str, metric: str) -> Path:
        """The FAISS index of the train codes."""
        return self.results / "index" / f"{checkpoint}-{metric}.faiss"

    def whitening(self, checkpoint: str) -> Path:
        """The curvature as it was when the index of half-whitened rows was built."""
        return self.results / "index" / f"{checkpoint}-whitening.zarr"

    def indexed(self, checkpoint: str, metric: str) -> Path:
        """Which rows an index holds, and which codes of them."""
        return self.results / "index" / f"{checkpoint}-{metric}-rows.zarr"

    @property
    def scores(self) -> Path:
        """One row a training sample."""
        return self.results / "scores" / "scores.parquet"

    @property
    def topk(self) -> Path:
        """Answers for the declared query rows."""
        return self.results / "query" / "topk.parquet"

    @property
    def report(self) -> Path:
        """The page."""
        return self.results / "report" / "index.html"

    def evaluation(self, table: str) -> Path:
        """A table of results against true labels."""
        return self.results / "evaluation" / f"{table}.parquet"

    def retrained(self, set_name: str, member: str) -> Path:
        """What a retrained model makes of all rows."""
        return self.results / "retrain" / set_name / f"{member}.zarr"

    def retrained_block(self, set_name: str, block: str) -> Path:
        """The list of the members that one job has made."""
        return self.results / "retrain" / set_name / "blocks" / f"{block}.parquet"

    @property
    def pairs(self) -> Path:
        """Influence of every pair of train and query row, from retrained models."""
        return self.results / "evaluation" / "influence.zarr"
