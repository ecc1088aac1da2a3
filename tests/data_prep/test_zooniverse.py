"""Exports of volunteers' projects: what counts as a vote, and what is refused with line and reason."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sciencessl.data_prep.question_map import QuestionMap, read_question_map
from sciencessl.data_prep.zooniverse import Votes, read_export, read_vote_table
from sciencessl.errors import ConfigError, DataError
from sciencessl.spec import LabelSchema, Question

SCHEMA = LabelSchema("rings", (Question("shape", ("smooth", "disk")), Question("ring", ("yes", "no"), ("shape_disk",))))
HEADER = ("classification_id", "user_name", "user_id", "user_ip", "workflow_id", "gold_standard", "metadata",
          "annotations", "subject_data")
KNOWN = ("g1", "g2", "g3")
MAP = """
tasks:
  T0: {question: shape, answers: {Smooth: smooth, Features or disk: disk, Not sure: null}}
  T1: {question: ring, answers: {'Yes': 'yes', 'No': 'no'}}
"""


def row(
    user: str = "1", subject: str = "g1", t0: Any = "Smooth", t1: Any = None, *, workflow: str = "7", gold: str = "",
    session: str = "", ip: str = "", shown: dict[str, Any] | None = None, **metadata: Any,
) -> dict[str, Any]:
    """A row of an export as Zooniverse writes it."""
    annotations = [{"task": "T0", "task_label": "Shape?", "value": t0}, {"task": "T1", "value": t1}]
    told = {"session": session, **(shown or {})}
    return {
        "classification_id": "5", "user_name": f"n{user}", "user_id": user, "user_ip": ip, "workflow_id": workflow,
        "gold_standard": gold, "metadata": json.dumps(told), "annotations": json.dumps(annotations),
        "subject_data": json.dumps({"9001": {"retired": None, "subject_id": subject, **metadata}}),
    }


def export(folder: Path, rows: Sequence[dict[str, Any]], header: Sequence[str] = HEADER) -> Path:
    path = folder / "export.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, header)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def questions(tmp_path: Path) -> QuestionMap:
    (tmp_path / "map.yaml").write_text(MAP)
    return read_question_map(tmp_path / "map.yaml", SCHEMA)


def read(folder: Path, questions: QuestionMap, *rows: dict[str, Any], **options: Any) -> Votes:
    return read_export(export(folder, rows), questions, KNOWN, **options)


def reasons(votes: Votes) -> list[tuple[int, str]]:
    return [(refused.line, refused.reason) for refused in votes.refused]


def test_votes_are_counted_by_sample_and_answer(tmp_path: Path, questions: QuestionMap) -> None:
    votes = read(tmp_path, questions, row("1", t0="Features or disk", t1="Yes"), row("2"), row("3", "g2"),
                 row("4", t0="Not sure"), row("5", t0=["![x](a.png) **features or disk**"], t1="No"))
    table = votes.table()
    assert table.column_names == ["id", "shape_smooth", "shape_disk", "ring_yes", "ring_no", "classifications"]
    assert table.to_pylist() == [
        {"id": "g1", "shape_smooth": 1, "shape_disk": 2, "ring_yes": 1, "ring_no": 1, "classifications": 4},
        {"id": "g2", "shape_smooth": 1, "shape_disk": 0, "ring_yes": 0, "ring_no": 0, "classifications": 1},
    ]
    assert not votes.refused


def test_each_volunteer_counts_once_a_subject_and_the_first_time(tmp_path: Path, questions: QuestionMap) -> None:
    votes = read(
        tmp_path, questions, row("1"), row("1", t0="Features or disk"), row("1", "g2"),
        # Two people behind one address are two sessions; without a session the address tells.
        row("", session="a", ip="x"), row("", session="b", ip="x"), row("", session="a", ip="y"),
        row("", "g3", ip="x"), row("", "g3", ip="x"), row("", "g3", ip="z"),
    )
    assert votes.repeated == 3
    assert votes.counts["g1"] == {"shape_smooth": 3}
    assert votes.classifications == {"g1": 3, "g2": 1, "g3": 2}
    assert len(votes.people) == 5


def test_what_is_no_vote_is_refused_by_line_and_reason(tmp_path: Path, questions: QuestionMap) -> None:
    seen = {"subject_selection_state": {"already_seen": True, "retired": False}}
    retired = {"subject_selection_state": {"already_seen": False, "retired": True}}
    two = row() | {"subject_data": json.dumps({"1": {"subject_id": "g1"}, "2": {"subject_id": "g2"}})}
    nameless = row() | {"subject_data": json.dumps({"1": {"retired": None}})}
    votes = read(
        tmp_path, questions, row("0"), row() | {"annotations": "[{"}, row() | {"annotations": "3"},
        row() | {"annotations": '["T0"]'}, row() | {"subject_data": ""}, row() | {"metadata": "{]"}, row(gold="true"),
        row(shown=retired), row(shown=seen), two, nameless, row(t0=["Smooth", "Features or disk"]), row(t0=3),
        row("99"),
    )
    assert reasons(votes) == [
        (3, "bad-json"), (4, "bad-json"), (5, "bad-json"), (6, "bad-json"), (7, "bad-json"), (8, "gold-standard"),
        (9, "after-retirement"), (10, "seen-before"), (11, "no-subject"), (12, "no-id"), (13, "several-answers"),
        (14, "no-answer"),
    ]
    assert votes.counts == {"g1": {"shape_smooth": 2}}
    assert "annotations holds a int, expected a list" in votes.refused[1].detail


def test_a_file_that_was_cut_loses_its_last_row_alone(tmp_path: Path, questions: QuestionMap) -> None:
    path = export(tmp_path, [row("1"), row("2", "g2"), row("3", "g3")])
    whole = path.read_bytes()
    for cut in (len(whole) - 20, len(whole) - 150, whole.rindex(b"7,") + 1):
        path.write_bytes(whole[:cut])
        votes = read_export(path, questions, KNOWN)
        assert list(votes.counts) == ["g1", "g2"]
        assert reasons(votes) == [(4, "bad-csv")]
    assert "7 columns" not in votes.refused[0].detail
    assert "9 columns: is the file whole?" in votes.refused[0].detail


def test_how_subjects_were_sampled_comes_back_from_their_metadata(tmp_path: Path, questions: QuestionMap) -> None:
    mark = "#sampled_by"
    votes = read(tmp_path, questions, row("1", "g1", **{mark: "bald"}), row("2", "g2", **{mark: "random"}),
                 row("3", "g3"), row("4", "g2", **{mark: "bald"}))
    # g2 was drawn at random, and by chance chosen as well: a random draw it stays.
    assert votes.table()["sampled_by"].to_pylist() == ["bald", "random", None]


def test_metadata_of_any_name_may_hold_the_ids(tmp_path: Path, questions: QuestionMap) -> None:
    assert list(read(tmp_path, questions, row(subject="77", **{"//iauname": "g2"})).counts) == ["g2"]
    assert list(read(tmp_path, questions, row(subject="g1", **{"#mine": "g2"}), id="mine").counts) == ["g2"]
    with pytest.raises(DataError, match=r"none of the 1 subjects is in the store. They are called 'x1'; the store has "
                                        r"'g1', 'g2', 'g3'.*--id \(there are: .*subject_id, file\)"):
        read(tmp_path, questions, row(subject="x1", file="a.png"))


def test_a_workflow_of_several_must_be_named(tmp_path: Path, questions: QuestionMap) -> None:
    rows = [row("1"), row("2", workflow="8"), row("3", t0="Features or disk")]
    with pytest.raises(ConfigError, match=r"several workflows.*: 7 \(2 rows\), 8 \(1 rows\). Write `workflow: NUMBER`"):
        read(tmp_path, questions, *rows)
    votes = read(tmp_path, QuestionMap("7", questions.tasks), *rows)
    assert (votes.other_workflows, votes.classifications.total()) == (1, 2)
    with pytest.raises(ConfigError, match=r"has no workflow 77, which the map of questions names.* Workflows: 7, 8"):
        read(tmp_path, QuestionMap("77", questions.tasks), *rows)


def test_an_answer_that_the_map_lacks_stops_with_its_line(tmp_path: Path, questions: QuestionMap) -> None:
    with pytest.raises(DataError, match=r"export.csv, line 3, task T0: the map of questions has no answer 'Smoothe' "
                                        r"for question 'shape'. Did you mean 'Smooth'\? It has 'Smooth', 'Features or"):
        read(tmp_path, questions, row("1"), row("2", t0="Smoothe"))


def test_combined_tasks_are_opened_and_other_tasks_counted(tmp_path: Path, questions: QuestionMap) -> None:
    combined = [{"task": "T9", "value": [{"task": "T0", "value": "Smooth"}, {"task": "T1", "value": "No"}]},
                {"task": "T5", "value": "marks"}]
    votes = read(tmp_path, questions, row() | {"annotations": json.dumps(combined)})
    assert votes.counts == {"g1": {"shape_smooth": 1, "ring_no": 1}}
    assert votes.other_tasks == {"T5": 1}


def test_skipped_tasks_leave_a_subject_without_votes(tmp_path: Path, questions: QuestionMap) -> None:
    votes = read(tmp_path, questions, row(t0=None), row("2", "g2", t0=""))
    found = votes.table().select(["shape_smooth", "shape_disk"])
    assert found.to_pylist() == [{"shape_smooth": 0, "shape_disk": 0}] * 2


@pytest.mark.parametrize(("text", "message"), [
    ("", r"has the columns \(none: the file is empty\); expected workflow_id, annotations, subject_data"),
    (",".join(HEADER) + "\n", r"has no row that gives a vote\."),
    (",".join(HEADER) + "\n1,2\n", r"has no row that gives a vote \(refused: 1 bad-csv\)"),
    ("id,smooth\n1,2\n", r"has the columns id, smooth; expected"),
])
def test_files_that_are_no_export(tmp_path: Path, questions: QuestionMap, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_export(tmp_path / "x.csv", questions, KNOWN)


def test_reductions_are_counts_already(tmp_path: Path, questions: QuestionMap) -> None:
    path = tmp_path / "question_reducer_7.csv"
    path.write_text("subject_id,workflow_id,task,reducer,data.smooth,data.features-or-disk,data.yes,data.no,"
                    "data.aggregation_version\n9001,7,T0,q,3,1,,,4.1\n9001,7,T1,q,,,1,0,4.1\n9002,7,T0,q,0,5,,,4.1\n"
                    "9002,7,T0,q,0,5,,,4.1\n9003,7,T0,q,x,5,,,4.1\n9004,7,T0,q,1,5,,,4.1\n")
    subjects = tmp_path / "subjects.csv"
    subjects.write_text('subject_id,metadata\n9001,"{""subject_id"": ""g1"", ""#sampled_by"": ""bald""}"\n'
                        '9002,"{""subject_id"": ""g2"", ""#sampled_by"": ""random""}"\n'
                        '9003,"{""subject_id"": ""g3""}"\n')
    votes = read_export(path, questions, KNOWN, subjects=str(subjects))
    assert votes.table().to_pylist() == [
        {"id": "g1", "shape_smooth": 3, "shape_disk": 1, "ring_yes": 1, "ring_no": 0, "sampled_by": "bald"},
        {"id": "g2", "shape_smooth": 0, "shape_disk": 5, "ring_yes": 0, "ring_no": 0, "sampled_by": "random"},
    ]
    assert reasons(votes) == [(5, "repeated"), (6, "no-count"), (7, "no-id")]
    with pytest.raises(DataError, match=r"give the project's subjects.csv with --subjects"):
        read_export(path, questions, KNOWN)
    subjects.write_text("subject_id,metadata\n9001,{\n")
    with pytest.raises(DataError, match=r"--subjects .*subjects.csv, line 2: metadata: "):
        read_export(path, questions, KNOWN, subjects=str(subjects))


def test_sentences_and_note_say_what_was_counted(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(MAP)
    path = export(tmp_path, [row("1", t1="Yes"), row("1"), row("2", "g2", t0=None)])
    with pytest.raises(ConfigError, match=r"map.yaml names no label schema; write `schema: NAME` into it, or pass --s"):
        read_vote_table(path, tmp_path / "map.yaml", lambda name: SCHEMA, KNOWN)
    found = read_vote_table(path, tmp_path / "map.yaml", lambda name: SCHEMA, KNOWN, "rings")
    assert found.said[:4] == (
        "2 classifications of 2 subjects by 2 volunteers", "shape: 1 votes on 1 subjects",
        "ring: 1 votes on 1 subjects",
        "1 classifications of a subject that the volunteer had classified before are left out",
    )
    assert "does not say how its subjects were sampled" in found.said[4]
    assert found.note.startswith("votes of volunteers: Zooniverse export export.csv (")
    assert found.note.endswith("), 2 classifications by 2 volunteers")


def test_batches_whose_subjects_carry_other_metadata_are_one_export(tmp_path: Path, questions: QuestionMap) -> None:
    rows = [row("1", "g1", **{"#sampled_by": "random"}), row("1", "g2", **{"#sampled_by": "bald", "#score": "0.3"}),
            row("2", "g2", **{"#sampled_by": "bald", "#score": "0.3"})]
    votes = read(tmp_path, questions, *rows)
    assert votes.sampled_by == {"g1": "random", "g2": "bald"}
    assert votes.classifications == {"g1": 1, "g2": 2}


def test_columns_of_metadata_are_named_by_how_many_subjects_have_them(tmp_path: Path, questions: QuestionMap) -> None:
    rows = [row(str(n), f"x{n}", **({"#score": "zzz"} if n else {}), ra="1") for n in range(3)]
    with pytest.raises(DataError, match=r"there are: subject_id, ra, score\)"):
        read(tmp_path, questions, *rows)


def test_a_header_that_does_not_end_is_an_error_in_words(tmp_path: Path, questions: QuestionMap) -> None:
    (tmp_path / "export.csv").write_text('workflow_id,"annotations,subject_data\n7,[],{}\n')
    with pytest.raises(DataError, match=r"export\.csv.*unexpected end of data.*is the file whole"):
        read_export(tmp_path / "export.csv", questions, KNOWN)


@pytest.mark.parametrize("task", [["T0"], {"T0": 1}, 0, None])
def test_a_task_that_is_no_name_is_refused(tmp_path: Path, questions: QuestionMap, task: Any) -> None:
    wrong = row("2") | {"annotations": json.dumps([{"task": task, "value": "Smooth"}])}
    votes = read(tmp_path, questions, row("1"), wrong)
    assert reasons(votes) == [(3, "bad-json")]
    assert votes.counts == {"g1": {"shape_smooth": 1}}
