"""Settings as flags: every setting has one, help tells the default that holds, dotted words become settings."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field

import pytest

from sciencessl.config import RunConfig
from sciencessl.errors import ConfigError
from sciencessl.flags import (
    add_settings,
    attribute_docs,
    deeper_settings,
    dotted_settings,
    given,
    scale_settings,
    settings_text,
    shown_default,
    split_settings,
)
from sciencessl.layers import leaf_names
from sciencessl.registry import load_domain, prepare_settings


@dataclass(frozen=True)
class Inner:
    """Inside.

    Attributes:
        rate: How fast, at 100 % of
            the peak.
    """

    rate: float = 0.5


@dataclass(frozen=True)
class Example:
    """An example.

    Attributes:
        size_px: Side in pixels.
        names: Some names.
        calm: Nothing moves.
        seed: Of it all.
        inner: More.
    """

    size_px: int = 64
    names: tuple[str, ...] = ()
    calm: bool = False
    seed: int = 0
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_settings(made, Example, "settings", skip=("seed",))
    return made


def test_only_what_is_given_is_there(parser: argparse.ArgumentParser) -> None:
    assert given(parser.parse_args([]), Example) == {}
    args = parser.parse_args(["--size-px", "32", "--names", "a", "b", "--calm"])
    assert given(args, Example) == {"size_px": "32", "names": ["a", "b"], "calm": True}
    args.other = 1
    assert "other" not in given(args, Example)


def test_skipped_and_nested_settings_have_no_flag(parser: argparse.ArgumentParser) -> None:
    for flag in ("--seed", "--inner", "--rate"):
        with pytest.raises(SystemExit):
            parser.parse_args([flag, "1"])


def test_help_survives_percent_signs_and_joins_lines() -> None:
    made = argparse.ArgumentParser()
    add_settings(made, Inner, "settings")
    assert "How fast, at 100 % of the peak. (default: 0.5)" in " ".join(made.format_help().split())


@pytest.mark.parametrize(
    ("default", "shown"),
    [(0, " (default: 0)"), (0.0, " (default: 0.0)"), (1.5, " (default: 1.5)"), ("", ""), ((), ""), (None, ""),
     (False, ""), (dataclasses.MISSING, ""), ("auto", " (default: auto)"), ((0.1, 0.2), " (default: 0.1 0.2)")],
)  # fmt: skip
def test_shown_defaults(default: object, shown: str) -> None:
    assert shown_default("x", default, {}, "") == shown


def test_a_preset_replaces_the_default() -> None:
    assert shown_default("batch", 256, {"batch": 128}, "scale s") == " (default: 128, from scale s)"
    assert "--inner.rate" in settings_text(Inner, "inner.", {"inner.rate": 2.0}, "scale s")
    assert "(default: 2.0, from scale s)" in settings_text(Inner, "inner.", {"inner.rate": 2.0}, "scale s")


def test_scale_settings_name_settings_that_exist() -> None:
    preset = scale_settings("laptop")
    assert preset["batch"] == 64
    known = set(leaf_names(RunConfig))
    assert all(name in known or name.startswith(("options.", "views.")) for name in preset)


def test_deeper_settings_show_every_dotted_setting() -> None:
    text = deeper_settings({}, "")
    dotted = [name for name in leaf_names(RunConfig) if "." in name]
    dotted += [f"views.{entry.name}" for entry in dataclasses.fields(load_domain("galaxy").train_options)]
    assert [name for name in dotted if f"--{name} " not in text] == []
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    "kind", [RunConfig, prepare_settings(), *(load_domain(n).train_options for n in ("galaxy", "pathology", "web"))]
)
def test_every_setting_is_documented(kind: type) -> None:
    plain = [e.name for e in dataclasses.fields(kind) if not dataclasses.is_dataclass(e.default_factory)]
    assert [name for name in plain if not attribute_docs(kind).get(name)] == []


def test_dotted_settings() -> None:
    words = ["--optim.base-lr", "0.1", "--views.area", "0.2", "0.8", "--views.parity_safe", "--options.tau=-1"]
    assert dotted_settings([*words, "--log.every", "-3"]) == {
        "optim.base_lr": "0.1", "views.area": ["0.2", "0.8"], "views.parity_safe": True, "options.tau": "-1",
        "log.every": "-3",
    }  # fmt: skip
    assert dotted_settings([]) == {}
    with pytest.raises(ConfigError, match="unexpected 'word': settings are written --name value"):
        dotted_settings(["word"])


def test_settings_are_split_off_wherever_they_stand() -> None:
    words = ["explain", "run", "--views.area", "0.2", "0.8", "--json", "--optim.base-lr=0.1", "--labels", "a", "b",
             "--options.shift", "-0.5", "--label_weight", "2", "-h"]  # fmt: skip
    rest, settings = split_settings(words, ["label_weight"])
    assert rest == ["explain", "run", "--json", "--labels", "a", "b", "-h"]
    assert settings == {
        "views.area": ["0.2", "0.8"], "optim.base_lr": "0.1", "options.shift": "-0.5", "label_weight": "2",
    }  # fmt: skip


def test_words_that_are_no_settings_stay_as_they_are() -> None:
    words = ["pretrain", "--data", "a.b.zarr", "--config=my.yaml", "--dry_run", "--", "x.y", "-n", "3"]
    assert split_settings(words, ["label_weight"]) == (words, {})
