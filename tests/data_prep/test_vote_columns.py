"""Votes found in a catalogue: by name, alias and name without campaign, as counts, weights or fractions."""

from __future__ import annotations

import dataclasses
import re

import pytest

from sciencessl.data_prep.vote_columns import check_matched, match_columns
from sciencessl.domains.galaxy.schema import SCHEMAS
from sciencessl.errors import ConfigError
from sciencessl.spec import LabelSchema, Question

SMOOTH, DISC = SHAPE = ("shape-r1_smooth", "shape-r1_disc")
RINGS = LabelSchema(
    "rings",
    (Question("shape-r1", ("smooth", "disc")), Question("ring-r1", ("yes", "no"), (DISC,))),
    aliases={"t01_shape_a01_smooth_count": SMOOTH, "t01_shape_a02_disc_count": DISC, "n_ring": "ring-r1_yes"},
)


def test_by_name_alias_and_name_without_campaign() -> None:
    assert match_columns(RINGS, [*SHAPE, "x"]).columns == dict(zip(SHAPE, SHAPE, strict=True))
    alias = {SMOOTH: "t01_shape_a01_smooth_count", DISC: "t01_shape_a02_disc_count"}
    assert match_columns(RINGS, [*reversed(alias.values())]).columns == alias
    assert match_columns(RINGS, ["ring_yes", "ring_no"]).columns == {"ring-r1_yes": "ring_yes", "ring-r1_no": "ring_no"}
    assert match_columns(RINGS, ["n_ring", "ring_no"]).columns["ring-r1_yes"] == "n_ring"
    assert match_columns(RINGS, ["ring_yes", SMOOTH]).columns == {}


def test_our_name_goes_before_others() -> None:
    schema = SCHEMAS["gzd5"]
    bare = [column.replace("-dr5_", "_") for column in schema.columns]
    found = match_columns(schema, bare)
    assert list(found.columns.items()) == list(zip(schema.columns, bare, strict=True))
    assert found.by_name == 0
    both = match_columns(schema, [*bare, *schema.columns])
    assert both.columns == {column: column for column in schema.columns}
    assert both.by_name == 34
    check_matched(both, "table")


@pytest.mark.parametrize(("ending", "form"), [("count", "counts"), ("weight", "weights"), ("fraction", "fractions")])
def test_all_columns_of_the_gz2_release(ending: str, form: str) -> None:
    schema = SCHEMAS["gz2"]
    released = [name.removesuffix("count") + ending for name in schema.aliases]
    assert len(released) == 30
    totals = ["t01_smooth_or_features_total_count", "t06_odd_total_count"]
    found = match_columns(schema, ["dr7objid", *released, *totals])
    assert found.form == form
    assert set(found.columns.values()) == set(released)
    assert found.columns["bulge-size-gz2_no"] == f"t05_bulge_prominence_a10_no_bulge_{ending}"
    assert found.columns["spiral-arm-count-gz2_more-than-4"] == f"t11_arms_number_a36_more_than_4_{ending}"
    assert found.totals["smooth-or-featured-gz2"] == totals[0]
    assert found.untold == ()


def test_counts_before_weights_before_fractions() -> None:
    stems = [f"t01_shape_{answer}" for answer in ("a01_smooth", "a02_disc")]
    table = [f"{stem}_{ending}" for ending in ("fraction", "weight", "count") for stem in stems]
    table.append("t01_shape_total_count")
    assert [match_columns(RINGS, table[start:]).form for start in (0, 2, 4)] == ["counts"] * 3
    assert match_columns(RINGS, table[:4]).form == "weights"
    assert match_columns(RINGS, [*table[:2], table[-1]]).form == "fractions"
    for form in ("counts", "weights", "fractions"):
        assert match_columns(RINGS, table, form).form == form


def test_the_candels_release_has_fractions_and_totals() -> None:
    schema = SCHEMAS["candels"]
    released = [name.removesuffix("count") + "frac" for name in schema.aliases]
    totals = dict.fromkeys("_".join(name.split("_a")[0].split("_")) + "_count" for name in released)
    found = match_columns(schema, ["ID", *released, *totals])
    assert found.form == "fractions"
    assert len(found.columns) == 50
    assert found.totals["smooth-or-featured-candels"] == "t00_smooth_or_featured_count"
    assert found.totals["merging-candels"] == "t16_merging_tidal_debris_count"


def test_fractions_need_to_be_of_something() -> None:
    fractions = [f"{column}_fraction" for column in RINGS.columns]
    alone = match_columns(RINGS, fractions)
    assert not alone.usable
    assert [question.name for question in alone.untold] == ["shape-r1", "ring-r1"]
    says = "how many answered shape-r1, ring-r1. Add one that is called shape-r1_total-votes, or name count columns"
    with pytest.raises(ConfigError, match=f"are fractions, and no column says {re.escape(says)}"):
        check_matched(alone, "table t")
    bare = match_columns(RINGS, ["shape_smooth_fraction", "shape_disc_fraction"])
    assert bare.total_name(RINGS.question("shape")) == "shape_total-votes"
    # The second question was put to those whom an answer of the first led there.
    assert match_columns(RINGS, [*fractions, "shape-r1_total-votes"]).usable
    assert match_columns(RINGS, [*fractions, "num_classifications"]).totals == {"shape-r1": "num_classifications"}
    assert [q.name for q in match_columns(RINGS, [*fractions, "ring-r1_total-votes"]).untold] == ["shape-r1"]


def test_missing_columns_are_listed() -> None:
    schema = SCHEMAS["gzd5"]
    given = [column for column in schema.columns if column not in ("bar-dr5_weak", "bar-dr5_no", "bulge-size-dr5_none")]
    found = match_columns(schema, given)
    assert "bar-dr5" not in {question.name for question in found.questions}
    with pytest.raises(ConfigError, match=r"table t lacks 3 column\(s\) of schema 'gzd5': bar-dr5_weak, bar-dr5_no, "
                                          r"bulge-size-dr5_none\. Questions that are partly there cannot be used"):
        check_matched(found, "table t")
    with pytest.raises(ConfigError, match="'shape-r1_disc' may also be called t01_shape_a02_disc_count"):
        check_matched(match_columns(RINGS, [SMOOTH]), "t")
    check_matched(match_columns(schema, schema.question("bar").columns), "table t")


def test_two_spellings_of_one_column() -> None:
    found = match_columns(RINGS, ["n_ring", "ring_yes", "ring_no"])
    assert found.columns["ring-r1_yes"] == "n_ring"
    with pytest.raises(ConfigError, match=r"spells column 'ring-r1_yes'.*more than once: n_ring, ring_yes. Name"):
        check_matched(found, "table t")


def test_a_schema_without_a_campaign_has_no_other_names() -> None:
    assert match_columns(SCHEMAS["desi"], SCHEMAS["desi"].columns).by_name == 34
    merged = dataclasses.replace(SCHEMAS["gz-evo"], aliases={})
    assert not match_columns(merged, SCHEMAS["desi"].columns).columns
