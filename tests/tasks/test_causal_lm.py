"""Pretrained causal language models from local files: small random ones of two families, whole and with LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.core.capture.cover import cover
from pipeline.core.projection import make
from pipeline.errors import DataError, TaskError
from pipeline.tasks.causal_lm import CausalLm, read_texts
from pipeline.tasks.checks import check_task, row_set

TEXTS = [{"prompt": f"the {animal} ", "completion": "sat on the mat", "group": animal} for animal in ("cat", "dog")]


def tokenizer() -> Any:
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<pad>", "<s>", "</s>"]
    pieces.train_from_iterator(["the cat sat on the mat"] * 5, trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def config(family: str, words: int) -> Any:
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    if family == "gpt2":
        return transformers.GPT2Config(vocab_size=words, n_positions=32, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0,
                                       embd_pdrop=0.0, attn_pdrop=0.0, **ends)  # fmt: skip
    return transformers.LlamaConfig(vocab_size=words, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                    num_attention_heads=2, max_position_embeddings=32, **ends)  # fmt: skip


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    transformers.utils.logging.disable_progress_bar()
    words = tokenizer()
    words.save_pretrained(directory)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config(request.param, len(words))).save_pretrained(directory)
    return directory


def causal_lm(weights: Path, texts: Path, **options: Any) -> CausalLm:
    texts.write_text("\n".join(json.dumps(text) for text in TEXTS))
    return CausalLm(weights, texts, texts, texts, **{"positions": 16, "epochs": 1, **options})


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_pretrained_model_is_a_task_and_its_gradients_are_those_of_autograd(
    weights: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    task = causal_lm(weights, tmp_path / "texts.jsonl", lora=lora)
    assert check_task(task).train == 2 and task.groups("train") == ["cat", "dog"]
    torch.manual_seed(0)
    model = task.model().double()
    with torch.no_grad():  # LoRA's second factor is zero at first, and so is the first one's gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora" in name for name in named) == (lora is not None)
    batch = row_set(task, "train").batch([0, 1])
    shapes = {name: tuple(parameter.shape) for name, parameter in named.items()}
    sketch = make("identity", shapes, 1, 0).sketch(2, torch.float64)
    coverage = cover(model, task.loss, tuple(named), batch)
    assert coverage.served == dict.fromkeys(named, "hooks")  # all that these families are made of
    coverage.engine.capture(batch, sketch)
    for row in range(2):
        loss = task.loss(model, row_set(task, "train").batch([row]))[0]
        own = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(named.values()))])
        assert torch.allclose(sketch.codes()[row], own, rtol=1e-9, atol=1e-10)


def test_training_lowers_the_loss_and_touches_only_the_factors(weights: Path, tmp_path: Path) -> None:
    task = causal_lm(weights, tmp_path / "texts.jsonl", lora={"r": 2}, epochs=5, rate=1e-2)
    torch.manual_seed(0)
    model = task.model()
    batch = row_set(task, "train").batch([0, 1])
    before = {name: value.clone() for name, value in model.state_dict().items()}, task.loss(model, batch).sum()
    task.train(model)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[0][name])]
    assert changed and all("lora" in name for name in changed)
    assert task.loss(model, batch).sum() < before[1]
    assert task.features(model, batch).shape == (2, 16)


def test_no_epochs_leave_the_weights(weights: Path, tmp_path: Path) -> None:
    task = causal_lm(weights, tmp_path / "texts.jsonl", epochs=0)
    model, other = task.model(), task.model()
    task.train(model)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_word_of_the_completion_is_a_query_of_its_own(weights: Path, tmp_path: Path) -> None:
    task = causal_lm(weights, tmp_path / "texts.jsonl")
    row = task.focus(task.query_rows()[0], "mat")
    shown = task._tokenizer.pieces(row["tokens"].tolist())
    assert "".join(shown[i] for i in row["counted"].nonzero().flatten()).strip() == "mat"
    assert task.show(row).text == "the cat sat on the mat"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "expected a text a line in"),
        ("{", "expected JSON at"),
        ('["completion"]', "expected a text at"),
        ('{"prompt": "x"}', "expected a text at"),
        ('{"completion": 3}', "expected a text at"),
        ('{"completion": "x", "answer": "y"}', "expected a text at"),
    ],
)
def test_lines_that_are_no_texts_are_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(DataError) as caught:
        read_texts(tmp_path / "x.jsonl")
    assert str(caught.value).startswith(said)


def test_weights_that_are_not_there_or_not_theirs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^expected a directory of weights at .*none, got nothing there; name one"):
        causal_lm(tmp_path / "none", tmp_path / "x.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^expected config.json, safetensors and a tokenizer in .*empty, got: "):
        causal_lm(tmp_path / "empty", tmp_path / "x.jsonl")


def test_pickled_weights_are_not_loaded(weights: Path, tmp_path: Path) -> None:
    for file in weights.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    task = causal_lm(tmp_path, tmp_path / "texts.jsonl")
    with pytest.raises(DataError, match=r"^expected config.json, safetensors and a tokenizer"):
        task.model()


def test_a_lora_that_does_not_fit_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"^expected lora to have r, lora_alpha, target_modules, got rank; mend"):
        causal_lm(weights, tmp_path / "texts.jsonl", lora={"rank": 2})
    with pytest.raises(TaskError, match=r"^expected a LoRA that fits the model, got .*; name layers of it"):
        causal_lm(weights, tmp_path / "texts.jsonl", lora={"target_modules": ["nothing"]}).model()
