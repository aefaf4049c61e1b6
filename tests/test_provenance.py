"""Digests: what counts as a change of a value, a file or the code behind a stage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import provenance
from pipeline.provenance import digest_bytes, digest_code, digest_file, digest_value

STEP = '''"""A step."""
from toy.core import double


def run(x):
    """Run it."""
    return double(x) + 1  # one more
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `toy`: toy.step imports toy.core, which imports toy.deep lazily; toy.other stands alone."""
    root = tmp_path / "toy"
    root.mkdir()
    write(root / "__init__.py", '"""Toy."""\n')
    write(root / "step.py", STEP)
    write(root / "core.py", "def double(x):\n    from toy import deep\n    return deep.TWO * x\n")
    write(root / "deep.py", "TWO = 2\n")
    write(root / "other.py", "import toy.step\nx = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", root)
    return root


def write(path: Path, text: str) -> None:
    """Write with a time that differs from the last: the digest of an unchanged file is remembered."""
    before = path.stat().st_mtime_ns if path.exists() else 10**18
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before + 10**9, before + 10**9))


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    write(path, text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A step."""', '"""A step, explained."""'),
        ('    """Run it."""\n', '    """Run it.\n\n    At length.\n    """\n'),
        ('    """Run it."""\n', ""),
        ("  # one more", "  # and one"),
        ("def run", "\n\n\n# a comment\ndef run"),
        ("double(x) + 1", "(double(x)\n            + 1)"),
    ],
)
def test_docstrings_comments_and_layout_do_not_count(package, old, new):
    before = digest_code([package / "step.py"])
    edited(package / "step.py", old, new)
    assert digest_code([package / "step.py"]) == before


@pytest.mark.parametrize(("old", "new"), [("+ 1", "+ 2"), ("double(x)", "double(-x)"), ("def run(x)", "def run(x=0)")])
def test_what_is_computed_counts(package, old, new):
    before = digest_code([package / "step.py"])
    edited(package / "step.py", old, new)
    assert digest_code([package / "step.py"]) != before


def test_the_package_that_holds_the_version_does_not_count(package):
    before = digest_code([package / "step.py"])
    write(package / "__init__.py", '__version__ = "2"\n')
    assert digest_code([package / "step.py"]) == before


@pytest.mark.parametrize("module", ["core", "deep"])
def test_modules_imported_directly_lazily_or_on_the_way_count(package, module):
    before = digest_code([package / "step.py"])
    with (package / f"{module}.py").open("a") as stream:
        stream.write("EXTRA = 1\n")
    write(package / f"{module}.py", (package / f"{module}.py").read_text())
    assert digest_code([package / "step.py"]) != before


def test_modules_that_are_not_imported_do_not_count(package):
    before = digest_code([package / "step.py"])
    edited(package / "other.py", "x = 1", "x = 2")
    assert digest_code([package / "step.py"]) == before


def test_modules_that_import_each_other_are_no_trouble(package):
    write(package / "deep.py", "import toy.core\nTWO = 2\n")
    assert digest_code([package / "step.py"]) == digest_code([package / "step.py"])


def test_a_string_that_is_no_docstring_counts(package):
    before = digest_code([package / "deep.py"])
    write(package / "deep.py", "TWO = 2\n'hello'\n")
    assert digest_code([package / "deep.py"]) != before


def test_modules_beside_a_users_task_count_and_others_there_do_not(package, tmp_path):
    place = tmp_path / "mine"
    place.mkdir()
    write(place / "task.py", "import numpy\nfrom helper import rows\nfrom toy.core import double\n")
    write(place / "helper.py", "rows = 3\n")
    write(place / "stranger.py", "rows = 3\n")
    before = digest_code([place / "task.py"])
    edited(place / "stranger.py", "3", "4")
    assert digest_code([place / "task.py"]) == before
    edited(place / "helper.py", "3", "4")
    changed = digest_code([place / "task.py"])
    assert changed != before
    edited(package / "deep.py", "2", "3")
    assert digest_code([place / "task.py"]) != changed


def test_the_digest_does_not_depend_on_where_the_files_are(package, tmp_path):
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "task.py", "import helper\n")
        write(tmp_path / place / "helper.py", "rows = 3\n")
    assert digest_code([tmp_path / "one" / "task.py"]) == digest_code([tmp_path / "two" / "task.py"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_the_order_of_keys_does_not_count(value):
    turned = dict(reversed(list(value.items())))
    assert digest_value(turned) == digest_value(value)
    assert digest_value([value]) != digest_value(value)


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_byte_strings_have_one_digest_each(first, second):
    assert (digest_bytes(*first) == digest_bytes(*second)) == (first == second)


def test_a_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "b").write_bytes(b"x" * 100)
    assert digest_file(tmp_path / "a") == digest_file(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"x" * 99 + b"y")
    assert digest_file(tmp_path / "a") != digest_file(tmp_path / "b")
    assert len(digest_file(tmp_path / "a")) == 32
