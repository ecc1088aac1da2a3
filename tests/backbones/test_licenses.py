from __future__ import annotations

from sciencessl.backbones.licenses import license_words


def test_what_licences_ask_for() -> None:
    assert license_words("") == license_words("apache-2.0") == ""
    assert "non-commercial research only, also for what is derived" in license_words("seer-license")
    assert license_words("cc-by-nc-4.0").startswith("licence 'cc-by-nc-4.0': read its terms")
