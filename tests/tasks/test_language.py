"""Language-model tasks: rows of tokens, the loss that counts completions only, and parts of a completion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import DataError, TaskError
from pipeline.tasks.checks import check_task, row_set
from pipeline.tasks.language import Characters, Text, Words, row_of, token_losses
from pipeline.tasks.load import load
from pipeline.tasks.models import LanguageModel
from pipeline.tasks.plain_sentences import plain_texts
from pipeline.tasks.spans import narrowed
from pipeline.tasks.transformations import TRANSFORMATIONS, SentenceTransformations
from pipeline.tasks.word_problems import KINDS, WordProblems

SMALL = {"train_each": 3, "validation_each": 1, "query_each": 1, "plain_epochs": 0, "epochs": 1, "width": 8}


def test_a_row_counts_the_completion_and_its_end() -> None:
    letters = Characters(["abc"])
    row = row_of(Text("ab", "c"), letters, 7)
    assert row["tokens"].tolist() == [2, 4, 5, 6, 3, 0, 0]
    assert row["counted"].tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert "".join(letters.pieces(row["tokens"].tolist())) == "abc"
    assert row["prompt"] == 3  # with the start


def test_a_whole_text_counts_all_but_its_start() -> None:
    row = row_of(Text("ab", "c"), Characters(["abc"]), 7, "text")
    assert row["counted"].tolist() == [0, 1, 1, 1, 1, 0, 0]
    assert row["prompt"] == 3


def test_a_text_that_is_too_long_is_cut_and_a_prompt_that_is_too_long_is_refused() -> None:
    letters = Characters(["abc"])
    assert row_of(Text("ab", "ccccc"), letters, 5)["counted"].tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(DataError, match=r"^expected a prompt and some of its completion within 3 tokens, got .* of 3;"):
        row_of(Text("ab", "c"), letters, 3)


def test_the_loss_is_the_sum_over_counted_tokens_of_what_the_model_says_of_them() -> None:
    torch.manual_seed(0)
    batch = {"tokens": torch.randint(5, (2, 4)), "counted": torch.tensor([[0, 1.0, 0, 1], [0, 0, 1, 0]])}
    logits = torch.randn(2, 4, 5, dtype=torch.float64)
    said = logits.log_softmax(-1)
    expected = [
        -said[0, 0, batch["tokens"][0, 1]] - said[0, 2, batch["tokens"][0, 3]],
        -said[1, 1, batch["tokens"][1, 2]],
    ]
    assert torch.allclose(token_losses(logits, batch).sum(1), torch.stack(expected))


def test_no_position_sees_a_later_one() -> None:
    torch.manual_seed(0)
    model = LanguageModel(9, 6, 8).double()
    tokens = torch.randint(9, (1, 6))
    other = tokens.clone()
    other[0, 4] = (other[0, 4] + 1) % 9
    before, after = model(tokens), model(other)
    assert torch.allclose(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4:], after[:, 4:])


def test_words_are_small_letters_and_unknown_ones_are_seen_to_be() -> None:
    words = Words(["The cat, the cat!", "a dog, a dog!"], 3)
    tokens = words.encode("The unicorn, a cat")
    assert len(words) == 7 and len(tokens) == 5
    assert "".join(words.pieces(tokens)).count(words.unknown) == 3  # three of six words are known, and none that is cut


def part(text: str, of: str, prompt: str = "ab", counts: str = "completion") -> str:
    letters = Characters([prompt + of])
    row = row_of(Text(prompt, of), letters, 30, counts)
    pieces = letters.pieces(row["tokens"].tolist())
    found = narrowed(row, text, pieces)["counted"].nonzero().flatten().tolist()
    return "".join(pieces[place] for place in found) + f"@{found[0] - len(prompt) - 1}"


def test_a_part_of_the_completion_is_found_by_its_text_or_its_place() -> None:
    assert part("cat", "the cat sat") == "cat@4"
    assert part("ab", "xx ab yy ab") == "ab@3"  # the prompt is no part of it, and the first one counts
    assert part("4:7", "the cat sat") == "cat@4"


def test_a_part_of_a_whole_text_is_one_of_its_completion_if_it_is_there() -> None:
    assert part("ab", "xx ab yy", counts="text") == "ab@3"
    assert part("ab", "xx yy", counts="text") == "ab@-2"  # in the prompt
    assert part("0:2", "xx yy", counts="text") == "xx@0"  # places are those of the completion


@pytest.mark.parametrize("text", ["dog", "20:30", "3:3", ""])
def test_a_part_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"^expected a part of the completion 'the cat', or its tokens as 0:8, got"):
        part(text, "the cat")


def test_a_token_that_holds_some_of_the_part_counts_whole() -> None:
    row = {"tokens": torch.arange(4), "counted": torch.tensor([0, 1.0, 1, 1]), "prompt": torch.tensor(1)}
    assert narrowed(row, "ts", ["x", "ca", "ts", " run"])["counted"].tolist() == [0, 0, 1, 0]
    assert narrowed(row, "ats", ["x", "ca", "ts", " run"])["counted"].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("cls", [SentenceTransformations, WordProblems])
def test_made_texts_are_as_many_of_each_group_and_all_different(cls: type) -> None:
    task = cls(**SMALL)
    parts = {split: row_set(task, split) for split in ("train", "validation", "query")}
    assert [len(rows) for rows in parts.values()] == [30, 10, 10]
    assert check_task(task).query == 10
    digests = [rows.digest(i) for rows in parts.values() for i in range(len(rows))]
    assert len(set(digests)) == 50
    assert sorted(set(task.groups("train"))) == sorted(cls.names()) and len(task.groups("query")) == 10
    assert [row_set(cls(**SMALL), "train").digest(i) for i in range(30)] == digests[:30]
    assert row_set(cls(**SMALL, seed=1), "train").digest(0) not in digests


def test_the_sentences_of_each_transformation_are_the_same_and_those_asked_about_are_no_train_rows() -> None:
    splits = SentenceTransformations(**{**SMALL, "train_each": 40})._splits
    told = [{name: [t.prompt.partition(": ")[2] for t in part if t.group == name] for name in TRANSFORMATIONS}
            for part in (splits.train, splits.query)]  # fmt: skip
    for groups in told:
        assert all(own == groups["reverse the words"] for own in groups.values())
    assert not set(told[0]["reverse the words"]) & set(told[1]["reverse the words"])


def test_plain_texts_are_full_of_sentences() -> None:
    texts = plain_texts(3, 100, 0)
    assert {len(text.completion) for text in texts} == {100} and len(set(texts)) == 3
    assert all(len(whole.split()) == 4 for text in texts for whole in text.completion.split(". ")[:-1])
    assert plain_texts(3, 100, 0) == texts != plain_texts(3, 100, 1)


def test_plain_sentences_are_learnt_before_the_texts() -> None:
    options = {**SMALL, "plain_texts": 40, "plain_epochs": 4, "width": 16}
    task = SentenceTransformations(**options)
    plain = row_set(task._plain, "train").batch(range(40))
    losses = []
    for epochs in (0, 4):
        torch.manual_seed(0)
        task = SentenceTransformations(**{**options, "plain_epochs": epochs})
        model, told = task.model(), []
        task.epoch_ended = lambda _, rate, told=told: told.append(rate)  # type: ignore[method-assign]
        task.train(model)
        losses.append(float(task.loss(model, plain).mean().detach()))
        assert told == [3e-4]  # epochs of the task's own training only
    assert losses[1] < 0.9 * losses[0]


def test_what_counts_is_a_text_or_a_completion() -> None:
    whole, alone = (row_set(WordProblems(**SMALL, counts=c), "train").batch([0])["counted"].sum()
                    for c in ("text", "completion"))  # fmt: skip
    assert whole > alone
    with pytest.raises(TaskError, match=r"^expected counts to be completion or text, got 'prompt'; mend task.options"):
        WordProblems(**SMALL, counts="prompt")


def test_made_texts_fit_their_positions() -> None:
    for cls in (SentenceTransformations, WordProblems):
        rows = cls(**SMALL).train_rows()
        assert all(bool((rows[i]["tokens"] == 3).any()) for i in range(len(rows)))


def test_what_the_texts_say_is_true() -> None:
    assert {name: change("a boat") for name, change in TRANSFORMATIONS.items()} == {
        "reverse the words": "boat a",
        "capitals at every other letter": "a bOaT",
        "put 1 between the words": "a 1 boat",
        "stars for vowels": "* b**t",
        "double the consonants": "a bboatt",
        "begin each word with a capital": "A Boat",
        "leave out the vowels": " bt",
        "add ly to each word": "aly boatly",
        "leave out the consonants": "a oa",
        "say each word twice": "a a boat boat",
    }
    task = WordProblems(**SMALL)
    for text in task.train_rows().texts:
        for equation in text.completion.split(", "):
            left, right = equation.split(" = ")
            assert eval(left) == int(right), text
    assert len(KINDS) == 10


def test_too_many_texts_of_a_group_are_refused() -> None:
    with pytest.raises(DataError, match=r"^expected 500 different texts of 'area', got \d+; ask for fewer"):
        WordProblems._drawn(WordProblems.__new__(WordProblems), "area", 500, 0)


def test_a_decoder_learns() -> None:
    task = SentenceTransformations(**{**SMALL, "epochs": 30, "rate": 2e-3, "width": 16})
    torch.manual_seed(0)
    model = task.model()
    batch = row_set(task, "train").batch(range(30))
    before = task.loss(model, batch).mean()
    task.train(model)
    assert task.loss(model, batch).mean() < 0.9 * before


def test_features_are_the_mean_state_of_a_text_without_its_padding() -> None:
    task = SentenceTransformations(**SMALL)
    model = task.model()
    batch = row_set(task, "train").batch(range(3))
    lengths = (batch["tokens"] == 3).float().argmax(1) + 1
    states = model.states(batch["tokens"])
    expected = torch.stack([own[:length].mean(0) for own, length in zip(states, lengths.tolist(), strict=True)])
    assert torch.allclose(task.features(model, batch), expected, atol=1e-6)


def test_a_prompt_and_its_completion_are_read_from_a_file(tmp_path: Path) -> None:
    task = SentenceTransformations(**SMALL, counts="completion")
    (tmp_path / "p.json").write_text(json.dumps({"prompt": "the ", "completion": "boat"}))
    (tmp_path / "p.txt").write_text("the boat\n")
    whole, alone = task.read(tmp_path / "p.json", None), task.read(tmp_path / "p.txt", None)
    assert task.show(whole).text == task.show(alone).text == "the boat"
    assert (whole["counted"].sum(), alone["counted"].sum()) == (5, 9)
    assert task.read(tmp_path / "p.txt", " sails")["counted"].sum() == 7


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.png", "", "expected a .txt file, or a .json file"),
        ("x.json", "{", "expected JSON in"),
        ("x.json", "[]", 'expected {"prompt": "...", "completion": "..."} in'),
        ("x.json", '{"prompt": 1, "completion": ""}', 'expected {"prompt": "...", "completion": "..."} in'),
    ],
)
def test_a_file_that_holds_no_text_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        SentenceTransformations(**SMALL).read(tmp_path / name, None)
    assert str(caught.value).startswith(said)


def test_the_tasks_load_by_name() -> None:
    assert isinstance(load("word_problems", SMALL, Path()), WordProblems)
