"""Two tasks that are no classifiers, small enough to run through everything in a second.

They show that a task of another kind needs nothing outside its own file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pipeline.tasks.base import Batch, Row, Shown, Task


class Regression(Task):
    """Progression of diabetes from ten measurements (scikit-learn); squared error."""

    def __init__(self, rows: int = 60) -> None:
        from sklearn.datasets import load_diabetes

        data = load_diabetes()
        target = (data.target - data.target.mean()) / data.target.std()
        x = torch.tensor(data.data * 20, dtype=torch.float32)  # unit variance
        y = torch.tensor(target, dtype=torch.float32).unsqueeze(1)
        self.parts = [TensorDataset(x[a:b], y[a:b]) for a, b in ((0, rows), (rows, rows + 30), (rows + 30, rows + 40))]

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))

    def train_rows(self) -> TensorDataset:
        return self.parts[0]

    def validation_rows(self) -> TensorDataset:
        return self.parts[1]

    def query_rows(self) -> TensorDataset:
        return self.parts[2]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return (model(x) - y).square().sum(1)

    def train(self, model: nn.Module) -> None:
        x, y = self.parts[0].tensors
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        for _ in range(150):
            optimizer.zero_grad()
            self.loss(model, (x, y)).mean().backward()
            optimizer.step()


PROVERBS = [
    "a stitch in time saves nine",
    "a rolling stone gathers no moss",
    "actions speak louder than words",
    "all that glitters is not gold",
    "an apple a day keeps the doctor away",
    "a watched pot never boils",
    "absence makes the heart grow fonder",
    "all roads lead to rome",
    "as you sow so shall you reap",
    "bad news travels fast",
    "barking dogs seldom bite",
    "beauty is only skin deep",
    "beggars cannot be choosers",
    "better late than never",
    "birds of a feather flock together",
    "blood is thicker than water",
    "brevity is the soul of wit",
    "curiosity killed the cat",
    "do not cry over spilt milk",
    "early to bed and early to rise",
    "easy come easy go",
    "every cloud has a silver lining",
    "every dog has its day",
    "fools rush in where angels fear to tread",
    "fortune favours the bold",
    "great oaks from little acorns grow",
    "half a loaf is better than none",
    "haste makes waste",
    "honesty is the best policy",
    "hope springs eternal",
    "it never rains but it pours",
    "it takes two to tango",
    "knowledge is power",
    "laughter is the best medicine",
    "let sleeping dogs lie",
    "look before you leap",
    "make hay while the sun shines",
    "many hands make light work",
    "necessity is the mother of invention",
    "no man is an island",
    "no news is good news",
    "one swallow does not make a summer",
    "out of sight out of mind",
    "practice makes perfect",
    "rome was not built in a day",
    "silence is golden",
    "still waters run deep",
    "the early bird catches the worm",
    "the pen is mightier than the sword",
    "time and tide wait for no man",
    "too many cooks spoil the broth",
    "two heads are better than one",
    "when in rome do as the romans do",
    "where there is smoke there is fire",
    "you cannot teach an old dog new tricks",
]

LETTERS = " abcdefghijklmnopqrstuvwxyz"
END = len(LETTERS) + 1  # 0 pads


class CausalModel(nn.Module):
    """One block of causal attention over letters; about 4,000 parameters."""

    def __init__(self, positions: int, width: int = 16) -> None:
        super().__init__()
        self.letter, self.position = nn.Embedding(END + 1, width), nn.Embedding(positions, width)
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, width))
        self.head = nn.Linear(width, END + 1)
        self.register_buffer("future", torch.full((positions, positions), -1e9).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] to [B, T, V]."""
        x = self.letter(tokens) + self.position(torch.arange(tokens.shape[1]).expand_as(tokens))
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + self.future).softmax(-1) @ v)
        return self.head(x + self.mlp(x))


class TinyLanguageModel(Task):
    """Proverbs letter by letter; the loss of a row is the sum, or the mean, over its letters, padding left out."""

    def __init__(self, reduction: str = "sum", positions: int = 24, epochs: int = 40) -> None:
        self.reduction, self.positions, self.epochs = reduction, positions, epochs

    def model(self) -> nn.Module:
        return CausalModel(self.positions)

    def rows(self, texts: list[str]) -> list[Row]:
        return [{"tokens": self.encode(text), "text_length": len(text)} for text in texts]

    def encode(self, text: str) -> Tensor:
        numbers = [*[LETTERS.index(letter) + 1 for letter in text][: self.positions], END]
        return torch.tensor((numbers + [0] * self.positions)[: self.positions + 1])

    def train_rows(self) -> list[Row]:
        return self.rows(PROVERBS[:40])

    def validation_rows(self) -> list[Row]:
        return self.rows(PROVERBS[40:50])

    def query_rows(self) -> list[Row]:
        return self.rows(PROVERBS[50:])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        tokens, following = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        losses = F.cross_entropy(model(tokens).transpose(1, 2), following, reduction="none")  # [B, T]
        mask = (following != 0).to(losses.dtype)
        total = (losses * mask).sum(1)
        return total if self.reduction == "sum" else total / mask.sum(1)

    def train(self, model: nn.Module) -> None:
        batch = self.collate(self.train_rows())
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        for _ in range(self.epochs):
            optimizer.zero_grad()
            self.loss(model, batch).mean().backward()
            optimizer.step()

    def show(self, row: Row) -> Shown:
        return Shown(text="".join(LETTERS[i - 1] for i in row["tokens"].tolist() if 0 < i < END))
