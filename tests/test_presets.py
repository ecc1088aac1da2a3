"""Shipped presets as a list: all files are in it, with their comment, and what they say they set is what they set."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from sciencessl import presets as module
from sciencessl.config import build_config, flatten
from sciencessl.layers import leaf_names, preset_layers
from sciencessl.presets import KINDS, Preset, head_comment, presets, presets_text, shown
from sciencessl.registry import load_domain, load_method


def test_every_shipped_file_is_listed_with_a_reason() -> None:
    shipped = {(path.parent.name, path.stem) for path in Path(str(files("sciencessl.configs"))).glob("*/*.yaml")}
    found = presets()
    assert {(preset.kind, preset.name) for preset in found} >= shipped
    assert [preset.name for preset in found if len(preset.about) < 20 or not preset.settings] == []
    order = [list(KINDS).index(preset.kind) for preset in found]
    assert order == sorted(order)


def test_what_a_preset_says_it_sets_is_what_it_sets() -> None:
    laptop = next(preset for preset in presets() if preset.use == "--scale laptop")
    recipe = next(preset for preset in presets() if preset.use == "--config recipe/small_stamps")
    spec, options = load_domain("galaxy"), load_method("byol").Options
    full = build_config(preset_layers("laptop", "byol", "galaxy", ["recipe/small_stamps"]), options, spec.train_options,
                        {"data": "x"})  # fmt: skip
    values = dict(flatten(full.to_dict(), set(full.origin)))
    for preset, layer in ((laptop, "scale laptop"), (recipe, "recipe/small_stamps")):
        assert preset.settings == {name: values[name] for name in preset.settings}
        assert {full.origin[name] for name in preset.settings} == {layer}
    assert set(laptop.settings) <= set(leaf_names(type(full.run)))


def test_a_preset_of_a_domain_is_listed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "preset.yaml").write_text("# Faint stars.\nviews:\n  size: 96\n", encoding="utf-8")
    monkeypatch.setattr(module, "domain_preset", lambda name: tmp_path / ("preset.yaml" if name == "web" else "none"))
    assert [preset for preset in presets() if preset.kind == "domain"] == [
        Preset("domain", "web", "any store of domain web", "Faint stars.", {"views.size": 96})
    ]


@pytest.mark.parametrize(
    ("text", "comment"),
    [("# a\n#\n# b\nx: 1\n# c\n", "a  b"), ("x: 1  # no\n", ""), ("", ""), ("#a", "a"), ("\n# late\n", "")],
)
def test_the_comment_at_the_head(text: str, comment: str) -> None:
    assert head_comment(text) == comment


@pytest.mark.parametrize("value", [True, 0, 1.5e-6, "auto", "", [0.2, 1.0], [], None, {"a": 1}, "off", "3"])
def test_values_are_shown_as_yaml_would_read_them(value: object) -> None:
    assert yaml.safe_load(shown(value)) == value


def test_the_text_is_aligned_and_says_how_to_ask() -> None:
    text = presets_text([Preset("recipe", "r", "--config recipe/r", "why " * 60, {"a": 1, "views.size": [1, 2]})])
    lines = text.splitlines()
    assert lines[0] == "recipe r  (--config recipe/r)"
    assert lines[-2:] == ["    a           1", "    views.size  [1, 2]"]
    assert max(map(len, lines)) <= 110
