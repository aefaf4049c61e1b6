"""Whether FVM and VM beat classical influence, TracIn and DataInf: clothes in the paper's sizes, five seeds, paired.

The cells of `benchmarks.evidence` with Fashion-MNIST, 5,000 train rows and 500 clean ones for validation, uniform and
confusable noise of 40 % that is learnt by heart; all estimators in codes and all controls, without those on whole
gradients and of several models, which take two thirds of a run's time. What was run is kept under `runs/evidence/`.
"""

from __future__ import annotations

from benchmarks import evidence


def main(table_only: bool = False, small: bool = False) -> None:
    """Run what has not been run, of one seed where it is `small`, and print its tables, or print them alone."""
    evidence.tabulate("clothes", table_only, small)
