"""A causal language model of the `transformers` library with local weights, whole or with LoRA: the task `causal_lm`.

The model and its tokenizer are read from a directory; nothing is fetched, and no code that lies beside the weights is
run. Texts come from JSON lines with "prompt", "completion" and, where retrieval is to be evaluated, "group".
LoRA (Hu et al., arXiv 2106.09685) is that of `peft`: only its factors learn, and only they are attributed.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import DataError, TaskError
from pipeline.tasks.base import Batch
from pipeline.tasks.language import COUNTS, Language, Text, TextSplits
from pipeline.tasks.options import whole
from pipeline.tasks.training import Recipe

REQUIREMENT = "pip install 'lowland[language]'"
LORA = {"r": 8, "lora_alpha": 32, "target_modules": None}
"""Options of a LoRA and DataInf's values of them; target_modules null: the layers that `peft` knows of the model."""


class PretrainedTokenizer:
    """The tokenizer of a pretrained model."""

    def __init__(self, tokenizer: Any) -> None:
        """A tokenizer of `transformers`."""
        self._tokenizer = tokenizer
        self.end = next(number for number in (tokenizer.eos_token_id, tokenizer.sep_token_id, 0) if number is not None)
        self.start = self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.padding = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def __len__(self) -> int:
        """V."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Its tokens, without start and end."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token alone."""
        return [str(self._tokenizer.decode([token], skip_special_tokens=True)) for token in tokens]


class CausalLm(Language):
    """A pretrained model on texts of yours.

    Options:
        model: directory with config.json, safetensors and the tokenizer's files, or a .gguf file.
        train, validation, query: .jsonl files, one {"prompt", "completion", "group"} a line; only "completion" must be
            there.
        positions: T; longer texts are cut.
        counts: what the loss counts: `completion`, given its prompt, or `text`, the prompt too.
        lora: null to attribute all parameters, or {r: 8, lora_alpha: 32, target_modules: [q_proj, v_proj]}.
        epochs, rate, batch_rows: of the training, where the config names no task.checkpoint; epochs 0: the weights as
            they are.
    """

    def __init__(
        self,
        model: Path,
        train: Path,
        validation: Path,
        query: Path,
        positions: int = 128,
        lora: Mapping[str, Any] | None = None,
        epochs: int = 3,
        rate: float = 3e-4,
        batch_rows: int = 8,
        counts: str = COUNTS[0],
    ) -> None:
        """Options: see the class."""
        self._weights, self._files = Path(model), [Path(file) for file in (train, validation, query)]
        self._lora = None if lora is None else _lora(lora)
        tokenizer = PretrainedTokenizer(_loaded("AutoTokenizer", self._weights))
        recipe = Recipe(
            whole("epochs", epochs, 0), rate=rate, optimizer="adamw", batch_rows=whole("batch_rows", batch_rows)
        )
        splits = TextSplits(*(read_texts(file) for file in self._files))
        super().__init__(splits, tokenizer, whole("positions", positions, 2), recipe, counts)

    def model(self) -> nn.Module:
        """The pretrained model, with new LoRA factors where they are asked for."""
        # eager attention: plain products, no fused kernel that another machine might not have
        model: nn.Module = _loaded(
            "AutoModelForCausalLM", self._weights, attn_implementation="eager", dtype=torch.float32
        )
        if self._lora is not None:
            model = _with_lora(model, self._lora)
        return model.eval()

    def next_words(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Logits, [B, T, V]; padding stands behind the text, where no counted token sees it."""
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
        return logits

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean of the last hidden states over a text, [B, D]."""
        states = model(input_ids=batch["tokens"], use_cache=False, output_hidden_states=True).hidden_states[-1]
        return self.mean_state(states, batch["tokens"])

    def train(self, model: nn.Module) -> None:
        """Train, or leave the weights as they are for no epochs."""
        if self._recipe.epochs:
            super().train(model)

    def sources(self) -> list[str | Path]:
        """The texts; the weights are the model's."""
        return list(self._files)


def read_texts(path: Path) -> list[Text]:
    """The texts of a .jsonl file.

    Raises:
        DataError: no such file, no texts, or a line that is no text.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected texts in UTF-8 at {path}, got {error}; check the path") from error
    texts = [_text(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise DataError(f"expected a text a line in {path}, got none; write one")
    return texts


def _text(line: str, where: str) -> Text:
    advice = 'write {"prompt": "...", "completion": "...", "group": "..."}, of which "completion" is needed'
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"expected JSON at {where}, got {error}; {advice}") from error
    known = {"prompt": "", "group": ""} | (fields if isinstance(fields, dict) else {})
    if set(known) != {"prompt", "completion", "group"} or not all(isinstance(part, str) for part in known.values()):
        raise DataError(f"expected a text at {where}, got {line[:60]!r}; {advice}")
    return Text(known["prompt"], known["completion"], known["group"])


def _library(name: str) -> Any:

    try:
        return importlib.import_module(name)  # optional, and seconds of import: only this task needs them
    except ImportError as error:
        raise DataError(f"expected the package {name} for the task causal_lm, got {error}; {REQUIREMENT}") from error


def _loaded(kind: str, path: Path, **options: Any) -> Any:
    """A model or tokenizer from local files."""
    transformers = _library("transformers")
    transformers.utils.logging.disable_progress_bar()  # tasks print nothing
    if path.suffix == ".gguf":
        path, options = path.parent, {**options, "gguf_file": path.name}
    elif "Model" in kind:
        options["use_safetensors"] = True
    if not path.is_dir():
        raise DataError(f"expected a directory of weights at {path}, got nothing there; name one in task.options.model")
    try:
        return getattr(transformers, kind).from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, **options
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"expected config.json, safetensors and a tokenizer in {path}, got: {first}; save them there with "
            "save_pretrained"
        ) from error


def _lora(options: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(options) - set(LORA)
    if unknown:
        raise TaskError(f"expected lora to have {', '.join(LORA)}, got {', '.join(sorted(unknown))}; mend task.options")
    return {**LORA, **options}


def _with_lora(model: nn.Module, options: dict[str, Any]) -> nn.Module:
    peft = _library("peft")
    try:
        config = peft.LoraConfig(**options, lora_dropout=0.0, task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says how it adapts itself to layers that keep their weights transposed
            adapted: nn.Module = peft.get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise TaskError(
            f"expected a LoRA that fits the model, got {error}; name layers of it in lora.target_modules"
        ) from error
    return adapted
