"""`python -m benchmarks [NAME ...]`: run benchmarks by name, all of the quick ones without a name."""

from __future__ import annotations

import argparse
import importlib

QUICK = ("capture",)
ALL = {
    "capture": "per-sample gradient capture, Lowland and peers, as ratios to forward and backward (half an hour)",
    "fidelity": "what each projection keeps of pairwise influence, at equal bytes a row (an hour)",
    "memory": "memory of capture, planned and measured (5 minutes)",
    "scan": "an exact scan of a 4 GiB store under 1 GiB, against plain reading (3 to 8 minutes, 5 GB of disk)",
    "index": "kinds of indexes up to a million rows: time, size, latency, recall (an hour, 10 GB of memory and disk)",
    "shard": "what a job costs beside its work, at the default size of a shard (8 minutes)",
    "incremental": "appending, retiring and compacting rows of a store of 100,000 (10 minutes)",
    "text": "what taught a text: language models, methods and controls (--small, 8 minutes, or --full)",
    "pbrf": "influence against the proximal Bregman response and leave-one-out, term by term (10 minutes)",
    "lds": "which scores predict models on random halves of digits, peers' beside them (--small, 8 minutes, or --full)",
    "stability": "do suspects and answers stay: other seeds, dampings, projections, codecs, minima (10 minutes)",
    "cleansing": "test accuracy without what each score suspects, on several data (--small, 6 minutes, or --full)",
    "memorisation": "memorised digits: wrong labels, the long tail, what they are worth (--small, or --full)",
    "gan": "influence on what a GAN generates: replays and retraining (--small, 15 minutes, or --full, two hours)",
    "diffusion": "what taught a diffusion model its samples: DMin, FVM, controls, retraining (--small, or --full)",
    "fine": "does influence survive the randomness of training: f-INE and others over seeds (10 minutes)",
    "digits": "mislabel detection and relabelling on digits, four kinds of noise, three seeds (half an hour)",
    "evidence": "the same on letters, clothes, sentences and CIFAR-N, in both regimes (--small or --full, a night)",
    "clothes": "the same on clothes in the paper's sizes, second order against first, five seeds (an hour, or --small)",
    "sentences": "the same on sentences that people labelled wrongly, on MiniLM, five seeds (hours, or --small)",
    "transformer": "the same on sentences with a small transformer, five seeds (two and a half hours, or --small)",
}
SIZED = ("evidence", "lds", "cleansing", "memorisation", "text", "fine", "gan", "diffusion")
"""Those with a small setting and a full one."""
SEEDED = ("clothes", "sentences", "transformer")
"""Those of which the small setting is one seed, under half an hour, and all seeds are what runs without it."""
KEPT = ("evidence", "clothes", "sentences", "transformer", "gan", "text")
"""Those that keep what they ran."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="; ".join(f"{name}: {what}" for name, what in ALL.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; default: {', '.join(QUICK)}")
    size = parser.add_mutually_exclusive_group()
    sized = ", ".join(SIZED)
    seeded = ", ".join(SEEDED)
    size.add_argument("--small", action="store_true",
                      help=f"{sized}: few rows and seeds (the default); {seeded}: one seed")  # fmt: skip
    size.add_argument("--full", action="store_true", help=f"{sized}: whole sizes and five seeds")
    parser.add_argument("--table", action="store_true", help=f"{', '.join(KEPT)}: print what has been run, run nothing")
    arguments = parser.parse_args()
    names = arguments.names or list(QUICK)
    if arguments.full and not set(names) <= set(SIZED):
        parser.error(f"expected --full with {sized} alone, got other names; run those without")
    if arguments.small and not set(names) <= {*SIZED, *SEEDED}:
        parser.error(f"expected --small with {sized}, {seeded} alone, got other names; run those without")
    if arguments.table and not set(names) <= set(KEPT):
        parser.error(f"expected --table with {' or '.join(KEPT)} alone, got other names; run those without")
    for name in names:
        if name not in ALL:
            parser.error(f"expected a benchmark out of {', '.join(ALL)}, got {name!r}")
    for name in names:
        main_of = importlib.import_module(f"benchmarks.{name}").main
        options = {"full": arguments.full} if name in SIZED else {"small": arguments.small} if name in SEEDED else {}
        main_of(**options, **({"table_only": True} if arguments.table else {}))


if __name__ == "__main__":
    main()
