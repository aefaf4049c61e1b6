"""Which retrainings there are: sets of members, each a training on changed rows, and how members are cut into jobs.

A member is one training: what is done to the train rows, and under which seed. The Snakefile needs their names before
anything ran, so they follow from the configuration alone; which rows a name stands for is settled by the job.

| set | members | for |
|---|---|---|
| half | random subsets, `lds_fraction` of the rows | LDS |
| most | random subsets, `memorisation_fraction` of the rows | memorisation, influence of pairs, LDS |
| removal | suspects, random or truly wrong rows removed, relabelled; the least suspicious pruned | test accuracy |
| cleansing | suspects (but by `wrong`) or random rows removed, for tasks that give no labels | the task's metric |
| memorised | memorised rows removed, and as many at random | memorisation |
| single | one row left out | leave-one-out |

Names end in the number of the seed: half/00012-1, removal/s.removed-0. Light: the Snakefile imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.schema_estimators import RetrainSection

SETS = ("half", "most", "removal", "cleansing", "memorised", "single")

PLAIN = "whole"
"""The action of a member that is trained on all rows as they are."""


@dataclass(frozen=True)
class Member:
    """One training: `action` says what is done to the rows, `seed` is its number among trainings of one action."""

    action: str
    seed: int

    @property
    def name(self) -> str:
        """As in file names."""
        return f"{self.action}-{self.seed}"


def members(section: RetrainSection, set_name: str) -> list[Member]:
    """The members of a set, in the order in which they are trained.

    Raises:
        ConfigError: no such set.
    """
    match set_name:
        case "half":
            actions, seeds = _numbers(section.lds_subsets), section.lds_seeds
        case "most":
            actions, seeds = _numbers(section.memorisation_models), 1
        case "removal":
            actions, seeds = removal_actions(section.rankings), section.seeds
        case "cleansing":
            removed = [f"{name}.removed" for name in ("random", *section.rankings) if name != "wrong"]  # needs labels
            actions, seeds = [PLAIN, *removed], section.seeds
        case "memorised":
            actions, seeds = [PLAIN, "memorised.removed", "random.removed"], section.seeds
        case "single":
            actions, seeds = (
                [PLAIN, *(f"row{number}" for number in _numbers(section.single_rows))],
                section.single_seeds,
            )
        case _:
            raise ConfigError(f"expected a set of retrainings out of {', '.join(SETS)}, got {set_name!r}")
    return [Member(action, seed) for action in actions for seed in range(seeds)]


def check_single(section: RetrainSection, rows: int) -> None:
    """Whether there are as many train rows as are to be left out one by one.

    Raises:
        ConfigError: there are not.
    """
    if section.single_rows > rows:
        raise ConfigError(
            f"expected retrain.single_rows up to {rows}, the train rows that take part, got {section.single_rows}; "
            "lower it"
        )


def removal_actions(rankings: Sequence[str]) -> list[str]:
    """What is done to the train rows to judge rankings of suspects, controls first."""
    controls = [PLAIN, "random.removed", "random.pruned", "oracle.removed", "oracle.relabelled"]
    return [*controls, *(f"{name}.{act}" for name in rankings for act in ("removed", "relabelled", "pruned"))]


def _numbers(count: int) -> list[str]:
    return [f"{number:05d}" for number in range(count)]


def blocks(section: RetrainSection, set_name: str) -> dict[str, list[Member]]:
    """The members of a set as jobs: name of the block to its members.

    Members of one seed number stand together where a set has several, so that an early look has all actions.
    """
    every = sorted(members(section, set_name), key=lambda member: member.seed)
    step = section.members
    return {f"{i:05d}": every[i * step : (i + 1) * step] for i in range(-(-len(every) // step))}
