"""Which score finds errors of human raters with a transformer trained from scratch: 1,000 sentences, five seeds.

The cells of `benchmarks.evidence` with one rater's labels of all sentences, and with the worst of three where people
agree; transformers that learn their labels by heart and ones that do not. All estimators and controls but those that
pass over all rows again and again (CG, LiSSA, TRAK, GEX). What was run is kept under `runs/evidence/`.
"""

from __future__ import annotations

from benchmarks import evidence


def main(table_only: bool = False, small: bool = False) -> None:
    """Run what has not been run, of one seed where it is `small`, and print its tables, or print them alone."""
    evidence.tabulate("transformer", table_only, small)
