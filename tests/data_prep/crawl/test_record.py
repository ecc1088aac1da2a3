"""Names of places, and the ids that they give."""

from __future__ import annotations

import pytest

from sciencessl.data_prep.crawl.record import Place, sample_id, stem_of


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a/00000.tar", "a/00000"), ("a.tar.gz", "a"), ("A.TGZ", "A"), ("b.v1.parquet", "b.v1"),
     ("notes.txt", "notes.txt")],
)
def test_a_stem_is_the_name_without_the_suffix_of_its_kind(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_an_id_is_where_an_image_lies_and_its_key() -> None:
    assert sample_id(Place("x/00000.tar", "", "tar", 0, 0), "b/1") == "x/00000/b/1"
    assert sample_id(Place("x/all.files", "", "files", 0, 0), "x/y/1") == "x/y/1"
