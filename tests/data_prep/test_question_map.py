"""A project's answers in terms of a schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciencessl.data_prep.question_map import named_schema, read_question_map, spelling
from sciencessl.errors import ConfigError
from sciencessl.spec import LabelSchema, Question

SCHEMA = LabelSchema("rings", (Question("shape", ("smooth", "disk")), Question("ring", ("yes", "no"), ("shape_disk",))))


def written(folder: Path, text: str) -> Path:
    path = folder / "map.yaml"
    path.write_text(text)
    return path


def test_answers_become_columns_or_no_vote(tmp_path: Path) -> None:
    path = written(tmp_path, """
schema: rings
workflow: 12
tasks:
  T0: {question: shape, answers: {Smooth: smooth, 'Features or Disk': disk, I can't tell: null}}
  T3: {question: ring}
""")
    assert named_schema(path) == "rings"
    found = read_question_map(path, SCHEMA)
    assert found.workflow == "12"
    assert found.tasks["T0"].columns == {"smooth": "shape_smooth", "featuresordisk": "shape_disk", "icanttell": None}
    assert found.tasks["T3"].columns == {"yes": "ring_yes", "no": "ring_no"}
    assert [question.name for question in found.questions] == ["shape", "ring"]


@pytest.mark.parametrize("text", [
    "Features or Disk", "features-or-disk", "**Features** or *disk*?",
    " ![disk](https://a.org/1.png)Features or disk\n",
])
def test_letters_and_digits_alone_tell_answers_apart(text: str) -> None:
    assert spelling(text) == "featuresordisk"


@pytest.mark.parametrize(("text", "message"), [
    ("tasks: {T0: {question: shap}}", r"task T0: schema 'rings' has no question 'shap'. Did you mean 'shape'\?"),
    ("tasks: {T0: {question: shape, answers: {Smooth: smoth}}}",
     r"question 'shape' has no answer 'smoth'. Did you mean 'smooth'\? Answers: smooth, disk"),
    ("tasks: {T0: {question: ring, answers: {yes: 'yes'}}}", r"answers: got True where text is expected; YAML reads"),
    ("tasks: {T0: {question: ring, answers: {'yes': yes}}}", r"answer 'yes': got True where text is expected"),
    ("tasks: {T0: {question: ring, answers: {'Yes!': 'yes', 'yes': 'no'}}}", r"answer 'yes' is spelled like another"),
    ("tasks: {T0: shape}", r"task T0: expected `question` and perhaps `answers`, got 'shape'"),
    ("tasks: {T0: {question: ring, answers: []}}", r"expected entries such as `Smooth: smooth`, got \[\]"),
    ("tasks: {}", r"expected `tasks`, such as `tasks: \{T0: \{question: shape\}\}`, got \{\}"),
    ("task: {T0: {question: ring}}", r"no key 'task'. Did you mean 'tasks'\?"),
    ("tasks: [", r"is not valid YAML"),
])
def test_maps_that_mean_nothing_say_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_question_map(written(tmp_path, text), SCHEMA)


def test_a_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--questions .*none.yaml: there is no such file. It maps a project's tasks"):
        read_question_map(tmp_path / "none.yaml", SCHEMA)
