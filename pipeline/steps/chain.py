"""The chain of provenance: what the identity of every artefact must say, given what stands in the run now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.config import CHECKPOINTS, CURVATURE_SPLIT, is_checkpoint
from pipeline.methods import METHODS, SOLVED, TRACED, solved_from
from pipeline.shards import Plan
from pipeline.steps.stores import retired_of
from pipeline.storage.artefact import Manifest
from pipeline.storage.layout import METRIC_OF, Layout

Expected = tuple[Path, str, Any]
"""An artefact, a key of its identity, and the value that it must have."""

Place = Callable[[str, str, str], Path]


class Chain:
    """What each artefact of a run must be made from."""

    def __init__(self, layout: Layout, plan: Plan, manifests: dict[Path, Manifest]) -> None:
        self.layout, self.plan, self.manifests = layout, plan, manifests

    def expected(self) -> Iterator[Expected]:
        """In the order of the flow."""
        contents = {name: split.content for name, split in self.plan.splits.items()}
        for path in (self.layout.hashes, self.layout.inputs):
            yield from ((path, name, content) for name, content in contents.items())
        yield from self._fitted(contents)
        for checkpoint in CHECKPOINTS:
            yield from self._captured(checkpoint)
            yield from self._curvature(checkpoint)
            for metric in sorted(set(METRIC_OF.values())):
                yield self.layout.index(checkpoint, metric), "gradients", self.gradients(checkpoint, "train")
        for checkpoint in self._further():
            yield from self._captured(checkpoint)
        yield self.layout.recorded, "trained", self.digest(self.layout.checkpoint("trained"))
        for name in SOLVED:
            path = self.layout.solved(name)
            read = {split: self.gradients(METHODS[name].at[0], split) for split in solved_from(name)}
            traced = name in TRACED
            yield path, *(("recorded", self.digest(self.layout.recorded)) if traced else ("gradients", read))
            yield path, "retired", retired_of(self.plan, "train")
        yield self.layout.suspects, "gradients", self.gradients("flat", "train")
        yield self.layout.suspects, "retired", retired_of(self.plan, "train")
        yield from self._answers()

    def digest(self, path: Path) -> str | None:
        """Of what stands at a path."""
        return self.manifests[path].digest if path in self.manifests else None

    def digests(self, place: Place, checkpoint: str, split: str) -> list[str | None]:
        """Of all shards of a split."""
        return [self.digest(place(checkpoint, split, shard.name)) for shard in self.plan.splits[split].shards]

    def gradients(self, checkpoint: str, split: str) -> list[str | None]:
        """Of all shards of a split's gradients."""
        return self.digests(self.layout.gradients, checkpoint, split)

    def _fitted(self, contents: dict[str, Any]) -> Iterator[Expected]:
        """Models that begin at `trained`, some on validation rows, and what they say of rows."""
        trained, losses, posterior = self.layout.checkpoint("trained"), self.layout.losses, self.layout.posterior
        for path, manifest in self.manifests.items():
            if path.parent == trained.parent and "trained" in manifest.identity:
                yield path, "trained", self.digest(trained)
                if "content" in manifest.identity:
                    yield path, "content", contents["validation"]
        yield self.layout.checkpoint("folds"), "flat", self.digest(self.layout.checkpoint("flat"))
        yield posterior, "checkpoints", [self.digest(self.layout.checkpoint(name)) for name in ("trained", "folds")]
        yield posterior, "content", contents["train"]
        yield posterior, "retired", retired_of(self.plan, "train")
        if losses in self.manifests:
            members = range(1, len(self.manifests[losses].identity["members"]) + 1)
            made = [self.digest(self.layout.checkpoint(f"geometric-{number}")) for number in members]
            yield losses, "members", made
        yield losses, "content", {name: content for name, content in contents.items() if self.plan.splits[name].rows}

    def _further(self) -> list[str]:
        """Checkpoints beside trained and flat."""
        folder = self.layout.checkpoint("trained").parent
        names = [path.stem for path in self.manifests if path.parent == folder and is_checkpoint(path.stem)]
        return sorted(set(names) - set(CHECKPOINTS))

    def _captured(self, checkpoint: str) -> Iterator[Expected]:
        weights = self.digest(self.layout.checkpoint(checkpoint))
        projection = self.digest(self.layout.projection(checkpoint))
        yield self.layout.projection(checkpoint), "checkpoint", weights
        for split, rows in self.plan.splits.items():
            for shard in rows.shards:
                for place in (self.layout.gradients, self.layout.candidates):
                    path = place(checkpoint, split, shard.name)
                    yield path, "checkpoint", weights
                    yield path, "projection", projection
                    yield path, "rows", shard.plain()

    def _curvature(self, checkpoint: str) -> Iterator[Expected]:
        split = CURVATURE_SPLIT[checkpoint]
        path = self.layout.curvature(checkpoint, split)
        made = self.manifests.get(path)
        summed = made is not None and made.identity["curvature"]["kind"] == "ggn"
        place = self.layout.candidates if summed else self.layout.gradients
        yield path, "inputs", self.digests(place, checkpoint, split)
        yield path, "retired", retired_of(self.plan, split)
        for asked in ("validation", "query"):
            if self.plan.splits[asked].rows:
                yield self.layout.vectors(checkpoint, asked), "curvature", self.digest(path)
                yield self.layout.vectors(checkpoint, asked), "gradients", self.gradients(checkpoint, asked)

    def _answers(self) -> Iterator[Expected]:
        layout, retired = self.layout, retired_of(self.plan, "train")
        curvatures = [layout.curvature(checkpoint, CURVATURE_SPLIT[checkpoint]) for checkpoint in ("flat", "trained")]
        if layout.scores in self.manifests:
            read = self.manifests[layout.scores].identity["gradients"]
            yield layout.scores, "gradients", {text: self.gradients(*text.split()) for text in read}
            columns = self.manifests[layout.scores].identity["estimators"]
            yield layout.scores, "solved", [self.digest(layout.solved(name)) for name in SOLVED if name in columns]
            yield layout.scores, "ensemble", self.digest(layout.losses) if "gex" in columns else None
        yield layout.scores, "curvature", [self.digest(path) for path in curvatures]
        yield layout.scores, "rows", self.digest(layout.hashes)
        yield layout.scores, "retired", retired
        if self.plan.labelled:
            yield layout.scores, "candidates", self.digests(layout.candidates, "flat", "train")
        yield layout.topk, "content", self.plan.splits["query"].content
        yield layout.topk, "retired", retired
        if layout.topk in self.manifests:
            asked = self.manifests[layout.topk].identity["scores"]
            yield layout.topk, "scores", {text: self.gradients(text.partition("@")[2], "train") for text in asked}
        for table in ("mislabel", "relabel", "replay"):
            yield layout.evaluation(table), "scores", self.digest(layout.scores)
        for table in ("mislabel", "relabel"):
            if layout.evaluation(table) in self.manifests:
                under = self.manifests[layout.evaluation(table)].identity["candidates"]
                found = {checkpoint: self.digests(layout.candidates, checkpoint, "train") for checkpoint in under}
                yield layout.evaluation(table), "candidates", found
        yield layout.evaluation("replay"), "recorded", self.digest(layout.recorded)
        judged = layout.evaluation("retrieval")
        if judged in self.manifests:
            asked = self.manifests[judged].identity["gradients"]
            yield judged, "gradients", {text: self.gradients(*text.split(" ")) for text in asked}
            yield judged, "groups", self.plan.groups
            yield judged, "retired", retired
        yield layout.report, "scores", self.digest(layout.scores)
        yield layout.report, "topk", self.digest(layout.topk)
