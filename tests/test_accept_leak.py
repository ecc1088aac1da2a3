"""From `store audit` to `pretrain` and `transfer`: a store that leaks is refused with exit code 4, or accepted with a
word in everything that comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.text import Text

from sciencessl import cli
from sciencessl.errors import LeakError
from sciencessl.evaluate.export_words import card_sentences
from sciencessl.evaluate.plots import few_label_figure
from sciencessl.evaluate.report import report
from sciencessl.evaluate.results import read_result
from sciencessl.train.folder import read_model
from sciencessl.train.run import pretrain

WORDS = "12 of 12 samples of split=test are the same thing as samples of split=train (12 by night)"
SETTINGS = ["--backbone", "test_resnet", "--steps", "1", "--batch", "4", "--views.size", "32", "--compute.workers", "0",
            "--compute.precision", "float32", "--compute.memory_format", "contiguous"]


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Path]) -> Path:
    """A store whose splits share nights, which its audit says."""
    store = make_store(tmp_path_factory.mktemp("leak") / "tiny.zarr")
    assert cli.run(["store", "audit", str(store), "--group", "night"]) == 4
    return store


@pytest.fixture(scope="module")
def run(leaking: Path) -> Path:
    """A run on it that accepted the leak."""
    path = leaking.with_name("run")
    assert cli.run(["pretrain", "--data", str(leaking), "--out", str(path), "--accept-leak", *SETTINGS]) == 0
    return path


def test_pretrain_refuses_before_it_writes(leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["pretrain", "--data", str(leaking), "--out", str(tmp_path / "no"), *SETTINGS]) == 4
    said = capsys.readouterr().err
    assert f"sciencessl: error: the audit of {leaking} found a leak: {WORDS}. Pairs: " in said
    assert "store remove" in said
    assert not (tmp_path / "no").exists()
    with pytest.raises(LeakError):
        pretrain(leaking, dry_run=True, settings={"steps": 1})


def test_a_run_that_accepted_a_leak_says_so_and_goes_on(
    run: Path, leaking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = read_model(run)
    assert card.leak == WORDS
    assert f"Leak accepted: {WORDS}" in (run / "train.log").read_text()
    assert f"Leak accepted: {WORDS}." in card_sentences(card)
    assert f"Leak accepted: {WORDS}." in report(run).read_text()
    assert cli.run(["pretrain", "--out", str(run), "--resume"]) == 0
    assert f"warning: leak accepted: {WORDS}." in capsys.readouterr().out


def test_transfer_refuses_or_marks_every_row_plot_and_page(
    run: Path, leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "shape.yaml"
    task.write_text("name: shape\ncolumn: class\nkind: class\n")
    asked = ["transfer", str(run), "--data", str(leaking), "--task", str(task), "--labels", "12", "--arms", "frozen",
             "random", "--subsets", "2", "--random-encoders", "1", "--out", str(tmp_path / "few")]
    assert cli.run(asked) == 4
    assert not (tmp_path / "few").exists()
    capsys.readouterr()
    assert cli.run([*asked, "--accept-leak", "--json"]) == 0
    shown = capsys.readouterr()
    assert f"warning: leak accepted: {WORDS}." in shown.err
    assert {row["saw"] for row in json.loads(shown.out)["rows"]} == {"none, leak"}
    result = read_result(tmp_path / "few")
    said = f"Leak accepted, in pretraining too: {WORDS}."
    assert result.marks["run"].startswith(f"Neither test samples nor related labels were seen in pretraining. {said}")
    texts = [" ".join(text.get_text().split()) for text in few_label_figure(result).findobj(Text)]
    assert any("pretraining saw: none, leak" in text for text in texts)
    assert said in " ".join(report(run, [tmp_path / "few"]).read_text().split())
