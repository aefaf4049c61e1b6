"""The sections of the configuration that estimators and their evaluation read; see `pipeline.schema`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field, field_validator

from pipeline.errors import ConfigError
from pipeline.fields import Count, Part, Positive, Rate, Section, Selection, Share, nearest
from pipeline.methods import RANKED, SCORED


class CheckpointsSection(Section):
    """Further checkpoints, beside trained and flat."""

    epochs: list[Count]
    seeds: Annotated[int, Field(ge=0)]
    twin: bool

    @field_validator("epochs")
    @classmethod
    def ascending(cls, epochs: list[int]) -> list[int]:
        """Each once, in order."""
        return sorted(set(epochs))

    def expanded(self, at: Iterable[str]) -> list[str]:
        """Names of checkpoints, where "epochs", "seeds" and "twins" stand for all of that kind.

        "epochs" and "seeds" are `trained` where there are none; "twins" are none without a twin.
        """
        kinds = {
            "epochs": [f"epoch-{epoch}" for epoch in self.epochs] or ["trained"],
            "seeds": ["trained", *(f"seed-{number}" for number in range(1, self.seeds + 1))],
            "twins": [f"{kind}-{epoch}" for kind in ("epoch", "twin") for epoch in self.epochs if self.twin],
        }
        return list(dict.fromkeys(name for each in at for name in kinds.get(each, [each])))

    def name_of(self, at: Sequence[str]) -> str:
        """Where a method is asked, for tables: the first of its checkpoints, or all of that kind."""
        return "+".join(self.expanded(at[:1]))

    @property
    def further(self) -> list[str]:
        """All that are listed here."""
        flat = ["twin-flat"] if self.expanded(["twins"]) else []
        return [name for name in (*self.expanded(("epochs", "seeds", "twins")), *flat) if name != "trained"]


class EnsembleSection(Section):
    """The geometric ensemble of GEX."""

    members: Annotated[int, Field(ge=0)]
    steps: Selection
    learning_rate: Rate
    momentum: Annotated[float, Field(ge=0, lt=1)]
    batch_rows: Count

    @property
    def names(self) -> list[str]:
        """Of its checkpoints."""
        return [f"geometric-{number}" for number in range(1, self.members + 1)]


class SolversSection(Section):
    """How classical influence of whole gradients is solved for."""

    cg_tolerance: Positive
    cg_products: Count
    lissa_depth: Count
    lissa_repeats: Count
    lissa_batch_rows: Count
    factored_damping: Positive


class GanSection(Section):
    """Influence through the joint training of a generator and a discriminator, and its evaluation."""

    epochs: Annotated[int, Field(ge=0)]
    depth: Selection
    damping: Annotated[float, Field(ge=0, lt=1)]
    scale: Rate
    horizons: list[Count]
    replayed_rows: Annotated[int, Field(ge=2)]
    replayed_draws: Annotated[int, Field(ge=2)]

    @field_validator("horizons")
    @classmethod
    def ascending(cls, horizons: list[int]) -> list[int]:
        """Each once, in order."""
        return sorted(set(horizons))


class ScoresSection(Section):
    """What is said of every train row, and further scores of pairs."""

    estimators: list[str]

    @field_validator("estimators")
    @classmethod
    def known(cls, names: list[str]) -> list[str]:
        """Each is one that scores rows, or pairs that a solver makes."""
        for name in names:
            if name not in SCORED:
                raise ConfigError(
                    f"expected scores.estimators out of {', '.join(SCORED)}, got {name!r}{nearest(name, SCORED)}"
                )
        return names


class RetrainSection(Section):
    """Retrainings on changed rows: the ground truth of evaluation."""

    members: Count
    lds_fraction: Share
    lds_subsets: Annotated[int, Field(ge=4)]
    lds_seeds: Count
    memorisation_fraction: Share
    memorisation_models: Annotated[int, Field(ge=4)]
    memorised_threshold: Share
    seeds: Annotated[int, Field(ge=2)]
    removed_share: Part
    pruned_share: Share
    rankings: list[str]
    single_rows: Count
    single_seeds: Count
    keep_weights: bool

    @field_validator("rankings")
    @classmethod
    def known(cls, names: list[str]) -> list[str]:
        """Each is a score of rows; whether the run has it is known when it is read."""
        for name in names:
            if name not in RANKED or RANKED[name].rows is None:
                known = [each for each, method in RANKED.items() if method.rows]
                raise ConfigError(
                    f"expected retrain.rankings out of {', '.join(known)}, got {name!r}{nearest(name, known)}"
                )
        return names
