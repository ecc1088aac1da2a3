"""Votes of volunteers come back beside the pixels, with how their subjects were sampled."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest

from sciencessl import cli
from sciencessl.errors import ConfigError, StoreError
from sciencessl.registry import load_domain
from sciencessl.store.reader import Store
from sciencessl.store.tables import write_table
from sciencessl.store.volunteers import label_votes, votes_text

MAP = """
schema: gz2
tasks:
  T0: {question: smooth-or-featured, answers: {Smooth: smooth, Features: featured-or-disk, Star: artifact}}
"""


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    (tmp_path / "map.yaml").write_text(MAP)
    return tmp_path / "map.yaml"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Six rows on a0, c1 and a sample that no store has, the last one cut."""
    path = tmp_path / "classifications.csv"
    rows = [("1", "a0", "Smooth", "bald"), ("2", "a0", "Features", "bald"), ("1", "a0", "Smooth", "bald"),
            ("1", "c1", "Star", "random"), ("3", "zz", "Star", "random")]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "workflow_id", "metadata", "annotations", "subject_data"])
        for user, name, answer, how in rows:
            subject = {"77": {"subject_id": name, "#sampled_by": how}}
            writer.writerow([user, "5", "{}", json.dumps([{"task": "T0", "value": answer}]), json.dumps(subject)])
        stream.write("4,5,{}\n")
    return path


def test_votes_lie_beside_the_pixels_and_say_how_they_were_sampled(
    survey: Store, export: Path, questions: Path
) -> None:
    found = label_votes(survey.path, export, questions, note="first batch")
    assert (found.matched, found.unknown, found.unknown_ids, found.unchanged) == (2, 1, ("zz",), False)
    stem = "smooth-or-featured-gz2_"
    table = survey.table("votes")
    assert table.schema is not None
    assert len(table.schema.questions) > 1  # the whole tree: what is asked after what
    assert {row["id"]: row for row in table.data.to_pylist()} == {
        "a0": {"id": "a0", f"{stem}smooth": 1, f"{stem}featured-or-disk": 1, f"{stem}artifact": 0,
               "sampled_by": "bald", "classifications": 2},
        "c1": {"id": "c1", f"{stem}smooth": 0, f"{stem}featured-or-disk": 0, f"{stem}artifact": 1,
               "sampled_by": "random", "classifications": 1},
    }
    assert table.note.startswith("first batch; votes of volunteers: Zooniverse export classifications.csv (")
    assert found.sampled == "labels, 1 of 2 of samples that bald chose, not a random draw"
    text = votes_text(found)
    assert "refused: 1 bad-csv\n  line 7: bad-csv, 3 cells, 5 columns: is the file whole?" in text
    assert "1 subjects are no sample of the store, such as 'zz'" in text
    assert label_votes(survey.path, export, questions, note="first batch").unchanged


def test_the_next_export_replaces_the_table_only_when_asked(survey: Store, export: Path, questions: Path) -> None:
    label_votes(survey.path, export, questions)
    export.write_text(export.read_text().replace("Star", "Smooth"))
    with pytest.raises(StoreError, match=r"another table 'votes' \(2 rows"):
        label_votes(survey.path, export, questions)
    assert not label_votes(survey.path, export, questions, overwrite=True).unchanged


def test_votes_are_added_to_those_of_another_table(survey: Store, export: Path, questions: Path) -> None:
    columns = [f"smooth-or-featured-gz2_{answer}" for answer in ("smooth", "featured-or-disk", "artifact")]
    schema = load_domain("galaxy").labels["gz2"]
    old = {name: [1.0, 2.0] for name in columns}
    old |= {"disk-edge-on-gz2_yes": [3.0, 0.0], "disk-edge-on-gz2_no": [0.0] * 2}
    write_table(survey.path, "earlier", pa.table({"id": ["c1", "c2"], **old}), schema)
    assert any("table 'votes' hides smooth-or-featured-gz2_smooth and 2 more of table 'earlier'" in line
               for line in label_votes(survey.path, export, questions).counted)
    found = label_votes(survey.path, export, questions, overwrite=True, add_to="earlier")
    assert found.matched == 2
    rows = {row["id"]: row for row in survey.table("votes").data.to_pylist()}
    assert [rows["a0"][column] for column in columns] == [1, 1, 0]
    assert [rows["c1"][column] for column in columns] == [1, 1, 2]
    assert [rows["c2"][column] for column in columns] == [2, 2, 2]
    assert [rows[name]["disk-edge-on-gz2_yes"] for name in ("a0", "c1", "c2")] == [0, 3, 0]
    # Tables that say nothing of it were drawn at random.
    assert [rows[name]["sampled_by"] for name in ("a0", "c1", "c2")] == ["bald", "random", "random"]
    assert label_votes(survey.path, export, questions, add_to="earlier").unchanged  # counted once, however often
    with pytest.raises(ConfigError, match=r"--add-to votes is the table that is written: .* would count them twice"):
        label_votes(survey.path, export, questions, add_to="votes")
    with pytest.raises(ConfigError, match=r"--add-to labels: that table has no votes on smooth-or-featured-gz2_smooth"):
        label_votes(survey.path, export, questions, add_to="labels")


def test_a_schema_may_be_a_file_or_must_be_known(
    survey: Store, export: Path, questions: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nquestions: {shape: {answers: [round, flat], after: null}}\n")
    answers = "{Smooth: round, Features: flat, Star: null}"
    questions.write_text(f"schema: {own}\ntasks: {{T0: {{question: shape, answers: {answers}}}}}\n")
    assert label_votes(survey.path, export, questions).columns[:2] == ("shape_round", "shape_flat")
    with pytest.raises(ConfigError, match=r"--schema: no label schema named 'gzz'.*gz2"):
        label_votes(survey.path, export, questions, schema="gzz")


def test_the_verb_counts_refusals_in_its_exit_code(
    survey: Store, export: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["store", "label", str(survey.path), str(export), "--from", "zooniverse"]
    assert cli.run([*words, "--questions", str(questions), "--json"]) == 3
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["refused"][0]["line"], shown["refused"][0]["reason"]) == ("votes", 7, "bad-csv")
    export.write_text("".join(export.read_text().splitlines(keepends=True)[:-1]))
    assert cli.run([*words, "--questions", str(questions), "--overwrite"]) == 0
    assert "table digest" in capsys.readouterr().out
    assert cli.run(words) == 2
    assert "--from zooniverse needs --questions FILE.yaml" in capsys.readouterr().err
    assert cli.run([*words, "--questions", "x.yaml", "--columns", "a"]) == 2
    assert "--columns is for tables, and means nothing for --from zooniverse" in capsys.readouterr().err
    assert cli.run([*words[:-2], "--questions", str(questions)]) == 2
    assert "--questions is for --from zooniverse" in capsys.readouterr().err
