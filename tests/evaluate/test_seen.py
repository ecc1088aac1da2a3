"""The mark says what pretraining saw of a task, through any chain of derived labels."""

from __future__ import annotations

import pytest

from sciencessl.evaluate.seen import origins, what_pretraining_saw

DERIVED = {
    "smooth-or-featured": ["simulated"],
    "simulated": ["class"],
    "arms": ["class"],
    "is_disk": ["smooth-or-featured"],
    "loop_a": ["loop_b"],
    "loop_b": ["loop_a"],
}


def mark(columns, task, seen=False, foreign=False, **more):
    tasks = (task,) if isinstance(task, str) else task
    return what_pretraining_saw(dict.fromkeys(columns, 1234), tasks, DERIVED, seen, foreign, **more)


def test_origins_follow_chains_and_survive_circles() -> None:
    assert origins("is_disk", DERIVED) == {"is_disk", "smooth-or-featured", "simulated", "class"}
    assert origins("loop_a", DERIVED) == {"loop_a", "loop_b"}
    assert origins("unheard", DERIVED) == {"unheard"}


@pytest.mark.parametrize(
    ("columns", "task", "seen", "foreign", "level"),
    [
        ([], "class", False, False, "none"),
        ([], "class", True, False, "transductive"),
        (["redshift"], "class", False, False, "related"),
        (["redshift"], "class", True, False, "related"),
        (["class"], "class", False, False, "own"),
        (["class", "arms"], "class", True, False, "own"),
        (["smooth-or-featured"], "class", False, False, "related"),
        (["class"], "is_disk", False, False, "related"),
        (["arms"], "is_disk", False, False, "related"),
        (["smooth-or-featured"], "class", True, False, "related"),
        ([], "class", False, True, "unknown"),
        (["arms"], "class", False, True, "unknown"),
        (["class"], "class", True, True, "own"),
        (["class"], ("redshift", "class"), False, False, "own"),
        (["is_disk"], ("redshift", "arms"), False, False, "related"),
    ],
)
def test_levels(columns, task, seen, foreign, level) -> None:
    result = mark(columns, task, seen, foreign)
    assert result.level == level
    assert result.transductive is seen


def test_sentence_says_which_labels_how_many_and_whether_test_samples_were_there() -> None:
    result = mark(["smooth-or-featured", "redshift"], "class", seen=True)
    assert result.columns == ("redshift", "smooth-or-featured")
    assert "Related labels were seen in pretraining: smooth-or-featured (1,234 labelled samples)." in result.sentence
    assert "no recorded link to the task were seen in pretraining: redshift (1,234 labelled samples)" in result.sentence
    assert "Test samples were among the training samples" in result.sentence
    assert "among the training samples" not in mark(["arms"], "class").sentence
    assert "own labels" in mark(["class"], "class").sentence


def test_populations_selected_by_a_label_count() -> None:
    chosen = mark([], "class", run_selected_by=["is_disk"])
    assert chosen.level == "related"
    assert "is_disk (chose the training samples)" in chosen.sentence
    assert mark([], "class", run_selected_by=["class"]).level == "own"
    assert mark(["smooth-or-featured"], "tidal", task_where=["is_disk"]).level == "related"
    apart = mark(["smooth-or-featured"], "tidal")
    assert apart.level == "related"
    assert apart.sentence.startswith("Labels with no recorded link to the task were seen")


def test_own_labels_are_named_even_on_foreign_weights() -> None:
    result = mark(["redshift", "class"], ("class", "arms", "redshift"), foreign=True)
    assert result.columns == ("class", "redshift")
    assert result.sentence == (
        "The task's own labels were seen in pretraining: class (1,234 labelled samples), redshift (1,234 labelled "
        "samples). What the foreign weights that it started from saw is not on record."
    )
