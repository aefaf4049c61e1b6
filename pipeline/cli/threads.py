"""How many threads numpy and torch may take; it must be said before they are loaded."""

import os

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_threads(threads: int) -> None:
    """Let BLAS and OpenMP of this process, and of those that it starts, take so many threads."""
    for variable in VARIABLES:
        os.environ[variable] = str(threads)
