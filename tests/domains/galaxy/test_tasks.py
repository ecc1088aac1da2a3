"""Few-label tasks of the galaxy domain."""

from __future__ import annotations

from sciencessl.domains.galaxy import SPEC
from sciencessl.domains.galaxy.tasks import MORPHOLOGY, RINGS, SPIRAL_EDGE_ON
from sciencessl.evaluate.subsets import parse_budget


def test_tasks_stand_in_the_spec_and_describe_themselves() -> None:
    assert SPEC.tasks == (MORPHOLOGY, SPIRAL_EDGE_ON, RINGS)
    columns = {column.name: column.role for column in SPEC.columns}
    for task in SPEC.tasks:
        assert columns[task.column] == "label" if task.column else task.columns == SPEC.labels["rings"].columns
        assert task.description
        assert [str(parse_budget(budget)) for budget in task.budgets][-1] == "all"


def test_morphology_joins_both_spirals_and_drops_mergers_and_doubt() -> None:
    assert set(MORPHOLOGY.classes.values()) == {"elliptical", "spiral", "edge-on"}
    assert MORPHOLOGY.classes["spiral-clockwise"] == MORPHOLOGY.classes["spiral-anticlockwise"] == "spiral"
    assert not {"merger", "dont-know"} & set(MORPHOLOGY.classes)
    assert MORPHOLOGY.budgets == ("50", "250", "750", "all")


def test_spiral_against_edge_on_leaves_ellipticals_out() -> None:
    assert set(SPIRAL_EDGE_ON.classes.values()) == {"spiral", "edge-on"}
    assert "elliptical" not in SPIRAL_EDGE_ON.classes


def test_a_ring_has_more_than_half_of_the_votes_and_everything_else_is_none() -> None:
    assert (RINGS.above, RINGS.least_votes) == (0.5, 10)
    assert RINGS.classes == {"ring_yes": "ring", "ring_no": "no ring", "no majority": "no ring"}


def test_classes_are_those_of_galaxy_zoo_and_of_the_synthetic_survey() -> None:
    from sciencessl.domains.galaxy.morphology import CLASSES
    from sciencessl.domains.galaxy.votes import CLASS_FRACTIONS

    assert set(MORPHOLOGY.classes) - {"spiral"} == set(CLASS_FRACTIONS) - {"merger", "dont-know", "spiral"}
    assert set(CLASSES) - {"merger"} <= set(MORPHOLOGY.classes)
