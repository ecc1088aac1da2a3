from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import ConfigError, DataError, RegistryError, RunError
from sciencessl.evaluate.embed import embed, read_embeddings
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.export import export
from sciencessl.evaluate.foreign import find_encoder
from sciencessl.evaluate.marks import mark_encoder
from sciencessl.evaluate.tasks import load_task
from sciencessl.spec import FieldSpec
from sciencessl.store.reader import Store


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a stock architecture, with a classifier on top as others save them."""
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    state = {name: value.contiguous() for name, value in build_backbone("test_resnet", 3, 7).state_dict().items()}
    save_file({**state, "fc.weight": torch.zeros(5, 96), "fc.bias": torch.zeros(5)}, path)
    return path


def test_a_run_folder_is_a_run(survey: Store, run: Path) -> None:
    found = find_encoder(run, survey)
    assert (found.digest, found.foreign, found.source) == (run_encoder(run).digest, False, str(run.resolve()))


def test_weights_of_others_are_fed_as_they_were_trained(survey: Store, weights: Path) -> None:
    found = find_encoder(f"timm:test_resnet@{weights}", survey)
    card = found.card
    assert (found.name, found.foreign, card.backbone, card.features) == ("test_resnet@mine", True, "test_resnet", 96)
    # timm's own values for this architecture, on 8-bit colour.
    assert (card.stats.mean, card.stats.std, card.stats.scale) == ((0.5,) * 3, (0.5,) * 3, (255.0,) * 3)
    assert card.views["size"] == 160
    values = compute_embeddings(found, survey, np.arange(4), workers=0)
    twin = replace(found, module=build_backbone("test_resnet", 3, 7).eval())
    np.testing.assert_allclose(values, compute_embeddings(twin, survey, np.arange(4), workers=0), rtol=1e-3, atol=1e-5)
    mark = mark_encoder(found, survey, load_task(survey, MORPHOLOGY))
    assert (mark.level, mark.sentence) == (
        "unknown", "Unknown: foreign weights, whose training data are not on record."
    )


def test_other_channels_get_statistics_of_their_own(survey: Store, weights: Path) -> None:
    store = Store(survey.path)
    store.header = replace(store.header, fields={"image": FieldSpec("bytes", ("g",))})
    card = find_encoder(f"timm:test_resnet@{weights}", store).card
    assert card.channels == ("g",)
    assert len(card.stats.mean) == 1
    assert card.stats.mean != (0.5,)


def test_weights_that_are_on_this_machine_need_no_file(
    survey: Store, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached(repository: str, file: str) -> str | None:
        asked.append((repository, file))
        return str(weights) if file == "model.safetensors" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    found = find_encoder("timm:test_resnet.r160_in1k", survey)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors")]
    assert (found.name, found.foreign, found.card.license) == ("test_resnet.r160_in1k", True, "apache-2.0")
    assert found.digest == find_encoder(f"timm:test_resnet@{weights}", survey).digest


def test_an_export_of_ours_is_foreign_where_it_comes_as_weights(
    survey: Store, run: Path, tmp_path: Path
) -> None:
    export(run, tmp_path / "shared")
    found = find_encoder(f"local-dir:{tmp_path / 'shared'}", survey)
    assert (found.name, found.card.views["size"], found.card.stats) == ("shared", 32, run_encoder(run).card.stats)
    np.testing.assert_allclose(
        compute_embeddings(found, survey, np.arange(3), workers=0),
        compute_embeddings(run_encoder(run), survey, np.arange(3), workers=0), rtol=1e-4, atol=1e-6,
    )
    assert mark_encoder(found, survey, load_task(survey, MORPHOLOGY)).level == "unknown"


def test_terms_of_weights_stand_beside_what_they_saw(tmp_path: Path, survey: Store, weights: Path) -> None:
    (weights.parent / "config.json").write_text(
        '{"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 32, 32], "license": "seer-license"}}'
    )
    (weights.parent / "model.safetensors").write_bytes(weights.read_bytes())
    found = find_encoder(f"local-dir:{weights.parent}", survey)
    mark = mark_encoder(found, survey, load_task(survey, MORPHOLOGY))
    assert mark.level == "unknown"
    assert "on record. Licence 'seer-license': non-commercial research only" in mark.sentence
    told = embed(f"local-dir:{weights.parent}", survey.path, tmp_path / "emb", split="test", workers=0)
    assert told.terms.startswith("licence 'seer-license': non-commercial research only")


def test_names_that_cannot_be_used(survey: Store, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"no backbone named 'test_resnt'.*Did you mean 'test_resnet'"):
        find_encoder(f"timm:test_resnt@{weights}", survey)
    with pytest.raises(RegistryError, match=r"timm:test_resnet.nope: Invalid pretrained tag"):
        find_encoder("timm:test_resnet.nope", survey)
    with pytest.raises(DataError, match="does not fit backbone 'test_vit'"):
        find_encoder(f"timm:test_vit@{weights}", survey)
    with pytest.raises(DataError, match=r"'nothing.pt' does not exist"):
        find_encoder("timm:test_resnet@nothing.pt", survey)
    with pytest.raises(RunError, match="has no exported model"):
        find_encoder(tmp_path, survey)


def test_foreign_weights_embed(tmp_path: Path, survey: Store, weights: Path) -> None:
    spec = f"timm:test_resnet@{weights}"
    assert embed(spec, survey.path, tmp_path / "emb", split="test", workers=0).terms == ""
    ids, values = read_embeddings(tmp_path / "emb")
    place = {name: i for i, name in enumerate(survey.ids)}
    index = np.array([place[name] for name in ids[:3]])
    expected = compute_embeddings(find_encoder(spec, survey), survey, index, workers=0)
    np.testing.assert_allclose(values[:3], expected, rtol=1e-3, atol=1e-5)


def test_a_table_has_nothing_to_embed_with(tmp_path: Path, survey: Store) -> None:
    path = tmp_path / "theirs.parquet"
    pq.write_table(pa.table({"id": survey.ids, "f0": np.zeros(144), "f1": np.ones(144)}), path)
    found: Any = find_encoder(path, survey)
    assert (found.name, found.foreign, found.card.features) == ("theirs", True, 2)
    with pytest.raises(ConfigError, match="is a table of features: there is no encoder in it to embed"):
        embed(path, survey.path, tmp_path / "emb")
