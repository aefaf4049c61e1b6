"""What a row costs: the floating point operations of a forward pass, counted on a few rows.

Counted, not timed, so that every machine gives the same number. Matrix products, convolutions and attention count.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set

PROBED_ROWS = 8


def forward_operations(task: Task) -> int:
    """Operations of the loss of one train row, on average over the first few."""
    rows = row_set(task, "train")
    count = min(PROBED_ROWS, len(rows))
    with torch.random.fork_rng(devices=[]), torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.manual_seed(0)
        task.loss(task.model().eval(), rows.batch(list(range(count))))
    return int(counter.get_total_flops()) // count
