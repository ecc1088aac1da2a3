"""What libraries raise becomes a reason to count by, in words without a name."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.refusals import nameless, openslide_module, refusals, tifffile_module
from sciencessl.errors import MissingExtraError


def test_words_name_no_file_no_neighbour_and_no_identifier() -> None:
    path = "/data/clinic 7/Jane Doe.svs"
    for words, left in (
        ("Can't open /data/clinic 7/Jane Doe.svs", "Can't open the file"),
        ("<TiffFile 'Jane Doe.svs'>\n is bad", "<TiffFile 'the file'> is bad"),
        ("Reading /data/clinic 7/John Roe.dcm: no pixels", "Reading a file beside it: no pixels"),
        ("No /data/clinic 7/Jane Doe/Slidedat.ini there", "No the file/Slidedat.ini there"),
        ("image 1.2.826.0.1.3680043.9 is unexpected", "image UID is unexpected"),
        ("version 1.4.7", "version 1.4.7"),
        ("x" * 500, "x" * 200),
    ):
        assert nameless(words, path) == left


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("odd"), "corrupt"),
        (EOFError("no more"), "truncated"),
        (OSError("image file is truncated (3 bytes not processed)"), "truncated"),
        (ValueError("Premature end of JPEG"), "truncated"),
        (MemoryError(), "too-large"),
        (Refused("not-rgb8", "as it was"), "not-rgb8"),
    ],
)
def test_a_reason_is_better_than_the_default_where_the_words_tell_it(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    (tmp_path / "a.svs").touch()
    with pytest.raises(Refused) as found, refusals(str(tmp_path / "a.svs"), "corrupt"):
        raise error
    assert found.value.reason == reason


def test_a_file_that_is_gone_is_missing_whatever_was_raised(tmp_path: Path) -> None:
    path = str(tmp_path / "a.svs")
    with pytest.raises(Refused, match=r"^missing-file: reading: ValueError: odd$"), refusals(path, "x", "reading"):
        raise ValueError("odd")


def test_a_missing_extra_is_no_fault_of_the_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in (("openslide", openslide_module), ("tifffile", tifffile_module)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=rf"{name}.*pip install 'sciencessl\[pathology\]'"), \
                refusals("a.svs", "unreadable"):
            module()


def test_tifffile_does_not_log_names(caplog: pytest.LogCaptureFixture) -> None:
    tifffile_module()
    logging.getLogger("tifffile").error("<tifffile.TiffFile 'Jane Doe.svs'> is odd")
    assert caplog.text == ""
