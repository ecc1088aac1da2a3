"""Vote schemas: counts and order of the shipped ones, their corrected trees, what a user's YAML may get wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sciencessl.domains.galaxy.schema import SCHEMAS, load_schema, match_columns, schema_names
from sciencessl.errors import ConfigError

RINGS = """
name: rings
suffix: -r1
questions:
  smooth-or-featured: {answers: [smooth, featured, artifact], after: null}
  ring: {answers: ["yes", "no"], after: [smooth-or-featured_smooth, smooth-or-featured_featured]}
aliases:
  n_ring: ring_yes
  ring: {t12_ring: {a41_no: "no"}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def parents(name: str) -> dict[str, tuple[str, ...]]:
    return {question.name: question.after for question in SCHEMAS[name].questions}


@pytest.mark.parametrize(
    ("name", "questions", "columns"), [("gzd5", 10, 34), ("gz2", 10, 30), ("gzd12", 10, 30), ("hubble", 12, 34)]
)
def test_counts(name: str, questions: int, columns: int) -> None:
    schema = load_schema(name)
    assert len(schema.questions) == questions
    assert len(schema.columns) == columns
    assert schema.groups[-1][1] == columns


def test_names_are_the_files_of_the_folder() -> None:
    assert schema_names() == ("gz2", "gzd12", "gzd5", "hubble") == tuple(SCHEMAS)


def test_gzd5_column_order() -> None:
    expected = """
    smooth-or-featured-dr5_smooth smooth-or-featured-dr5_featured-or-disk smooth-or-featured-dr5_artifact
    disk-edge-on-dr5_yes disk-edge-on-dr5_no has-spiral-arms-dr5_yes has-spiral-arms-dr5_no
    bar-dr5_strong bar-dr5_weak bar-dr5_no
    bulge-size-dr5_dominant bulge-size-dr5_large bulge-size-dr5_moderate bulge-size-dr5_small bulge-size-dr5_none
    how-rounded-dr5_round how-rounded-dr5_in-between how-rounded-dr5_cigar-shaped
    edge-on-bulge-dr5_boxy edge-on-bulge-dr5_none edge-on-bulge-dr5_rounded
    spiral-winding-dr5_tight spiral-winding-dr5_medium spiral-winding-dr5_loose
    spiral-arm-count-dr5_1 spiral-arm-count-dr5_2 spiral-arm-count-dr5_3 spiral-arm-count-dr5_4
    spiral-arm-count-dr5_more-than-4 spiral-arm-count-dr5_cant-tell
    merging-dr5_none merging-dr5_minor-disturbance merging-dr5_major-disturbance merging-dr5_merger
    """
    assert SCHEMAS["gzd5"].columns == tuple(expected.split())


def test_order_of_the_other_campaigns() -> None:
    def shape(name: str) -> list[tuple[str, str]]:
        return [(q.name.rpartition("-")[0], " ".join(q.answers)) for q in SCHEMAS[name].questions]

    assert shape("gz2")[1:6] == [
        ("disk-edge-on", "yes no"), ("has-spiral-arms", "yes no"), ("bar", "yes no"),
        ("bulge-size", "dominant obvious just-noticeable no"), ("something-odd", "yes no"),
    ]
    assert shape("gz2")[6:8] == [("how-rounded", "round in-between cigar"), ("bulge-shape", "round boxy no-bulge")]
    assert shape("gzd12")[4:6] == [("bulge-size", "dominant obvious none"),
                                   ("how-rounded", "completely in-between cigar-shaped")]
    assert shape("gzd12")[8:] == [("spiral-arm-count", "1 2 3 4 more-than-4"),
                                  ("merging", "neither tidal-debris both merger")]
    assert [q for q, _ in shape("hubble")] == [
        "smooth-or-featured", "how-rounded", "clumpy-appearance", "disk-edge-on", "bulge-shape", "bar",
        "has-spiral-arms", "spiral-winding", "spiral-arm-count", "bulge-size", "galaxy-symmetrical",
        "clumps-embedded-larger-object",
    ]
    assert dict(shape("hubble"))["spiral-arm-count"] == "1 2 3 4 5-plus cant-tell"


@pytest.mark.parametrize(("name", "suffix"), [("gzd5", "-dr5"), ("gzd12", "-dr12")])
def test_merging_follows_smooth_or_featured(name: str, suffix: str) -> None:
    root = f"smooth-or-featured{suffix}"
    assert parents(name)[f"merging{suffix}"] == (f"{root}_smooth", f"{root}_featured-or-disk")


def test_gz2_asks_about_arms_only_when_not_edge_on() -> None:
    for question in ("has-spiral-arms-gz2", "bar-gz2", "bulge-size-gz2"):
        assert parents("gz2")[question] == ("disk-edge-on-gz2_no",)


def test_hubble_asks_about_winding_only_when_there_are_arms() -> None:
    for question in ("spiral-winding-hubble", "spiral-arm-count-hubble"):
        assert parents("hubble")[question] == ("has-spiral-arms-hubble_yes",)


@pytest.mark.parametrize("name", ["gz2", "gzd5", "gzd12", "hubble"])
def test_source_says_that_the_tree_differs(name: str) -> None:
    assert "differ" in SCHEMAS[name].source
    assert "galaxy-datasets" in SCHEMAS[name].source


def test_asked_probability_by_hand() -> None:
    schema = SCHEMAS["gzd5"]
    fractions = np.zeros(34)
    for (start, stop), first in zip(schema.groups, (0.5, 0.25, 0.8, 1, 1, 1, 1, 1, 1, 1), strict=True):
        fractions[start : stop] = (first, 1 - first, *([0.0] * (stop - start - 2)))
    fractions[:3] = (0.5, 0.3, 0.2)
    asked = dict(zip((q.name for q in schema.questions), schema.asked_probability(fractions), strict=True))
    assert asked["merging-dr5"] == pytest.approx(0.5 + 0.3)
    assert asked["how-rounded-dr5"] == pytest.approx(0.5)
    assert asked["edge-on-bulge-dr5"] == pytest.approx(0.3 * 0.25)
    assert asked["bar-dr5"] == pytest.approx(0.3 * 0.75)
    assert asked["spiral-winding-dr5"] == pytest.approx(0.3 * 0.75 * 0.8)


def test_user_file(tmp_path: Path) -> None:
    schema = load_schema(write(tmp_path, RINGS))
    assert schema.columns[3:] == ("ring-r1_yes", "ring-r1_no")
    assert schema.question("ring").after == ("smooth-or-featured-r1_smooth", "smooth-or-featured-r1_featured")
    assert schema.aliases["n_ring"] == "ring-r1_yes"
    assert schema.aliases["t12_ring_a41_no_count"] == "ring-r1_no"
    assert load_schema(str(tmp_path / "mine.yaml")) == schema


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('["yes", "no"]', "[yes, no]", r'ring.*unquoted yes as a boolean; write it in quotes: "yes"'),
        ('["yes", "no"]', '["yes", no]', r'unquoted no as a boolean; write it in quotes: "no"'),
        ('["yes", "no"]', "[1, 2]", r'reads 1 as a number; write it in quotes: "1"'),
        ('a41_no: "no"', "a41_no: no", "unquoted no as a boolean"),
        ("ring: {answers", "yes: {answers", "questions, key: YAML reads an unquoted yes"),
        ("[smooth, featured, artifact]", "[smooth, ~, artifact]", "expected text, got None"),
        ("suffix: -r1", "suffix: 5", "suffix: YAML reads 5 as a number"),
        ("suffix:", "sufix:", "unknown key 'sufix'. Did you mean 'suffix'?"),
        ("smooth-or-featured_smooth,", "smooth-or-featured_smoth,", "Did you mean 'smooth-or-featured_smooth'"),
        ("smooth-or-featured_smooth,", "smooth-or-featured-r1_smooth,", "without the campaign"),
        ("n_ring: ring_yes", "n_ring: ring_maybe", "aliases: no answer column 'ring_maybe'"),
        ("  ring: {answers", "  smooth-or-featured: {answers", "'smooth-or-featured' is given twice"),
        ("name: rings", "title: Rings", "name: expected text, got None"),
        ("{answers: [smooth, featured, artifact], after: null}", "[smooth, featured]", "expected `name: value`"),
        ("answers: [smooth, featured, artifact]", "answers: smooth", "expected `answers`, a list"),
        ("questions:", "questions: [", "not readable as YAML"),
        ("[smooth, featured, artifact]", "[smooth, featured, smooth]", "needs two or more different answers"),
    ],
)
def test_mistakes_in_a_user_file(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in RINGS
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        load_schema(write(tmp_path, RINGS.replace(old, new, 1)))


def test_unknown_name_lists_and_suggests() -> None:
    with pytest.raises(ConfigError, match=r"'gzd6'\. Did you mean 'gzd5'\? Known: gz2, gzd12, gzd5, hubble"):
        load_schema("gzd6")
    with pytest.raises(ConfigError, match="no such file"):
        load_schema("nowhere/mine.yaml")


def test_all_gz2_release_columns_have_an_alias() -> None:
    schema = SCHEMAS["gz2"]
    released = [name for name in schema.aliases if name.startswith("t")]
    assert len(released) == 30
    assert {schema.aliases[name] for name in released} == set(schema.columns)
    first = "t01_smooth_or_features_a02_features_or_disk_count"
    assert schema.aliases[first] == "smooth-or-featured-gz2_featured-or-disk"
    assert schema.aliases["t05_bulge_prominence_a10_no_bulge_count"] == "bulge-size-gz2_no"
    assert schema.aliases["t11_arms_number_a36_more_than_4_count"] == "spiral-arm-count-gz2_more-than-4"
    assert match_columns(schema, ["dr7objid", *reversed(released)]) == {schema.aliases[name]: name for name in released}


def test_match_by_exact_name_before_name_without_campaign() -> None:
    schema = SCHEMAS["gzd5"]
    bare = [column.replace("-dr5_", "_") for column in schema.columns]
    assert list(match_columns(schema, bare).items()) == list(zip(schema.columns, bare, strict=True))
    both = match_columns(schema, [*bare, *schema.columns])
    assert both == {column: column for column in schema.columns}


def test_missing_columns_are_listed() -> None:
    schema = SCHEMAS["gzd5"]
    given = [column for column in schema.columns if not column.startswith("bar-")]
    with pytest.raises(ConfigError, match=r"lacks: bar-dr5_strong, bar-dr5_weak, bar-dr5_no\.") as caught:
        match_columns(schema, given)
    assert "may also be called bar_strong" in str(caught.value)


def test_partial_matches_take_whole_questions_only() -> None:
    schema = SCHEMAS["gzd5"]
    given = ["id_str", *schema.question("bar").columns]
    assert tuple(match_columns(schema, given, allow_partial=True)) == schema.question("bar").columns
    with pytest.raises(ConfigError, match=r"1 column\(s\).*lacks: bar-dr5_no\. Did"):
        match_columns(schema, given[:-1], allow_partial=True)
    with pytest.raises(ConfigError, match=r"34 column\(s\)"):
        match_columns(schema, ["id_str"], allow_partial=True)


def test_two_spellings_of_one_column_are_refused(tmp_path: Path) -> None:
    schema = load_schema(write(tmp_path, RINGS)).only(["ring"])
    assert match_columns(load_schema(tmp_path / "mine.yaml"), ["n_ring", "ring_no"], True)["ring-r1_yes"] == "n_ring"
    with pytest.raises(ConfigError, match="more than once: n_ring, ring_yes"):
        match_columns(load_schema(tmp_path / "mine.yaml"), ["n_ring", "ring_yes", "ring_no"], True)
    assert not schema.aliases


def test_import_is_light() -> None:
    code = "import sys, sciencessl.domains.galaxy.schema; print([m for m in sys.modules if m in ('torch', 'astropy')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
