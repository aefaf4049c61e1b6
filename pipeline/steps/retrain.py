"""Retrain: models on changed train rows, the ground truth of influence. One job trains a block of members.

Each member is an artefact of its own, `retrain/<set>/<member>.zarr`: which rows it had, and what it makes of every
train, validation and query row as given. A job that was killed goes on where it stopped: members made from the
same rows, seed, settings and code are kept. Letters: N train rows, n rows of a split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import StoreError, TaskError
from pipeline.provenance import digest_bytes
from pipeline.retrainings import Member, blocks
from pipeline.steps.job import Job
from pipeline.steps.selection import Selection, Selector
from pipeline.steps.tasks import seed_everything, task_of, use_threads
from pipeline.steps.train import new_trained
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import open_artefact
from pipeline.storage.tables import write_table
from pipeline.storage.weights import save_weights
from pipeline.tasks.altered import altered, check_asked, labels_of
from pipeline.tasks.base import Task, classifies, has_metric, trains
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

SPLITS = ("train", "validation", "query")
UNKNOWN = -1
"""In place of `correct` where rows have no label."""
BATCH_ROWS = 256
"""Rows of a batch of outputs."""


def run(job: Job, set_name: str, block: str) -> None:
    """Write the members of a block that are not there yet, and their list `retrain/<set>/blocks/<block>.parquet`."""
    use_threads(job.config)
    plan = job.plan()
    task = task_of(job.config, plan)
    if not trains(task):
        raise TaskError(
            f"expected a task that trains its model to retrain it on other rows, got {type(task).__name__} without "
            "train(self, model); write `train`, which takes its rows from self.train_rows()"
        )
    trainer = _Trainer(job, task, Selector(job, task, set_name), job.record()["code"])
    members = blocks(job.config.retrain, set_name)[block]
    progress = job.progress(f"retraining {set_name}", len(members), "models")
    digests = []
    for member in members:
        digests.append(trainer.make(member))
        progress.add()
    identity = {"set": set_name, "members": digests}
    with job.writing(job.layout.retrained_block(set_name, block), "retrained", identity) as (path, _):
        write_table(path, {"member": [member.name for member in members], "digest": digests}, {})


@dataclass(frozen=True)
class _Trainer:
    """Makes the members of a set."""

    job: Job
    task: Task
    selector: Selector
    code: str

    def make(self, member: Member) -> str:
        """The digest of a member's artefact, which is written unless it is there."""
        selection = self.selector.of(member)
        path, identity = (
            self.job.layout.retrained(self.selector.set_name, member.name),
            self._identity(member, selection),
        )
        try:
            there = open_artefact(path, "member")
            if there.identity == identity and there.record["code"] == self.code:
                return there.digest
        except StoreError:
            pass
        model = self._trained(member, selection)
        with self.job.writing(path, "member", identity) as (place, _):
            write_arrays(place, self._outputs(model, selection))
        if self.job.config.retrain.keep_weights:
            with self.job.writing(path.with_name(f"{member.name}.weights.safetensors"), "weights", identity) as (
                place,
                _,
            ):
                save_weights(place, model)
        return open_artefact(path, "member").digest

    def _identity(self, member: Member, selection: Selection) -> dict[str, Any]:
        """What decides on a member: the task, its rows and labels, its seed, and the rows that it is judged on."""
        config, plan = self.job.config, self.job.plan()
        return {
            "task": config.task.plain(),
            "seed": [config.seed, member.seed],
            "kept": digest_bytes(selection.kept.astype("<i8").tobytes()),
            "labels": sorted(selection.labels.items()),
            "content": {split: plan.splits[split].content for split in SPLITS},
        }

    def _trained(self, member: Member, selection: Selection) -> nn.Module:
        """A model trained on the selection; members of one seed number start from the same stream."""
        changed, rows = altered(self.task, selection.kept, selection.labels)
        seed_everything(self.job.config.seed, f"retrain {member.seed} {self._own_stream(member)}")
        model = new_trained(changed)
        check_asked(self.task, rows)
        return model.eval()

    def _own_stream(self, member: Member) -> str:
        """Random subsets are independent trainings; removals are compared with the whole under the same stream."""
        set_name = self.selector.set_name
        return f"{set_name} {member.action}" if set_name in ("half", "most") else ""

    def _outputs(self, model: nn.Module, selection: Selection) -> dict[str, Array]:
        """What the model makes of all rows, and which of them it was trained on."""
        kept = np.zeros(len(row_set(self.task, "train")), np.uint8)
        kept[selection.kept] = 1
        arrays: dict[str, Array] = {"kept": kept}
        for split in SPLITS:
            rows = row_set(self.task, split)
            arrays.update({f"{split}_{name}": values for name, values in outputs(self.task, model, rows).items()})
        if has_metric(self.task):
            arrays["query_metric"] = np.array([self.task.metric(model, "query")])
        return arrays


def outputs(task: Task, model: nn.Module, rows: RowSet) -> dict[str, Array]:
    """Of each row: `loss` in nats, and for a classification `probability` of its label, `margin`, `correct`, each [n].

    margin = log p_y - log(1 - p_y); correct is 1 where the label is the prediction, 0 where not, -1 without a label.
    """
    parts = [
        _batch_outputs(task, model, rows.batch(range(start, min(start + BATCH_ROWS, len(rows)))))
        for start in range(0, len(rows), BATCH_ROWS)
    ]
    names = parts[0] if parts else ("loss",)
    return {name: np.concatenate([part[name] for part in parts] or [np.zeros(0, np.float32)]) for name in names}


@torch.no_grad()
def _batch_outputs(task: Task, model: nn.Module, batch: Any) -> dict[str, Array]:
    found = {"loss": task.loss(model, batch).float().numpy()}
    if not classifies(task):
        return found
    logits, labels = task.logits(model, batch).double(), labels_of(batch)
    if labels is None:
        nothing = np.full(len(logits), np.nan, np.float32)
        return {**found, "probability": nothing, "margin": nothing, "correct": np.full(len(logits), UNKNOWN, np.int8)}
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf")).logsumexp(1)
    return {
        **found,
        "probability": torch.sigmoid(own - others).float().numpy(),
        "margin": (own - others).float().numpy(),
        "correct": (logits.argmax(1) == labels).to(torch.int8).numpy(),
    }
