"""Labels: classes as text, votes matched to a schema by whole questions, and votes that cannot be counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl.data_prep.catalogue import Catalogue
from sciencessl.data_prep.labels import choose_votes, make_labels
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import DomainSpec, LabelSchema, Question

Make = Callable[..., DomainSpec]
SHAPE = ("shape-r1_smooth", "shape-r1_disc")


def catalogue(columns: dict[str, Sequence[Any]]) -> Catalogue:
    return Catalogue(pa.table(columns), "cat.csv", None, "")


def labels(
    columns: dict[str, Sequence[Any]], spec: DomainSpec, classes: Sequence[str] = (), **settings: Any
) -> Any:
    table = catalogue(columns)
    ids = [f"id{i}" for i in range(table.data.num_rows)]
    return make_labels(table, ids, classes, spec, PrepareSettings(**settings))[0]


def test_table_of_classes_and_votes(make_spec: Make) -> None:
    made = labels({"t01_smooth": ["3", None], "t01_disc": ["4", "5"], "class": ["a", None]}, make_spec(), ["class"])
    assert made.schema.name == "rings"
    assert made.data.to_pylist() == [
        {"id": "id0", "class": "a", SHAPE[0]: 3.0, SHAPE[1]: 4.0},
        {"id": "id1", "class": None, SHAPE[0]: 0.0, SHAPE[1]: 5.0},
    ]


def test_without_labels_there_is_no_table(make_spec: Make) -> None:
    assert labels({"mag": [1.0]}, make_spec()) is None


@pytest.mark.parametrize(("values", "message"), [
    (["1", "-2"], r"'shape-r1_smooth': 1 value\(s\) are negative or not finite, the first -2 at id 'id1'"),
    (["nan", "2"], r"1 value\(s\) are negative or not finite, the first nan at id 'id0'"),
    (["inf", "2"], "negative or not finite, the first inf"),
    (["many", "2"], "expected numbers, got text"),
])
def test_votes_that_are_no_counts(make_spec: Make, values: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels({SHAPE[0]: values, SHAPE[1]: ["1", "1"]}, make_spec())


def test_fractions_are_refused_and_weighted_counts_are_not(make_spec: Make) -> None:
    with pytest.raises(DataError, match="fractions where counts are needed"):
        labels({SHAPE[0]: [0.25, 1.0], SHAPE[1]: [0.75, 0.0]}, make_spec())
    weighted = labels({SHAPE[0]: [0.25, 10.5], SHAPE[1]: [0.75, 0.0]}, make_spec())
    np.testing.assert_allclose(weighted.data[SHAPE[0]].to_numpy(), [0.25, 10.5])
    assert labels({SHAPE[0]: [1, 0], SHAPE[1]: [0, 1]}, make_spec()) is not None


def test_named_votes_and_schemas(make_spec: Make) -> None:
    spec = make_spec()
    columns = {SHAPE[0]: [1], SHAPE[1]: [2], "ring_yes": [1], "ring_no": [1], "mag": [1.0]}
    assert len(labels(columns, spec).data.column_names) == 5
    assert labels(columns, spec, votes=SHAPE).data.column_names == ["id", *SHAPE]
    assert labels(columns, spec, schema="rings", votes=SHAPE).data.column_names == ["id", *SHAPE]
    with pytest.raises(ConfigError, match=r"no label schema named 'ring'\. Did you mean 'rings'"):
        labels(columns, spec, schema="ring")
    with pytest.raises(ConfigError, match="--votes mag: no whole question"):
        labels(columns, spec, votes=(*SHAPE, "mag"))
    with pytest.raises(ConfigError, match=r"--votes shape-r1_smoth: no such column.*Did you mean 'shape-r1_smooth'"):
        labels(columns, spec, votes=("shape-r1_smoth",))
    with pytest.raises(ConfigError, match="are no whole question of any schema"):
        labels(columns, spec, votes=("mag",))
    with pytest.raises(ConfigError, match="has no whole question of it"):
        labels({"mag": [1.0]}, spec, schema="rings")


def test_columns_that_are_nearly_votes_are_named_not_dropped_in_silence(make_spec: Make) -> None:
    table = catalogue({"shape-gz9_smooth": [1], "shape-gz9_disk": [2], "mag": [1.0], "shapely": [3]})
    votes, said = choose_votes(table, make_spec(), PrepareSettings())
    assert votes is None
    assert len(said) == 1
    assert said[0].startswith("votes: none taken: columns such as shape-gz9_smooth, shape-gz9_disk look like answers")
    assert "--schema names one" in said[0]
    assert choose_votes(catalogue({"mag": [1.0]}), make_spec(), PrepareSettings()) == (None, [])


def test_columns_that_fit_two_schemas_are_left_until_one_is_named(make_spec: Make) -> None:
    twins = {name: LabelSchema(name, (Question("shape", ("a", "b")),)) for name in ("one", "two")}
    spec = make_spec(labels=twins)
    table = catalogue({"shape_a": [1], "shape_b": [2]})
    votes, said = choose_votes(table, spec, PrepareSettings())
    assert votes is None
    assert said == ["votes: columns such as shape_a, shape_b fit one and two; pass --schema to take them"]
    chosen, _ = choose_votes(table, spec, PrepareSettings(schema="two"))
    assert chosen is not None
    assert chosen.schema is twins["two"]
    with pytest.raises(ConfigError, match="fit the schemas one, two equally well"):
        choose_votes(table, spec, PrepareSettings(votes=("shape_a", "shape_b")))


def test_a_named_schema_with_a_part_of_a_question_is_refused_and_a_guess_says_so(make_spec: Make) -> None:
    columns = {SHAPE[0]: [1], SHAPE[1]: [2], "ring-r1_yes": [1], "mag": [1.0]}
    with pytest.raises(ConfigError, match=r"--schema rings: catalogue cat.csv lacks 1 column\(s\) of schema"):
        labels(columns, make_spec(), schema="rings")
    table = catalogue(columns)
    made, _, said = make_labels(table, ["a"], (), make_spec(), PrepareSettings())
    assert made is not None
    assert made.data.column_names == ["id", *SHAPE]
    assert said == [
        "votes: questions that are only partly there are left out; missing are ring-r1_no",
        "votes: 2 columns of schema 'rings'; without ring-r1",
    ]


def test_of_schemas_that_fit_alike_the_one_by_name_is_taken_then_the_smallest(make_spec: Make) -> None:
    names = ("shape", ("a", "b"))
    spec = make_spec(labels={
        "bare": LabelSchema("bare", (Question(*names),)),
        "one": LabelSchema("one", (Question("shape-one", names[1]),)),
        "both": LabelSchema("both", (Question("shape-one", names[1]), Question("shape-two", names[1]))),
    })
    made, _, said = make_labels(catalogue({"shape_a": [1], "shape_b": [2]}), ["x"], (), spec, PrepareSettings())
    assert made is not None
    assert made.data.column_names == ["id", "shape_a", "shape_b"]
    assert said[0] == "votes: the same columns, without their campaign, fit one; --schema takes one"
    own = make_labels(catalogue({"shape-one_a": [1], "shape-one_b": [2]}), ["x"], (), spec, PrepareSettings())
    assert own[0] is not None
    assert own[0].schema is spec.labels["one"]
    assert own[2] == ["votes: 2 columns of schema 'one'"]


def test_campaigns_in_one_table_are_one_schema_and_unasked_cells_are_zeros(make_spec: Make) -> None:
    both = LabelSchema("both", (Question("bar-one", ("a", "b")), Question("bar-two", ("a", "b"))))
    spec = make_spec(labels={q.name: LabelSchema(q.name, (q,)) for q in both.questions} | {"both": both})
    columns = {"bar-one_a": ["3", None], "bar-one_b": ["1", None], "bar-two_a": [None, "2"], "bar-two_b": [None, "7"]}
    made = labels(columns, spec)
    assert made.schema is both
    assert [list(row.values())[1:] for row in made.data.to_pylist()] == [[3, 1, 0, 0], [0, 0, 2, 7]]


def test_fractions_are_taken_with_a_sentence_and_without_totals_left_with_one(make_spec: Make) -> None:
    columns: dict[str, Sequence[Any]] = {f"{SHAPE[0]}_fraction": [0.75], f"{SHAPE[1]}_fraction": [0.25]}
    told = make_labels(catalogue({**columns, "shape-r1_total-votes": [8]}), ["x"], (), make_spec(), PrepareSettings())
    assert told[0] is not None
    assert told[0].data.to_pylist() == [{"id": "x", SHAPE[0]: 6.0, SHAPE[1]: 2.0}]
    assert told[1] == list(columns)
    assert told[2] == [
        "votes: 2 columns of schema 'rings', fractions times how many answered (shape-r1_total-votes); without ring-r1"
    ]
    untold = make_labels(catalogue(columns), ["x"], (), make_spec(), PrepareSettings())
    assert untold[0] is None
    assert untold[2][0].endswith("are fractions, and no column, such as shape-r1_total-votes, says of how many")
    with pytest.raises(ConfigError, match="no column says how many answered shape-r1"):
        labels(columns, make_spec(), schema="rings")


def test_the_form_of_votes_can_be_chosen(make_spec: Make) -> None:
    columns = {"t01_smooth": [3], "t01_disc": [5], "t01_smooth_weight": [2.5], "t01_disc_weight": [4.75]}
    assert labels(columns, make_spec()).data.to_pylist()[0][SHAPE[1]] == 5
    assert labels(columns, make_spec(), votes_from="weights").data.to_pylist()[0][SHAPE[1]] == 4.75
    with pytest.raises(ConfigError, match="votes_from is 'share'; it must be one of counts, weights, fractions"):
        labels(columns, make_spec(), votes_from="share")
    with pytest.raises(ConfigError, match=r"--votes-from fractions: .* are fractions, and no column, .* says of how"):
        labels(columns, make_spec(), votes_from="fractions")


def test_a_total_that_is_missing_does_not_make_another_campaign_of_a_table(make_spec: Make) -> None:
    root, edge, answers = "root", Question("edge", ("yes", "no")), ("smooth", "disc")
    spec = make_spec(labels={
        "own": LabelSchema("own", (Question(root, answers), edge)),
        "other": LabelSchema("other", (Question(root, (*answers, "star")), edge)),
    })
    columns = {f"{c}_fraction": [0.5] for c in ("root_smooth", "root_disc", "edge_yes", "edge_no")}
    made, _, said = make_labels(
        catalogue({**columns, "edge_total-votes": [8]}), ["x"], (), spec, PrepareSettings())
    assert made is None
    assert said[0].endswith("are fractions, and no column, such as root_total-votes, says of how many")


def test_a_schema_that_holds_the_one_that_fits_is_no_other_reading(make_spec: Make) -> None:
    aliases = {"t01_a_count": "shape-one_a", "t01_b_count": "shape-one_b"}
    one = Question("shape-one", ("a", "b"))
    both = LabelSchema("both", (one, Question("shape-two", ("a", "b"))), aliases)
    spec = make_spec(labels={"one": LabelSchema("one", (one,), aliases), "both": both})
    said = make_labels(catalogue({"t01_a": [1], "t01_b": [2]}), ["x"], (), spec, PrepareSettings())[2]
    assert said == ["votes: 2 columns of schema 'one'"]
