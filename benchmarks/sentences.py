"""Which score finds the errors of human raters: all sentences on MiniLM at whole sizes, five seeds.

The cells of `benchmarks.evidence` with a head on MiniLM: one rater, the worst of three, critics; all rows or those on
which people agree, all domains or one; heads that learn their labels by heart and heads that do not. All estimators in
codes and all controls, without those on whole gradients and of several models. What was run is kept under
`runs/evidence/`.
"""

from __future__ import annotations

from benchmarks import evidence


def main(table_only: bool = False, small: bool = False) -> None:
    """Run what has not been run, of one seed where it is `small`, and print its tables, or print them alone."""
    evidence.tabulate("sentences", table_only, small)
