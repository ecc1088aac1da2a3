"""`prepare` as a Python function: settings are sorted and checked, the domain's own ones included."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sciencessl
from sciencessl.data_prep.engine import PrepareEstimate, PrepareReport
from sciencessl.errors import ConfigError, RegistryError
from sciencessl.preparation import estimate_text, prepare, report_text, schema_loader, split_settings
from sciencessl.registry import load_domain


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load_domain("galaxy").synthetic(tmp_path_factory.mktemp("raw"), np.random.default_rng(0), 20)


def test_prepares_with_settings_of_engine_and_domain(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "gz.zarr"
    report = sciencessl.prepare("galaxy", [raw], out, {"test_fraction": 0.5, "simulate_votes_from": "class"})
    assert isinstance(report, PrepareReport)
    assert report.n_samples == 20
    assert sciencessl.Store(out).tables == ["labels", "simulated_votes"]
    words = report_text(report)
    assert words.startswith("catalogue: ")
    assert "20 samples (train " in words
    assert words.endswith(f"manifest digest {report.manifest_digest}")
    assert "refused" not in words
    again = report_text(prepare("galaxy", [raw], out, {"test_fraction": 0.5}))
    assert f"nothing to do: {out} holds all 16 rows" in again


def test_dry_run_writes_nothing(raw: Path, tmp_path: Path) -> None:
    estimate = prepare("galaxy", [raw], tmp_path / "none", dry_run=True)
    assert isinstance(estimate, PrepareEstimate)
    assert "would store 20 samples in 16 rows" in estimate_text(estimate)
    assert "refused so far (20 inputs tried): none" in estimate_text(estimate)
    assert not (tmp_path / "none").exists()


def test_settings_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"prepare has no setting --test-fracton\. Did you mean 'test-fraction'\?"):
        prepare("galaxy", ["x"], "y", {"test_fracton": 0.1})
    with pytest.raises(ConfigError, match="prepare has no setting --simulate-votes-from"):
        prepare("web", ["x"], "y", {"simulate_votes_from": "class"})
    with pytest.raises(ConfigError, match=r"min_px \(set by flags\)"):
        prepare("web", ["x"], "y", {"min_px": "small"})
    with pytest.raises(RegistryError, match="no domain named 'wbe'"):
        prepare("wbe", ["x"], "y")


def test_split_settings() -> None:
    options = load_domain("galaxy").prepare_options
    values = {"keep": ("ra",), "simulate_seed": 3}
    assert split_settings(options, values) == ({"keep": ("ra",)}, {"simulate_seed": 3})


def test_only_domains_with_schemas_read_schema_files() -> None:
    assert schema_loader(load_domain("galaxy"))("gzd5").name == "gzd5"
    assert schema_loader(load_domain("web")) is None


def test_report_lists_the_first_refusals_and_counts_the_others(tmp_path: Path) -> None:
    path = tmp_path / "refused.csv"
    path.write_text("id,reason,detail\n" + "".join(f"g{i},truncated,too short\n" for i in range(7)))
    result = SimpleNamespace(
        guessed=(), nothing_to_do=False, n_samples=1200, splits={"train": 1000, "test": 200, "val": 0}, out="s.zarr",
        bytes=2**20, seconds=1.0, refused={"truncated": 7}, refusals_file=path, manifest_digest="d",
    )
    lines = report_text(result).splitlines()
    assert lines[0] == "1,200 samples (train 1,000, test 200) in s.zarr, 1.0 MiB, 1.0 s"
    assert lines[1:3] == ["refused: 7 truncated", "  g0: truncated, too short"]
    assert lines[-2] == f"  and 2 more; all are listed in {path}"
    assert len(lines) == 9
