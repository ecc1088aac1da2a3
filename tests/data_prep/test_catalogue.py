"""Catalogues: identifiers keep every digit in CSV, Parquet and FITS; folder names; which file is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sciencessl.data_prep.catalogue import as_text, find_catalogue, from_folders, read_table, tidy
from sciencessl.data_prep.listing import Reader, list_sources
from sciencessl.errors import ConfigError, DataError

OBJIDS = [587722952767439450, 587722953303916935]
Write = Callable[..., Path]


def folders(root: Path) -> dict[str, Any]:
    catalogue = from_folders(list_sources([root]))
    return {name: catalogue.data[name].to_pylist() for name in catalogue.data.column_names if name != "file"}


def test_csv_is_text_with_empty_cells_null(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b'\xef\xbb\xbfobjid, class ,note\n587722952767439450,"a, b",NA\n007,,"two\nlines"\n')
    data = read_table(path, str(path))
    assert data.column_names == ["objid", "class", "note"]
    assert as_text(data, "objid") == ["587722952767439450", "007"]
    assert as_text(data, "class") == ["a, b", None]
    assert as_text(data, "note") == ["NA", "two\nlines"]


def test_csv_with_semicolons(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id;file\n1;a.jpg\n")
    assert read_table(tmp_path / "c.csv", "c.csv").to_pylist() == [{"id": "1", "file": "a.jpg"}]


def test_integers_of_18_digits_survive_parquet_and_fits(tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    pq.write_table(pa.table({"objid": OBJIDS}), tmp_path / "c.parquet")
    columns = [
        fits.Column("objid", "K", array=np.array(OBJIDS)),
        fits.Column("class", "10A", array=np.array(["spiral", ""])),
        fits.Column("mag", "E", array=np.array([14.5, 15.5])),
        fits.Column("two", "2E", array=np.zeros((2, 2))),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    expected = [str(value) for value in OBJIDS]
    assert as_text(read_table(tmp_path / "c.parquet", "c.parquet"), "objid") == expected
    table = read_table(tmp_path / "c.fits", "c.fits")
    assert as_text(table, "objid") == expected
    assert as_text(table, "class") == ["spiral", None]
    assert tidy(table, "mag") == [14.5, 15.5]
    assert "two" not in table.column_names


def test_empty_cells_of_fits_are_null(tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    columns = [
        fits.Column("weight", "E", array=np.array([0.5, np.nan])),
        fits.Column("votes", "J", null=-99, array=np.array([-99, 3])),
        fits.Column("plain", "J", array=np.array([-99, 3])),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    table = read_table(tmp_path / "c.fits", "c.fits")
    assert table.to_pydict() == {"weight": [0.5, None], "votes": [None, 3], "plain": [-99, 3]}


def test_floats_that_lost_digits_are_refused() -> None:
    with pytest.raises(DataError, match="column 'objid': whole numbers are stored as floats"):
        as_text(pa.table({"objid": [float(OBJIDS[0])]}), "objid", "c.parquet")
    assert as_text(pa.table({"objid": [12.0, None]}), "objid") == ["12", None]
    with pytest.raises(DataError, match="float"):
        as_text(pa.table({"objid": pa.array([2.0**24 + 2], pa.float32())}), "objid")


@pytest.mark.parametrize(("cells", "expected"), [
    (["1", "2", None], [1, 2, None]),
    (["1", "2.5"], [1.0, 2.5]),
    (["007", "12"], ["007", "12"]),
    (["0.5", "-0.5"], [0.5, -0.5]),
    (["a", "1"], ["a", "1"]),
])
def test_tidy_takes_the_narrowest_type(cells: list[str | None], expected: list[Any]) -> None:
    assert tidy(pa.table({"x": pa.array(cells, pa.string())}), "x") == expected


def test_tidy_keeps_large_integers_exact() -> None:
    assert tidy(pa.table({"x": pa.array([2**63 + 1], pa.uint64())}), "x") == [str(2**63 + 1)]


def test_split_and_class_folders(write_images: Write) -> None:
    root = write_images(["train/cat/1.jpg", "validation/dog/2.jpg", "test/cat/3.jpg"])
    # Rows are in the order of names: test, train, validation.
    assert folders(root) == {"split": ["test", "train", "validation"], "class": ["cat", "cat", "dog"]}


def test_split_folders_without_classes(write_images: Write) -> None:
    assert folders(write_images(["train/1.jpg", "test/2.jpg"])) == {"split": ["test", "train"]}


def test_class_folders_below_one_shared_folder(write_images: Write) -> None:
    assert folders(write_images(["set/a/1.jpg", "set/b/x/2.jpg"])) == {"class": ["a", "b"]}


def test_one_folder_or_images_beside_folders_are_no_classes(write_images: Write) -> None:
    assert folders(write_images(["a/1.jpg", "a/2.jpg"], folder="one")) == {}
    assert folders(write_images(["a/1.jpg", "b/2.jpg", "3.jpg"], folder="beside")) == {}


def test_one_split_folder_stays_a_split(write_images: Write) -> None:
    assert folders(write_images(["train/a/1.jpg", "train/b/2.jpg"])) == {"split": ["train"] * 2, "class": ["a", "b"]}


def find(root: Path, explicit: str = "") -> Any:
    return find_catalogue(list_sources([root]), Reader(), explicit)


def test_names_are_found_in_order(write_images: Write) -> None:
    root = write_images(["1.jpg"])
    assert find(root) is None
    (root / "manifest.csv").write_text("file\n1.jpg\n")
    assert find(root).where.endswith("manifest.csv")
    (root / "catalogue.csv").write_text("file\n1.jpg\n")
    assert find(root).where.endswith("catalogue.csv")


def test_explicit_catalogue_wins_and_must_exist(write_images: Write) -> None:
    root = write_images(["1.jpg"])
    (root / "catalogue.csv").write_text("file\n1.jpg\n")
    (root / "other.csv").write_text("file,x\n1.jpg,1\n")
    assert find(root, "other.csv").data.column_names == ["file", "x"]
    with pytest.raises(ConfigError, match=r"catalogue 'nothing\.csv' does not exist"):
        find(root, "nothing.csv")
    (root / "table.xlsx").write_text("")
    with pytest.raises(ConfigError, match=r"expected a file ending in \.csv, \.parquet, \.fits or \.vot"):
        find(root, "table.xlsx")


def test_catalogues_in_two_sources_need_a_choice(write_images: Write) -> None:
    root = write_images(["a/1.jpg", "b/1.jpg"])
    for name in "ab":
        (root / name / "catalogue.csv").write_text("file\n1.jpg\n")
    with pytest.raises(ConfigError, match=r"several catalogues were found: a/catalogue\.csv, b/catalogue\.csv"):
        find_catalogue(list_sources([root / "a", root / "b"]), Reader(), "")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "cannot be read"),
    (b"id,file\n", r"has columns \(id, file\) but no rows"),
    (b"id,id\n1,2\n", "more than one column named 'id'"),
    (b"id,file\n1,2,3\n", "cannot be read: .*Expected 2 columns, got 3"),
    (b"id,file\n\xff\xfe,2\n", "cannot be read"),
])
def test_unusable_tables(write_images: Write, content: bytes, message: str) -> None:
    root = write_images(["1.jpg"])
    (root / "catalogue.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        find(root)


VOTABLE = """<?xml version="1.0"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>
<FIELD ID="objid" name="objid" datatype="long"><VALUES null="-1"/></FIELD>
<FIELD name="RA (deg)" datatype="double" unit="deg"/>
<FIELD name="class" datatype="char" arraysize="*"/>
<FIELD name="name" datatype="unicodeChar" arraysize="8"/>
<FIELD name="flag" datatype="boolean"/>
<FIELD name="two" datatype="float" arraysize="2"/>
<DATA><TABLEDATA>
<TR><TD>587722952767439450</TD><TD>359.999</TD><TD>spiral</TD><TD>M 51</TD><TD>T</TD><TD>1 2</TD></TR>
<TR><TD>-1</TD><TD/><TD/><TD>\u03b1</TD><TD>F</TD><TD>1 2</TD></TR>
</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"""


@pytest.mark.parametrize("serialisation", ["tabledata", "binary", "binary2"])
def test_votables_of_any_serialisation_keep_digits_and_have_masked_cells_null(
    tmp_path: Path, serialisation: str
) -> None:
    votable = pytest.importorskip("astropy.io.votable")
    path = tmp_path / "c.vot"
    path.write_text(VOTABLE, encoding="utf-8")
    if serialisation != "tabledata":
        whole = votable.parse(str(path), verify="ignore")
        whole.get_first_table().format = serialisation
        whole.to_xml(str(path))
        assert b"<TR>" not in path.read_bytes()
    table = read_table(path, str(path))
    assert table.column_names == ["objid", "RA (deg)", "class", "name", "flag"]
    assert as_text(table, "objid") == ["587722952767439450", None]
    assert tidy(table, "class") == ["spiral", None]
    assert tidy(table, "name") == ["M 51", "\u03b1"]
    assert tidy(table, "flag") == [True, False]
    assert table["RA (deg)"].to_pylist() == [359.999, None]


def test_columns_of_a_votable_with_several_numbers_a_row_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("astropy.io.votable")
    text = VOTABLE.replace('arraysize="2"', 'arraysize="*"').replace("<TD>1 2</TD>", "<TD>1 2 3</TD>", 1)
    (tmp_path / "c.vot").write_text(text, encoding="utf-8")
    assert read_table(tmp_path / "c.vot", "c.vot").column_names == ["objid", "RA (deg)", "class", "name", "flag"]


def test_a_binary_votable_that_lost_rows_is_an_error(tmp_path: Path) -> None:
    votable = pytest.importorskip("astropy.io.votable")
    path = tmp_path / "c.vot"
    path.write_text(VOTABLE, encoding="utf-8")
    whole = votable.parse(str(path), verify="ignore")
    whole.get_first_table().format = "binary"
    whole.to_xml(str(path))
    path.write_bytes(path.read_bytes().replace(b'nrows="2"', b'nrows="5"'))
    with pytest.raises(DataError, match=r"c\.vot cannot be read as a VOTable \(5 rows announced, 2 found\)"):
        read_table(path, "c.vot")


def test_a_votable_in_the_folder_is_found(write_images: Write) -> None:
    pytest.importorskip("astropy.io.votable")
    root = write_images({"a.png": 0})
    for name in ("catalogue.vot", "catalogue.xml", "catalogue.votable"):
        (root / name).write_text(VOTABLE, encoding="utf-8")
        catalogue = find_catalogue(list_sources([root]), Reader(), "")
        assert catalogue is not None
        assert (catalogue.where, catalogue.data.num_rows) == (str(root / name), 2)
        (root / name).unlink()


@pytest.mark.parametrize(("content", "message"), [
    ("<VOTABLE version='1.4'><RESOURCE/></VOTABLE>", r"c\.vot is a VOTable without a table"),
    ("<html><body>moved</body></html>", r"c\.vot cannot be read as a VOTable \(.*\); check the download"),
    (VOTABLE[:500], r"c\.vot cannot be read as a VOTable"),
    ("", r"c\.vot cannot be read as a VOTable"),
])  # fmt: skip
def test_what_is_no_votable_is_an_error_that_names_the_file(tmp_path: Path, content: str, message: str) -> None:
    pytest.importorskip("astropy.io.votable")
    (tmp_path / "c.vot").write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "c.vot", "c.vot")
