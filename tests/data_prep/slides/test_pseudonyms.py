"""Names under a key."""

from __future__ import annotations

import csv
import stat

import pytest

from sciencessl.data_prep.slides.pseudonyms import read_key, scrub
from sciencessl.errors import ConfigError


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    return path


def test_a_name_has_one_pseudonym_under_a_key_and_another_under_another(key, tmp_path):
    first = read_key(key).name("slide", "TCGA-AA-0001-01Z")
    assert first == read_key(key).name("slide", "TCGA-AA-0001-01Z")
    assert first.startswith("S")
    assert "TCGA" not in first
    other = tmp_path / "other"
    other.write_text("fedcba9876543210fedcba9876543210")
    assert read_key(other).name("slide", "TCGA-AA-0001-01Z") != first


def test_a_slide_and_a_patient_of_one_name_are_told_apart(key):
    names = read_key(key)
    assert names.name("slide", "A1")[1:] != names.name("patient", "A1")[1:]


def test_the_map_lies_beside_the_key_for_its_owner_alone_and_grows(key):
    names = read_key(key)
    told = names.name("slide", "A1")
    path = names.write_map()
    assert path.parent == key.parent
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    more = read_key(key)
    more.name("patient", "P 7, ward 2")
    more.write_map()
    with path.open(newline="") as stream:
        rows = {(row["kind"], row["name"]): row["pseudonym"] for row in csv.DictReader(stream)}
    assert rows == {("slide", "A1"): told, ("patient", "P 7, ward 2"): more.name("patient", "P 7, ward 2")}


def test_a_key_that_is_missing_or_short_is_refused_with_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="openssl rand"):
        read_key(tmp_path / "none")
    short = tmp_path / "short"
    short.write_text("secret\n")
    with pytest.raises(ConfigError, match=r"6 bytes, at least 16"):
        read_key(short)


def test_the_longest_secret_goes_first():
    text = scrub("cannot read /data/A123/A123.svs of A123", ["A123", "/data/A123/A123.svs", "A123.svs", ""], "S9")
    assert text == "cannot read S9 of S9"


def test_short_names_leave_figures_and_words_alone():
    text = "none of 2,024 tiles has 50% tissue"
    assert scrub(text, ["2", ".", "/", "til"], "S9") == text


def test_the_map_is_closed_to_others_from_the_first_byte(key, monkeypatch):
    monkeypatch.setattr("os.chmod", lambda path, mode: None)
    names = read_key(key)
    names.name("slide", "A1")
    assert stat.S_IMODE(names.write_map().stat().st_mode) == 0o600


def test_a_map_that_others_may_read_is_closed_again(key):
    names = read_key(key)
    names.name("slide", "A1")
    names.write_map().chmod(0o644)
    assert stat.S_IMODE(names.write_map().stat().st_mode) == 0o600


def test_a_file_that_is_no_map_is_kept_and_named(key):
    path = key.with_name("key.map.csv")
    path.write_text("slide,patient\nA1,P\n")
    with pytest.raises(ConfigError, match="no map of pseudonyms"):
        read_key(key).write_map()
    assert path.read_text().startswith("slide,patient")


def test_a_key_never_shows_in_words(key):
    assert "0123456789" not in repr(read_key(key))
