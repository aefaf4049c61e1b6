"""What `lowland init` writes: a complete task file of a user's own, and the config that names it."""

from __future__ import annotations

TASK_TEMPLATE = '''"""My task: what Lowland is to explain. Replace data, model and loss by your own."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pipeline.tasks.base import Task


class MyTask(Task):
    def __init__(self, wrong: int = 40):  # every keyword is an option in the config: task.options.wrong
        data = load_digits()
        self.x = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)  # [1797, 1, 8, 8]
        self.y = torch.tensor(data.target)  # [1797]
        self.given = self.y[:800].clone()
        self.given[:wrong] = (self.given[:wrong] + 1) % 10  # wrong on purpose, to see them found

    def model(self):  # the architecture; the weights come from `train`, or from task.checkpoint in the config
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

    def train_rows(self):  # the rows that are judged: any dataset with len() and [i], exactly as the model saw them
        return TensorDataset(self.x[:800], self.given)

    def validation_rows(self):  # clean rows that the model was not trained on; a few hundred do
        return TensorDataset(self.x[800:1000], self.y[800:1000])

    def query_rows(self):  # rows whose predictions are to be explained
        return TensorDataset(self.x[1000:1050], self.y[1000:1050])

    def loss(self, model, batch):  # one value for each row, [B]: reduction="none", never a mean
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def logits(self, model, batch):  # classifiers only, [B, C]: switches relabelling on, together with `labels`
        return model(batch[0])

    @property
    def labels(self):  # the given label of each train row, in their order
        return self.given.tolist()

    def train(self, model):  # delete this when you bring weights; seeds are set before the call
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(60):
            for batch in DataLoader(self.train_rows(), 64, shuffle=True):  # these rows: evaluation retrains on some
                optimizer.zero_grad()
                self.loss(model, batch).mean().backward()
                optimizer.step()
            self.epoch_ended(model, 5e-3)  # TracIn: checkpoints.epochs in the config keeps weights here
'''

CONFIG_TEMPLATE = """# What differs from the defaults, which configs/default.yaml lists. `lowland run -c my.yaml`.

task:
  # Your file, relative to this one, and the class in it; or a built-in task, for example digits.
  class: my_task.py:MyTask
  # Keyword arguments of the class.
  # options: {wrong: 40}
  # Weights of your trained model (.safetensors, or .pt with a state dict). Without it the task's `train` makes them.
  # checkpoint: my_model.safetensors

# Seed of everything that is drawn.
# seed: 0

# Numbers kept of each gradient: more is more faithful and takes more disk.
# projection: {dimension: 1024}
"""


def task_template() -> str:
    """The text of my_task.py: a small CNN on digits, some of them labelled wrongly."""
    return TASK_TEMPLATE


def config_template() -> str:
    """The text of the config that names my_task.py:MyTask."""
    return CONFIG_TEMPLATE
