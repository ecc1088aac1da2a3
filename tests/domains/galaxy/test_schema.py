"""Vote schemas: counts and order of the shipped ones, their corrected trees, what a user's YAML may get wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sciencessl.domains.galaxy.schema import SCHEMAS, load_schema, schema_names
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


ADDED = {
    "hubble": ("clump-count", "clump-configuration", "one-clump-brightest", "brightest-clump-central"),
    "candels": ("clump-count", "clump-configuration", "one-clump-brightest", "brightest-clump-central",
                "galaxy-symmetrical", "clumps-embedded-larger-object"),
}
"""Questions that galaxy-datasets leaves out; `source` of each schema says why they are here."""


def without_added(name: str) -> list[str]:
    added = {f"{q}-{campaign}" for campaign, questions in ADDED.items() for q in questions}
    return [question.name for question in SCHEMAS[name].questions if question.name not in added]


@pytest.mark.parametrize(
    ("name", "questions", "columns"),
    [
        ("gzd12", 10, 30), ("gzd5", 10, 34), ("gzd8", 10, 34), ("desi", 10, 34), ("gz2", 10, 30), ("ukidss", 10, 30),
        ("candels", 11, 32), ("hubble", 12, 34), ("cosmic-dawn", 13, 45), ("euclid", 13, 46), ("jwst", 12, 39),
        ("rings", 1, 2), ("gz-evo", 63, 194),
    ],
)
def test_counts_are_those_of_the_module_but_for_questions_on_clumps(name: str, questions: int, columns: int) -> None:
    # A defect elsewhere: one parent a question, so that questions on clumps with several had to be dropped.
    schema = load_schema(name)
    assert schema.groups[-1][1] == len(schema.columns)
    common = schema.only(without_added(name))
    assert (len(common.questions), len(common.columns)) == (questions, columns)
    if name in ADDED:
        assert tuple(q.name.removesuffix(f"-{name}") for q in schema.questions[questions:])[:4] == ADDED[name][:4]
        assert "are added" in schema.source


def test_counts_with_the_questions_on_clumps() -> None:
    assert {name: (len(SCHEMAS[name].questions), len(SCHEMAS[name].columns)) for name in ("candels", "hubble",
                                                                                          "gz-evo")} == {
        "candels": (17, 50), "hubble": (16, 48), "gz-evo": (73, 226)
    }
    # GZ-Evo v0.1 reports 206 answers: the common ones and clump-count of both campaigns, six answers each.
    counted = [f"clump-count-{name}" for name in ("candels", "hubble")]
    assert len(SCHEMAS["gz-evo"].only([*without_added("gz-evo"), *counted]).columns) == 206


def test_names_are_the_files_of_the_folder() -> None:
    assert set(schema_names()) == {
        "candels", "cosmic-dawn", "desi", "euclid", "gz-evo", "gz2", "gzd12", "gzd5", "gzd8", "hubble", "jwst", "rings",
        "ukidss",
    }
    assert schema_names() == tuple(SCHEMAS)
    assert all(schema.name == name for name, schema in SCHEMAS.items())


def test_every_schema_says_where_it_was_read() -> None:
    for name, schema in SCHEMAS.items():
        assert schema.title, name
        assert "galaxy-datasets" in schema.source, name


def shape(name: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Question -> answers and parents, all without the campaign."""
    schema = SCHEMAS[name]
    suffix = schema.questions[0].name.removeprefix("smooth-or-featured")
    return {q.name.removesuffix(suffix): (q.answers, tuple(c.replace(f"{suffix}_", "_") for c in q.after))
            for q in schema.questions}


@pytest.mark.parametrize(("name", "same"), [("gzd8", "gzd5"), ("desi", "gzd5"), ("ukidss", "gz2")])
def test_campaigns_that_differ_in_their_suffix_alone(name: str, same: str) -> None:
    assert shape(name) == shape(same)
    assert not set(SCHEMAS[name].columns) & set(SCHEMAS[same].columns)


def test_later_campaigns_differ_from_gzd5_where_they_say() -> None:
    gzd5, dawn, euclid, jwst = (shape(name) for name in ("gzd5", "cosmic-dawn", "euclid", "jwst"))
    assert {q for q in dawn if dawn[q] != gzd5.get(q)} == {"smooth-or-featured", "clumps", "problem", "artifact"}
    assert dawn["smooth-or-featured"] == (("smooth", "featured-or-disk", "problem"), ())
    assert dawn["problem"] == (("star", "artifact", "zoom"), ("smooth-or-featured_problem",))
    assert dawn["artifact"] == (
        ("satellite", "scattered", "diffraction", "ray", "saturation", "other"), ("problem_artifact",)
    )
    assert dawn["clumps"] == (("yes", "no"), ("disk-edge-on_no",))
    assert {q for q in euclid if euclid[q] != dawn[q]} == {"artifact"}
    assert euclid["artifact"] == ((*dawn["artifact"][0], "ghost"), ("problem_artifact",))
    # A defect elsewhere: these questions were defined twice, with different answers, and the later definition won.
    assert {q for q in jwst if jwst[q] != gzd5.get(q)} == {"smooth-or-featured", "clumps", "problem"}
    assert jwst["smooth-or-featured"][0] == ("smooth", "featured-or-disk", "star-artifact-zoom")
    assert jwst["problem"] == (("star", "artifact", "bad-zoom"), ("smooth-or-featured_star-artifact-zoom",))
    assert jwst["clumps"] == (("yes", "no"), ("smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk"))


def test_order_of_candels() -> None:
    found = shape("candels")
    assert list(found)[:11] == [
        "smooth-or-featured", "how-rounded", "clumpy-appearance", "disk-edge-on", "edge-on-bulge", "bar",
        "has-spiral-arms", "spiral-winding", "spiral-arm-count", "bulge-size", "merging",
    ]
    assert found["bulge-size"][0] == ("none", "obvious", "dominant")
    assert found["edge-on-bulge"][0] == ("yes", "no")
    assert found["merging"][0] == ("merger", "tidal-debris", "both", "neither")


@pytest.mark.parametrize("name", ["candels", "hubble"])
def test_questions_on_clumps_have_several_parents(name: str) -> None:
    # A defect elsewhere: one parent a question, so that questions on clumps with several had to be dropped.
    found = shape(name)
    assert found["clump-count"] == (("1", "2", "3", "4", "5-plus", "cant-tell"), ("clumpy-appearance_yes",))
    assert found["clump-configuration"][0] == ("straight-line", "chain", "cluster-or-irregular", "spiral")
    fractions = np.concatenate([np.eye(len(q.answers))[0] for q in SCHEMAS[name].questions])
    schema = SCHEMAS[name]

    def asked(**answers: str) -> dict[str, float]:
        values = fractions.copy()
        for question, answer in answers.items():
            asked_of = schema.question(f"{question.replace('_', '-')}-{name}")
            values[[schema.columns.index(column) for column in asked_of.columns]] = 0
            values[schema.columns.index(f"{asked_of.name}_{answer}")] = 1
        chances = schema.asked_probability(values)
        return {q.name.removesuffix(f"-{name}"): float(p) for q, p in zip(schema.questions, chances, strict=True)}

    featured = {"smooth_or_featured": "features", "clumpy_appearance": "yes"}
    one = asked(**featured, clump_count="1")
    assert (one["clump-configuration"], one["one-clump-brightest"], one["galaxy-symmetrical"]) == (0, 0, 1)
    two = asked(**featured, clump_count="2", one_clump_brightest="yes", brightest_clump_central="no")
    assert (two["clump-configuration"], two["one-clump-brightest"], two["brightest-clump-central"]) == (0, 1, 1)
    assert two["galaxy-symmetrical"] == two["clumps-embedded-larger-object"] == 0
    four = asked(**featured, clump_count="4", clump_configuration="chain", one_clump_brightest="no")
    assert (four["clump-configuration"], four["one-clump-brightest"], four["brightest-clump-central"]) == (1, 1, 0)
    assert four["galaxy-symmetrical"] == four["clumps-embedded-larger-object"] == 1
    assert asked(smooth_or_featured="features", clumpy_appearance="no")["clump-count"] == 0


def test_no_tree_names_a_question_that_is_not_asked() -> None:
    # A defect elsewhere: parents were kept for edge-on-bulge of GZ2, UKIDSS and Hubble, who never asked it.
    for name in ("gz2", "ukidss", "hubble"):
        assert "edge-on-bulge" not in shape(name)
        assert shape(name)["bulge-shape"][1] == ("disk-edge-on_yes",)


def test_campaigns_in_one_schema_share_no_column() -> None:
    schema = SCHEMAS["gz-evo"]
    parts = [SCHEMAS[name] for name in ("gzd12", "gzd5", "gzd8", "gz2", "candels", "hubble")]
    assert schema.columns == tuple(column for part in parts for column in part.columns)
    assert schema.questions == tuple(question for part in parts for question in part.questions)
    # GZ2 and Hubble spell the first question alike; which one a table means is not told by the name.
    assert "t01_smooth_or_features_a01_smooth_count" not in schema.aliases
    assert schema.aliases["t02_edgeon_a04_yes_count"] == "disk-edge-on-gz2_yes"
    assert schema.aliases["t02_edgeon_a01_yes_count"] == "disk-edge-on-hubble_yes"


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
    def order(name: str) -> list[tuple[str, str]]:
        return [(question, " ".join(answers)) for question, (answers, _) in shape(name).items()]

    assert order("gz2")[1:6] == [
        ("disk-edge-on", "yes no"), ("has-spiral-arms", "yes no"), ("bar", "yes no"),
        ("bulge-size", "dominant obvious just-noticeable no"), ("something-odd", "yes no"),
    ]
    assert order("gz2")[6:8] == [("how-rounded", "round in-between cigar"), ("bulge-shape", "round boxy no-bulge")]
    assert order("gzd12")[4:6] == [("bulge-size", "dominant obvious none"),
                                   ("how-rounded", "completely in-between cigar-shaped")]
    assert order("gzd12")[8:] == [("spiral-arm-count", "1 2 3 4 more-than-4"),
                                  ("merging", "neither tidal-debris both merger")]
    assert [q for q, _ in order("hubble")][:12] == [
        "smooth-or-featured", "how-rounded", "clumpy-appearance", "disk-edge-on", "bulge-shape", "bar",
        "has-spiral-arms", "spiral-winding", "spiral-arm-count", "bulge-size", "galaxy-symmetrical",
        "clumps-embedded-larger-object",
    ]
    assert dict(order("hubble"))["spiral-arm-count"] == "1 2 3 4 5-plus cant-tell"


@pytest.mark.parametrize("name", ["gzd5", "gzd12", "gzd8", "desi", "cosmic-dawn", "euclid", "jwst", "candels"])
def test_merging_follows_smooth_or_featured(name: str) -> None:
    # A defect elsewhere: one parent a question, so that merging was asked of artifacts too.
    second = "features" if name == "candels" else "featured-or-disk"
    assert shape(name)["merging"][1] == ("smooth-or-featured_smooth", f"smooth-or-featured_{second}")


@pytest.mark.parametrize("name", ["gz2", "ukidss"])
def test_gz2_asks_about_arms_only_when_not_edge_on(name: str) -> None:
    # A defect elsewhere: these hung on featured-or-disk, which counts edge-on discs among those who were asked.
    for question in ("has-spiral-arms", "bar", "bulge-size"):
        assert shape(name)[question][1] == ("disk-edge-on_no",)
    assert shape(name)["something-odd"][1] == ("smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk")


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name not in ("rings", "gz-evo")])
def test_winding_is_asked_only_when_there_are_arms(name: str) -> None:
    # A defect elsewhere: for Hubble and CANDELS these hung on "disk-edge-on: no".
    assert shape(name)["spiral-winding"][1] == shape(name)["spiral-arm-count"][1] == ("has-spiral-arms_yes",)


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name not in ("rings", "gz-evo")])
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
        ('["yes", "no"]', "[yes, no]", r'line 6, .*ring.*unquoted yes as a boolean; write it in quotes: "yes"'),
        ('["yes", "no"]', '["yes", no]', r'line 6, .*unquoted no as a boolean; write it in quotes: "no"'),
        ('["yes", "no"]', "[1, 2]", r'reads an unquoted 1 as a number; write it in quotes: "1"'),
        ('a41_no: "no"', "a41_no: no", "line 9, .*unquoted no as a boolean"),
        ("ring: {answers", "yes: {answers", "line 6, questions, key: YAML reads an unquoted yes"),
        ("[smooth, featured, artifact]", "[smooth, ~, artifact]", "expected text, got nothing"),
        ("[smooth, featured, artifact]", "[smooth, [a, b]]", "expected text, got a list"),
        ("suffix: -r1", "suffix: 5", "line 3, suffix: YAML reads an unquoted 5 as a number"),
        ("suffix:", "sufix:", "line 3: unknown key 'sufix'. Did you mean 'suffix'?"),
        ("smooth-or-featured_smooth,", "smooth-or-featured_smoth,", "line 6, .*Did you mean 'smooth-or-featured_sm"),
        ("smooth-or-featured_smooth,", "smooth-or-featured-r1_smooth,", "without the campaign"),
        ("n_ring: ring_yes", "n_ring: ring_maybe", "line 8, aliases, n_ring: no answer column 'ring_maybe'"),
        ("  ring: {answers", "  smooth-or-featured: {answers", "line 6, questions: 'smooth-or-f.* is given twice"),
        ("name: rings", "title: Rings", "a schema needs `name` and one of questions, base, campaigns"),
        ("{answers: [smooth, featured, artifact], after: null}", "[smooth, featured]", "line 5, .*expected `name:"),
        ("answers: [smooth, featured, artifact]", "answers: smooth", "two or more different answers, got smooth"),
        (", after: null", "", "line 5, .*needs `answers`, a list, and `after`; got answers"),
        (", after: null", ", befor: null", "unknown key 'befor'. Known: answers, after"),
        ("questions:", "questions: [", "not readable as YAML"),
        ("[smooth, featured, artifact]", "[smooth, featured, smooth]", "line 5, .*two or more different answers"),
        ("[smooth-or-featured_smooth,", "[smooth-or-featured_smooth, smooth-or-featured_smooth,",
         "question 'ring-r1': names a parent twice"),
        ("n_ring: ring_yes", "ring-r1_no: ring_yes",
         "alias 'ring-r1_no' of column 'ring-r1_yes' is answer 'no' of 'ring-r1' too"),
        ("  ring: {answers", "  q: {answers: [a-r1_b, c], after: null}\n  q-r1_a: {answers: [b, c], after: null}\n"
         "  ring: {answers", "column 'q-r1_a-r1_b' is answer 'a-r1_b' of 'q-r1' and answer 'b' of 'q-r1_a-r1'"),
        ("aliases:", "replace: {}\naliases:", "line 7, replace: does not go with `questions`"),
        ("suffix: -r1", "base: gzd5", "one of questions, base, campaigns; got name, base, questions"),
    ],
)
def test_mistakes_in_a_user_file(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in RINGS
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        load_schema(write(tmp_path, RINGS.replace(old, new, 1)))


def test_a_base_gives_questions_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, RINGS)
    text = """
name: more
suffix: -r2
base: mine.yaml
replace: {ring: {answers: ["yes", "no", unsure], after: smooth-or-featured_smooth}}
add: {bar: {answers: ["yes", "no"], after: ring_unsure}}
"""
    (tmp_path / "more.yml").write_text(text, encoding="utf-8")
    schema = load_schema(tmp_path / "more.yml")
    assert [q.name for q in schema.questions] == ["smooth-or-featured-r2", "ring-r2", "bar-r2"]
    assert schema.question("ring").after == ("smooth-or-featured-r2_smooth",)
    assert schema.question("bar").after == ("ring-r2_unsure",)
    assert not schema.aliases


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base: mine.yaml\nreplace: {rin: {answers: [a, b], after: null}}",
         "line 4, replace, rin: no such question of the base. Did you mean 'ring'? It has: smooth-or-featured, ring"),
        ("base: mine.yaml\nadd: {ring: {answers: [a, b], after: null}}", "the base has this question; use `replace`"),
        ("base: mine.yaml\nreplace: {smooth-or-featured: {answers: [a, b], after: null}}",
         "mine.yaml', line 6, questions, ring, after: no answer column 'smooth-or-featured_smooth'"),
        ("base: gzd6", "line 3, base: no label schema named 'gzd6'"),
        ("base: other.yaml", "base: leads back to itself: .*other.yaml -> .*other.yaml"),
        ("base: gz-evo", "a base must be one campaign"),
        ("campaigns: [gzd5, other.yaml]", "campaigns: leads back to itself"),
        ("campaigns: [gzd5, nowhere.yaml]", "line 3, campaigns: label schema '.*nowhere.yaml': no such file"),
        ("campaigns: [gzd5, gz2, gzd5]",
         "campaigns 'gzd5' and 'gzd5' both ask 'smooth-or-featured-dr5'; columns would mix. Give each"),
        ("campaigns: [gzd5]\nsuffix: -x", "suffix: does not go with `campaigns`"),
    ],
)
def test_mistakes_in_a_base_or_in_campaigns(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path, RINGS)
    (tmp_path / "other.yaml").write_text(f"name: other\n\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        load_schema(tmp_path / "other.yaml")


def test_campaigns_of_mine_beside_shipped_ones(tmp_path: Path) -> None:
    write(tmp_path, RINGS)
    text = "name: all\ncampaigns: [gz2, mine.yaml]\naliases: {n_arms: has-spiral-arms-gz2_yes}\n"
    (tmp_path / "all.yaml").write_text(text, encoding="utf-8")
    schema = load_schema(tmp_path / "all.yaml")
    assert schema.columns == (*SCHEMAS["gz2"].columns, *load_schema(tmp_path / "mine.yaml").columns)
    assert schema.aliases["n_ring"] == "ring-r1_yes"
    assert schema.aliases["n_arms"] == "has-spiral-arms-gz2_yes"


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file is empty"):
        load_schema(write(tmp_path, "\n"))


def test_unknown_name_lists_and_suggests() -> None:
    with pytest.raises(ConfigError, match=r"'gzd6'\. Did you mean 'gzd\d'\? Known: candels, cosmic-dawn, desi, euclid"):
        load_schema("gzd6")
    with pytest.raises(ConfigError, match="no such file"):
        load_schema("nowhere/mine.yaml")


def test_import_is_light() -> None:
    code = "import sys, sciencessl.domains.galaxy.schema; print([m for m in sys.modules if m in ('torch', 'astropy')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
