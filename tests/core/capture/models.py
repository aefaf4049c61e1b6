"""Tiny models with batches and losses: the table that every engine is held to. All in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 5


@dataclass(frozen=True)
class Problem:
    """A model, its loss and a batch, and the parameters that hooks are not expected to serve."""

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    batch: Any
    functional: tuple[str, ...] = ()


def classify(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def token_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean over the unmasked positions of a row."""
    losses = F.cross_entropy(model(batch["tokens"]).transpose(1, 2), batch["targets"], reduction="none")
    return (losses * batch["mask"]).sum(1) / batch["mask"].sum(1)


def labels(classes: int = 3) -> Tensor:
    return torch.randint(0, classes, (ROWS,))


def tokens(words: int = 7, length: int = 4) -> dict[str, Tensor]:
    mask = torch.ones(ROWS, length, dtype=torch.float64)
    mask[1, 2:] = 0
    draw = [torch.randint(0, words, (ROWS, length)) for _ in range(2)]
    return {"tokens": draw[0], "targets": draw[1], "mask": mask}


def mlp() -> Problem:
    return Problem(
        nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), classify, (torch.randn(ROWS, 6), labels())
    )


def mlp_inplace() -> Problem:
    model = nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)
    )
    return Problem(model, classify, [torch.randn(ROWS, 6), labels()])


def dropout_and_unused() -> Problem:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.GELU(), nn.Linear(5, 3))
            self.unused = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    return Problem(Net(), classify, (torch.randn(ROWS, 6), labels()))


def regression() -> Problem:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch["inputs"]["x"]) - batch["y"]).square().sum(1)

    batch = {"inputs": {"x": torch.randn(ROWS, 4)}, "y": torch.randn(ROWS, 2), "weight": torch.tensor(1.0)}
    return Problem(nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)), loss, batch)


def conv(
    first: nn.Module, *rest: nn.Module, size: tuple[int, ...] = (4, 7, 6), functional: tuple[str, ...] = ()
) -> Problem:
    model = nn.Sequential(first, *rest, nn.Flatten(2))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]).square() * batch[1][:, None, None]).mean((1, 2))

    return Problem(model, loss, (torch.randn(ROWS, *size), torch.rand(ROWS)), functional)


def norms() -> Problem:
    batch_norm = nn.BatchNorm2d(6)
    batch_norm.running_mean.normal_()
    batch_norm.running_var.uniform_(0.5, 2)
    tail = [nn.ReLU(inplace=True), nn.GroupNorm(3, 6), nn.Conv2d(6, 4, 2), nn.LayerNorm((4, 4, 3)), nn.Tanh()]
    problem = conv(nn.Conv2d(4, 6, 3), batch_norm, *tail)
    for parameter in problem.model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return problem


def batch_norm_1d() -> Problem:
    norm = nn.BatchNorm1d(5)
    norm.running_mean.normal_()
    return Problem(
        nn.Sequential(nn.Linear(6, 5), norm, nn.ReLU(), nn.Linear(5, 3)), classify, (torch.randn(ROWS, 6), labels())
    )


def batch_norm_3d() -> Problem:
    norm = nn.BatchNorm3d(3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    layers = [nn.Conv3d(2, 3, (2, 1, 2), stride=(1, 2, 1), padding=1), norm, nn.Tanh(), nn.Conv3d(3, 6, 2, groups=3)]
    names = ("0.weight", "0.bias", "3.weight", "3.bias")
    return conv(*layers, size=(2, 3, 5, 3), functional=names)


def transposed_conv() -> Problem:
    first = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    return conv(first, nn.Tanh(), nn.ConvTranspose2d(6, 2, 2, dilation=2), functional=names)


def bags() -> Problem:
    """Bags of a row's words, and of all rows' words in one line with the places where each row begins."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.sum = nn.EmbeddingBag(7, 6), nn.EmbeddingBag(7, 6, mode="sum", padding_idx=0)
            self.head = nn.Linear(6, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            first = torch.arange(0, tokens.numel(), tokens.shape[1])
            return self.head((self.mean(tokens) * self.sum(tokens.flatten(), first)).tanh())

    return Problem(Net(), classify, (torch.randint(7, (ROWS, 4)), labels()), ("mean.weight", "sum.weight"))


class TinyLM(nn.Module):
    """Word and position embeddings, a residual block on [B, T, D], a head that may share the words' weights."""

    def __init__(self, tied: bool, direct: bool = False, padding: int | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6, padding_idx=padding)
        self.positions = nn.Embedding(4, 6)
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.scale = nn.RMSNorm(6)
        self.direct = direct
        self.head = None if direct else nn.Linear(6, 7, bias=False)
        if tied and self.head is not None:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.scale(x + self.down(F.gelu(self.up(self.norm(x)))))
        return F.linear(x, self.words.weight) if self.head is None else self.head(x)


class Conv1D(nn.Module):
    """A linear layer with its weight as [I, O], as in the `transformers` library."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def hf_conv1d() -> Problem:
    model = nn.Sequential(Conv1D(5, 6), nn.GELU(), Conv1D(5, 5), nn.Flatten(), nn.Linear(15, 3))
    return Problem(model, classify, (torch.randn(ROWS, 3, 6), labels()))


class NarrowNorm(nn.Module):
    """RMSNorm as the Llama of the `transformers` library has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.randn(width)), 1e-2

    def forward(self, x: Tensor) -> Tensor:
        narrow = x.to(torch.float32)
        scale = torch.rsqrt(narrow.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (narrow * scale).to(x.dtype)


def hf_rms_norm() -> Problem:
    model = nn.Sequential(nn.Linear(6, 5), NarrowNorm(5), nn.GELU(), nn.Flatten(), nn.Linear(15, 3))
    return Problem(model, classify, (torch.randn(ROWS, 3, 6), labels()))


def used_twice() -> Problem:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.shared(torch.tanh(self.shared(input=x)))))

    return Problem(Net(), classify, (torch.randn(ROWS, 6), labels()))


def flattened_positions() -> Problem:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frame, self.norm, self.head = (nn.Conv2d(1, 2, 3), nn.LayerNorm(2), nn.Linear(2, 3))

        def forward(self, video: Tensor) -> Tensor:  # [B, F, 1, H, W]
            x = self.frame(video.flatten(0, 1)).mean((2, 3))  # [B F, 2]
            return self.head(self.norm(x)).view(video.shape[0], -1, 3).mean(1)

    return Problem(Net(), classify, (torch.randn(ROWS, 3, 1, 4, 4), labels()))


def attention() -> Problem:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 6))
            self.block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.3)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))[:, 0])

    return Problem(Net(), classify, (torch.randn(ROWS, 3, 6), labels()), ("token",))


def cross_attention() -> Problem:
    """Queries, keys and values from two places, batch second, with both masks; keys of their own width; weights used."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.packed = nn.MultiheadAttention(6, 2)
            self.apart = nn.MultiheadAttention(6, 3, kdim=4, vdim=5, batch_first=True, bias=False)
            self.mixed = nn.MultiheadAttention(6, 1, kdim=4, vdim=4, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:  # [B, 4, 6]
            steps = x.transpose(0, 1)
            causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
            padding = torch.zeros(x.shape[0], 4, dtype=torch.bool)
            padding[:, 3] = True
            first, weights = self.packed(steps, steps.flip(0), steps.tanh(), padding, attn_mask=causal)
            each = torch.zeros(3 * x.shape[0], 4, 4, dtype=x.dtype)
            second = self.apart(x, x[..., :4], x[..., 1:], need_weights=False, attn_mask=each)[0]
            third, per_head = self.mixed(x, x[..., :4], x[..., :4], average_attn_weights=False)
            mixed = first.transpose(0, 1) + second + third
            return self.head(mixed.mean(1)) * weights[:, 0, :1] + per_head.square().mean((1, 2, 3)).unsqueeze(1)

    return Problem(Net(), classify, (torch.randn(ROWS, 4, 6), labels()))


def appended_keys() -> Problem:
    """Attention with learned keys appended, which is left to the functional engine."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(6, 2, add_bias_kv=True, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0].mean(1))

    names = ["in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "out_proj.weight", "out_proj.bias"]
    return Problem(Net(), classify, (torch.randn(ROWS, 3, 6), labels()), tuple("attention." + n for n in names))


def decoder() -> Problem:
    """A decoder layer: causal self-attention and attention to a memory, batch second, norms first."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.TransformerDecoderLayer(6, 2, 8, norm_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            steps = x.transpose(0, 1)
            mask = nn.Transformer.generate_square_subsequent_mask(3, dtype=x.dtype)
            return self.head(self.block(steps, steps.cos(), tgt_mask=mask, tgt_is_causal=True).mean(0))

    return Problem(Net(), classify, (torch.randn(ROWS, 3, 6), labels()))


def lora() -> Problem:
    """Low-rank pairs beside linear layers, one of them zero at the start, and beside a convolution and an embedding."""

    class Pair(nn.Module):
        def __init__(self, base: nn.Module, first: nn.Module, second: nn.Module) -> None:
            super().__init__()
            self.base, self.lora_A, self.lora_B = base, first, second

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + 2.0 * self.lora_B(self.lora_A(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = Pair(nn.Embedding(7, 6), nn.Embedding(7, 2), nn.Linear(2, 6, bias=False))
            self.layer = Pair(nn.Linear(6, 5), nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False))
            self.conv = Pair(nn.Conv1d(5, 4, 3, padding=1), nn.Conv1d(5, 2, 3, padding=1), nn.Conv1d(2, 4, 1))
            self.head = nn.Linear(4, 3)
            nn.init.zeros_(self.layer.lora_B.weight)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.layer(self.words(tokens)).tanh()
            return self.head(self.conv(x.mT).mean(2))

    return Problem(Net(), classify, (torch.randint(7, (ROWS, 4)), labels()))


def sequence_first() -> Problem:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = (nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.norm(self.a(x.transpose(0, 1)).tanh())).mean(0)

    return Problem(Net(), classify, (torch.randn(ROWS, 2 * ROWS, 6), labels()))


def recurrent(kind: type[nn.RNNBase]) -> Problem:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = kind(4, 3, batch_first=True), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recurrent(x)[0][:, -1])

    names = tuple("recurrent." + n for n in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))
    return Problem(Net(), classify, (torch.randn(ROWS, 3, 4), labels()), names)


def data_dependent() -> Problem:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.rand(6))
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            rows = [row * self.gain if row.sum().item() > 0 else row * self.gain**2 for row in x]
            return self.head(torch.stack(rows))

    return Problem(Net(), classify, (torch.randn(ROWS, 6), labels()), ("gain",))


def zero_start() -> Problem:
    """A low-rank pair whose second factor is zero: the first one's gradient vanishes, and must not pass for checked."""
    model = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 3, bias=False))
    nn.init.zeros_(model[1].weight)
    return Problem(model, classify, (torch.randn(ROWS, 6), labels()))


def weight_norm() -> Problem:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))
    names = ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1")
    return Problem(nn.Sequential(layer), classify, (torch.randn(ROWS, 6), labels()), names)


def _language_model(**options: Any) -> Problem:
    functional = ("words.weight",) if options.get("direct") else ()
    return Problem(TinyLM(**options), token_loss, tokens(), functional)


TABLE: dict[str, Callable[[], Problem]] = {
    "mlp": mlp,
    "in-place": mlp_inplace,
    "dropout, unused": dropout_and_unused,
    "regression, dicts": regression,
    "conv": lambda: conv(nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 2, 2)),
    "conv groups": lambda: conv(
        nn.Conv2d(4, 6, 3, groups=2, padding="same", dilation=2), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=6)
    ),
    "conv circular": lambda: conv(nn.Conv2d(4, 3, 3, padding=(2, 1), padding_mode="circular"), nn.Tanh()),
    "conv same, even": lambda: conv(nn.Conv2d(4, 3, (4, 2), padding="same", padding_mode="reflect"), nn.Tanh()),
    "conv 1-D": lambda: conv(
        nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2),
        nn.Tanh(),
        nn.Conv1d(6, 4, 2, groups=2, padding="valid"),
        size=(4, 12),
    ),
    "conv transposed": transposed_conv,
    "norms": norms,
    "batch norm 1-D": batch_norm_1d,
    "conv and batch norm 3-D": batch_norm_3d,
    "bags": bags,
    "language model": lambda: _language_model(tied=False, padding=0),
    "language model, tied": lambda: _language_model(tied=True),
    "language model, tied directly": lambda: _language_model(tied=True, direct=True),
    "HF Conv1D": hf_conv1d,
    "HF RMSNorm": hf_rms_norm,
    "used twice": used_twice,
    "flattened positions": flattened_positions,
    "attention": attention,
    "cross attention": cross_attention,
    "appended keys": appended_keys,
    "decoder": decoder,
    "LoRA": lora,
    "sequence first": sequence_first,
    "LSTM": lambda: recurrent(nn.LSTM),
    "GRU": lambda: recurrent(nn.GRU),
    "data-dependent": data_dependent,
    "zero at the start": zero_start,
    "weight norm": weight_norm,
}


def problem(name: str) -> Problem:
    """A problem of the table, the same each time."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return TABLE[name]()
    finally:
        torch.set_default_dtype(default)
