"""Stores behind URLs: read by the same code as local ones, from memory and from an S3 server on loopback."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from sciencessl.cli import run
from sciencessl.data.loader import BatchStream, Decoder, EvaluationStream, make_loader
from sciencessl.data.order import Order
from sciencessl.errors import ConfigError, MissingExtraError, OutOfReachError, StoreError
from sciencessl.preparation import prepare
from sciencessl.registry import load_domain
from sciencessl.samples import Sample
from sciencessl.spec import ViewRandom
from sciencessl.store import index
from sciencessl.store.audit import audit
from sciencessl.store.audit_record import audit_file
from sciencessl.store.audited import check_audit
from sciencessl.store.compact import compact
from sciencessl.store.files import read_file, sized_files, visible_files, write_atomic
from sciencessl.store.format import rows_file, shard_file
from sciencessl.store.info import info
from sciencessl.store.joined import JoinedStores
from sciencessl.store.reader import Store
from sciencessl.store.remote import AT_ONCE, beside, client, is_remote, local_path, read_each, store_path
from sciencessl.store.shards import Shards
from sciencessl.store.shuffle import shuffle
from sciencessl.store.tables import read_table, write_table
from sciencessl.store.verify import verify


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where copies of stores go: everything below holds for both."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("s3") + "/"
    yield f"{url}{request.node.name.partition('[')[0]}"
    system, path = client(store_path(f"{url}{request.node.name.partition('[')[0]}"))
    if system.exists(path):
        system.rm(path, recursive=True)


in_memory = pytest.mark.parametrize("root", ["memory"], indirect=True)
"""For what no request decides."""


def copied(local: Path, root: str) -> str:
    """What a provider's own tool does: the same files under the same names."""
    url = f"{root}/{local.name}"
    for name, _ in sized_files(local):
        write_atomic(store_path(f"{url}/{name}"), (local / name).read_bytes())
    return url


def spoil(url: str, name: str, raw: bytes) -> None:
    write_atomic(store_path(f"{url}/{name}"), raw)


def test_a_copy_says_what_the_local_store_says(survey: Store, root: str) -> None:
    url = copied(survey.path, root)
    store = Store(url)
    assert str(store.path) == url
    assert (store.digest, store.ids, store.primary) == (survey.digest, survey.ids, survey.primary)
    chosen = [6, 0, 3, 3]
    assert store.payloads("image", chosen) == survey.payloads("image", chosen)
    np.testing.assert_array_equal(store.payloads("flux", chosen), survey.payloads("flux", chosen))
    for name in ("train", "val", "test"):
        np.testing.assert_array_equal(store.split(name).all(), survey.split(name).all())
    np.testing.assert_array_equal(store.keys(np.arange(7)), survey.keys(np.arange(7)))
    assert store.columns() == survey.columns()
    assert store.column("class").tolist() == survey.column("class").tolist()
    assert store.refusals().equals(survey.refusals())
    assert store.table_digests() == survey.table_digests()
    assert verify(url) == []
    assert {**info(url), "path": ""} == {**info(survey.path), "path": ""}


@in_memory
def test_several_stores_join_and_travel_to_other_processes(survey: Store, root: str) -> None:
    joined = JoinedStores([Store(copied(survey.path, root)), survey])
    joined = pickle.loads(pickle.dumps(joined))
    assert joined.payloads("image", [0, 7]) == [survey.payloads("image", [0])[0]] * 2


def test_tables_are_written_replaced_and_seen_by_an_open_store(survey: Store, root: str) -> None:
    store = Store(copied(survey.path, root))
    assert store.tables == ["labels"]
    for value in ("first", "second"):
        written = write_table(store.path, "late", pa.table({"id": ["a0"], "note": [value]}))
        notes = dict(zip(store.ids, store.column("note").tolist(), strict=True))
        assert notes == {**dict.fromkeys(store.ids), "a0": value}
        assert read_table(store.path, "late") == written
    assert store.tables == ["labels", "late"]
    assert sorted(visible_files(store.path, ["tables/late"])) == [
        f"tables/late/{json.loads(read_file(store.path / 'tables/late/table.json'))['data']}.parquet",
        "tables/late/table.json",
    ]
    assert verify(str(store.path)) == []


def test_damage_is_found_and_confined_to_its_row(survey: Store, root: str) -> None:
    url = copied(survey.path, root)
    shard, sidecar = shard_file("image", survey.header.fields["image"], 0), rows_file(2)
    raw = bytearray((survey.path / shard).read_bytes())
    raw[40] ^= 1
    spoil(url, shard, bytes(raw))
    spoil(url, sidecar, (survey.path / sidecar).read_bytes()[:-1])
    missing = shard_file("flux", survey.header.fields["flux"], 2)
    system, path = client(store_path(f"{url}/{missing}"))
    system.rm(path)
    store = Store(url)
    with pytest.raises(StoreError, match=r"row 0 of field 'image' is damaged"):
        store.payloads("image", [0])
    with pytest.raises(StoreError, match=r"row 2 of field 'flux' is missing"):
        store.payloads("flux", [5])
    with pytest.raises(StoreError, match=r"row 2 is damaged: rows/00000002.parquet is not the file"):
        store.ids  # noqa: B018
    assert store.payloads("image", [5]) == survey.payloads("image", [5])
    found = [damage.where for damage in verify(url)]
    assert found == [sidecar, "row 0", "row 2", "index"]


def test_a_window_costs_no_request_to_ask_whether_its_shard_is_there(
    survey: Store, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(copied(survey.path, root))
    asked: list[tuple[str, int]] = []
    has = Store.has_shard
    monkeypatch.setattr(Store, "has_shard", lambda self, *what: (asked.append(what), has(self, *what))[1])
    store.payloads("image", np.arange(7))
    store.payloads("flux", np.arange(7))
    assert asked == []


@in_memory
def test_zeros_that_were_stored_are_zeros(make: Any, sample: Any, tmp_path: Path, root: str) -> None:
    dark = make(tmp_path / "dark.zarr", [[sample("a", image=bytes(9), flux=np.zeros((2, 4, 4), "f4"))]])
    store = Store(copied(dark.path, root))
    assert store.payloads("image", [0]) == [bytes(9)]
    assert not store.payloads("flux", [0])[0].any()
    assert verify(str(store.path)) == []


@in_memory
def test_what_an_audit_found_lies_beside_the_store_and_pictures_lie_here(
    make: Any, sample: Any, tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    encoded = cast(Any, __import__("cv2")).imencode(".png", image)[1].tobytes()
    fields = {"image": load_domain("galaxy").fields["image"]}
    twins = [sample(f"s{i}", split, encoded, group="one") for i, split in enumerate(("train", "test"))]
    for entry in twins:
        del entry.payload["flux"]
    url = copied(make(tmp_path / "made" / "twins.zarr", [twins], fields).path, root)
    found = audit(url, pixels=False)
    assert json.loads(read_file(audit_file(url)))["verdict"] == found.verdict == "leak"
    assert (tmp_path / "twins.audit" / "report.html").is_file()
    assert run(["store", "show", url]) == 0
    assert capsys.readouterr().out == "contact sheet: twins.png\n"
    assert (tmp_path / "twins.png").is_file()


def test_an_audit_of_a_store_that_one_may_only_read_still_gives_its_result(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = copied(tiny_store, "memory://read-only")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", denied)
    found = audit(url, pixels=False)
    assert found.verdict == "nothing found"
    assert found.notes[-1] == (
        "memory://read-only/tiny.audit.json is out of reach (Access Denied): these credentials do not allow it, or "
        "there is nothing of that name. So `pretrain` and `transfer` do not know of this audit."
    )


def test_an_audit_that_may_not_be_read_is_a_note(survey: Store, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(copied(survey.path, f"{s3}/unlisted"))
    break_requests(monkeypatch, PermissionError("Access Denied"))
    (line,) = check_audit(store).lines
    assert line.startswith(f"note: {s3}/unlisted/survey.audit.json is out of reach (Access Denied)")


@in_memory
def test_samples_are_withdrawn_behind_a_url(survey: Store, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = copied(survey.path, root)
    assert run(["store", "remove", url, "a1", "--reason", "withdrawn", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["store"], found["n_removed"], found["n_samples"]) == (url, 1, 6)
    assert Store(url).ids[int(Store(url).removed[0])] == "a1"


def identity(sample: Sample, random: ViewRandom) -> list[Sample]:
    """A view that shows what was stored: the size, and a draw that depends on seed, epoch and sample."""
    return [Sample({"image": sample.fields["image"][:8, :8]}, index=sample.index)]


def views(_: object) -> tuple[Any, Any]:
    return identity, identity


@pytest.fixture
def fresh_fork_server() -> None:
    """Workers get the environment in which their server was started."""
    cast(Any, forkserver)._forkserver._stop()


def batches(stream: Any, workers: int, count: int) -> list[tuple[list[str], np.ndarray]]:
    loader = iter(make_loader(stream, workers))
    return [(batch.ids, batch.views[0]["image"].numpy()) for batch, _ in zip(loader, range(count), strict=False)]


@pytest.mark.usefixtures("fresh_fork_server")
def test_loader_processes_read_from_an_object_store(tiny_store: Path, s3: str) -> None:
    url, decode = copied(tiny_store, f"{s3}/workers"), load_domain("galaxy").decode
    expected, found = (
        batches(BatchStream(Decoder(store, decode), Order(48, 3, 16), store.split("train"), views, None, {}, ["image"]),
                workers, 4)
        for store, workers in ((Store(tiny_store), 0), (Store(url), 2))
    )
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]
    for (_, mine), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)


class Fake(Store):
    """Makes up every pixel, whatever the files hold, and notes what it was asked for."""

    asked: list[tuple[str, int, int, int]]

    def read_window(self, name: str, row: int, lo: int, hi: int) -> np.ndarray:
        self.asked.append((name, row, lo, hi))
        if self.header.fields[name].kind == "bytes":
            return np.arange(lo, hi).astype(np.uint8) + np.uint8(row)
        return np.full((hi - lo, 2, 4, 4), row, "f4")


@pytest.mark.parametrize("gone", [False, True])
def test_pixels_come_through_the_seam_and_no_other_way(survey: Store, gone: bool) -> None:
    fake = Fake(survey.path)
    fake.asked = []
    if gone:  # not even the arrays are opened
        for path in (survey.path / "fields").rglob("*"):
            if path.is_file():
                path.unlink()
    sizes = [len(raw) for raw in survey.payloads("image", np.arange(7))] if not gone else None
    payloads = fake.payloads("image", np.arange(7))
    if sizes:
        assert [len(raw) for raw in payloads] == sizes
    starts = np.concatenate([np.cumsum([0, *map(len, part)])[:-1] for part in (payloads[:4], payloads[4:])])
    for raw, start, row in zip(payloads, starts, [0] * 4 + [2] * 3, strict=True):
        assert raw == bytes((start + n + row) % 256 for n in range(len(raw)))
    assert [float(np.mean(flux)) for flux in fake.payloads("flux", [0, 6, 1])] == [0, 2, 0]
    assert [window[:2] for window in fake.asked] == [("image", 0), ("image", 2), ("flux", 0), ("flux", 2)]
    decoder = Decoder(fake, f"{__name__}:unused")
    decoder.__dict__["_decode"] = lambda raw, spec: np.zeros((8, 8, 3), np.uint8) + np.uint8(len(raw))
    before = len(fake.asked)
    stream = EvaluationStream(decoder, np.arange(7), views, None, ["image"], batch=3)
    got = np.concatenate([batch.views[0]["image"][:, 0, 0, 0].numpy() for batch in stream])
    assert got.tolist() == [len(raw) for raw in payloads]
    assert len(fake.asked) == before  # all four windows were kept


def test_a_forked_process_opens_a_client_of_its_own(survey: Store, s3: str) -> None:
    store = Store(copied(survey.path, f"{s3}/forked"))
    expected = store.payloads("image", [0])
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = store.payloads("image", [6, 0])[1:] == expected and store.tables == ["labels"]
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_scattered_places_of_an_index_are_asked_for_side_by_side(
    make: Any, sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "PIECE", 2)
    monkeypatch.setattr(index, "TOGETHER", 1)
    local = make(tmp_path / "wide.zarr", [[sample(f"{i}") for i in range(2 * AT_ONCE)]])
    store, places = Store(copied(local.path, "memory://side")), np.arange(2 * AT_ONCE)
    expected = local.keys(places)
    len(store)
    together, read = threading.Barrier(AT_ONCE, timeout=20), Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, *where: (together.wait(), read(self, *where))[1])
    np.testing.assert_array_equal(store.keys(places), expected)


@in_memory
def test_read_each_keeps_the_order_and_the_first_error(root: str) -> None:
    path = store_path(f"{root}/x.zarr")
    assert list(read_each(path, lambda n: n * n, range(100))) == [n * n for n in range(100)]
    assert list(read_each(Path("here"), str, [3, 1])) == ["3", "1"]

    def broken(number: int) -> int:
        raise StoreError(f"row {number}")

    with pytest.raises(StoreError, match="row 0"):
        list(read_each(path, broken, range(100)))


def test_the_current_folder_is_a_store_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.zarr" / "rows").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x.zarr" / "rows")
    for name in ("..", "../rows/.."):
        assert store_path(name) == (tmp_path / "x.zarr").resolve()
    monkeypatch.chdir(tmp_path / "x.zarr")
    assert beside(".", ".png") == (tmp_path / "x.png").resolve()
    assert beside("/", ".png") == Path("/.png")


def test_urls_become_paths_and_folders_stay_folders(tmp_path: Path) -> None:
    assert store_path(tmp_path) is tmp_path or store_path(tmp_path) == tmp_path
    assert store_path("a/b.zarr") == Path("a/b.zarr")
    assert store_path("file:///a/b.zarr") == Path("/a/b.zarr")
    assert not is_remote(tmp_path)
    for url in ("s3://bucket/deep/x.zarr", "gs://bucket/x.zarr", "memory://x.zarr", "s3://bucket/x.zarr/"):
        path = store_path(url)
        assert str(path) == url.rstrip("/") == str(store_path(path))
        assert (path.name, is_remote(path)) == ("x.zarr", True)
        assert str(audit_file(url)) == url.rstrip("/").removesuffix(".zarr") + ".audit.json"
        assert beside(url, ".png") == Path("x.png")
    assert beside("a/x.zarr", ".png") == Path("a/x.png")


@pytest.mark.parametrize(("url", "message"), [
    ("s3://bucket", r"s3://bucket names a bucket and no store in it, expected s3://BUCKET/NAME.zarr"),
    ("https://host/x.zarr", r"a web server does not list its folders, so tables would be lost. Give the bucket's own"),
    ("foo://bucket/x.zarr", r"Unsupported filesystem: 'foo'. Expected a folder, or a URL that fsspec knows"),
])
def test_urls_that_hold_no_store_are_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Store(url)


def test_a_store_that_is_not_there_is_said(survey: Store, s3: str) -> None:
    for url in ("memory://nothing.zarr", f"{s3}/nothing.zarr"):
        with pytest.raises(StoreError, match=f"{url} is no store: there is nothing of that name. Make one with"):
            Store(url)
    write_atomic(store_path(f"{s3}/half.zarr/rows/0"), b"")
    with pytest.raises(StoreError, match=r"half\.zarr is no store: it has no zarr\.json"):
        Store(f"{s3}/half.zarr")
    with pytest.raises(StoreError, match=r"s3://no-bucket/x.zarr is no store: The specified bucket does not exist\."):
        Store("s3://no-bucket/x.zarr")


def test_a_server_that_does_not_answer_is_no_damage(
    survey: Store, s3: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    url = copied(survey.path, f"{s3}/lost")
    store = Store(url)
    store.payloads("flux", [0])

    break_requests(monkeypatch, botocore.EndpointConnectionError(endpoint_url="http://gone"))
    sentence = (r"lost/survey.zarr\S* is out of reach \(Could not connect to the endpoint URL: \"http://gone\"\): "
                r"check the network and AWS_ENDPOINT_URL")
    for read in (lambda: store.payloads("image", [0]), lambda: store.ids, lambda: store.table("labels"),
                 lambda: verify(url), lambda: Store(url)):
        with pytest.raises(OutOfReachError, match=sentence):
            read()
    assert run(["store", "info", url]) == 1
    assert "check the network and AWS_ENDPOINT_URL" in capsys.readouterr().err


def break_requests(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise error

    system = fsspec.get_filesystem_class("s3")
    monkeypatch.setattr(system, "_call_s3", broken)
    monkeypatch.setattr(system, "retries", 1)


@pytest.mark.parametrize(("error", "message"), [
    (("NoCredentialsError", {}), "Unable to locate credentials.*: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and"),
    (("ProfileNotFound", {"profile": "x"}), r"The config profile \(x\) could not be found.*: set AWS_PROFILE"),
    (PermissionError("Access Denied"), r"\(Access Denied\): these credentials do not allow it"),
    (ValueError("Invalid endpoint: x"), r"\(Invalid endpoint: x\): check the network and AWS_ENDPOINT_URL"),
    (TimeoutError(), r"\((FS)?TimeoutError\): check the network"),
])
def test_what_a_client_raises_becomes_one_sentence(
    s3: str, monkeypatch: pytest.MonkeyPatch, error: Any, message: str
) -> None:
    if isinstance(error, tuple):
        error = getattr(pytest.importorskip("botocore.exceptions"), error[0])(**error[1])
    break_requests(monkeypatch, error)
    with pytest.raises(OutOfReachError, match=rf"^s3://bucket/x.zarr\S* is out of reach \(?{message}"):
        Store(f"{s3}/x.zarr")


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingExtraError, match=r"s3://bucket/x.zarr\S*: reading it needs s3fs; pip install 's3fs'"):
        Store("s3://bucket/x.zarr")


def test_what_must_be_local_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out s3://b/run: expected a folder or file of this machine"):
        local_path("s3://b/run")
    with pytest.raises(ConfigError, match=r"--out s3://b/x.zarr: a store is prepared on a disk.*aws s3 cp --recursive"):
        prepare("galaxy", [tmp_path], "s3://b/x.zarr")
    with pytest.raises(ConfigError, match=r"SOURCE s3://b/images: expected a folder"):
        prepare("galaxy", ["s3://b/images"], tmp_path / "x.zarr", {"source": "images"})
    with pytest.raises(ConfigError, match=r"store compact s3://b/x.zarr: .* it works on a store of this machine"):
        compact("s3://b/x.zarr", tmp_path / "x.zarr")


def test_a_store_behind_a_url_is_shuffled_into_a_local_one(survey: Store, tmp_path: Path) -> None:
    url = copied(survey.path, "memory://shuffled")
    shuffle(url, tmp_path / "out.zarr")
    assert sorted(Store(tmp_path / "out.zarr").ids) == sorted(survey.ids)
    with pytest.raises(ConfigError, match=r"--out s3://b/y.zarr: expected a folder or file of this machine"):
        shuffle(url, "s3://b/y.zarr")


@pytest.mark.parametrize("arguments", [
    ["pretrain", "--data", "x", "--out"], ["report"], ["demo", "--out"],
])
def test_urls_where_no_store_is_meant_are_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert run([*arguments, "s3://bucket/x"]) != 0
    assert "s3:/bucket" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_help_loads_no_file_system() -> None:
    code = ("import contextlib, sys\nfrom sciencessl.cli import run\n"
            "with contextlib.suppress(SystemExit):\n    run(['store', '--help'])\n"
            "print(sorted({'fsspec', 'upath', 'zarr', 's3fs'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
