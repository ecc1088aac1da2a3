"""What every test may ask for: the shared real data, an S3 server, and one thread for each process that computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.train.two_processes import TwoProcesses

# Read by torch and BLAS when they load, so that tests which need neither pay nothing. One thread gives sums the same
# order on every machine, and processes that tests start do not crowd two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks whoever asks for the real data, so that `-m 'not real_data'` finds all of them."""
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data: $SCIENCESSL_DATA, or shared/data beside the repository. Skips where it is absent."""
    folder = Path(os.environ.get("SCIENCESSL_DATA") or REPO.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SCIENCESSL_DATA to the folder that holds it")
    return folder


S3_KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server on loopback with one bucket, `bucket`."""
    server = pytest.importorskip("moto.server", reason="moto, which plays an S3 server, is not installed")
    thread = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    thread.start()
    host, port = thread.get_host_and_port()
    yield f"http://{host}:{port}"
    thread.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a bucket that the environment gives access to, as a user's would."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import fsspec

    for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", use_listings_cache=False).mkdirs("bucket", exist_ok=True)
    return "s3://bucket"


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoProcesses]:
    """Calls a function in two processes at once."""
    from tests.train.two_processes import TwoProcesses

    with TwoProcesses(tmp_path_factory.mktemp("ranks")) as processes:
        yield processes


TINY_SIDE = 40
TINY_CLASSES = ("round", "edge-on", "spiral")


def _tiny_image(rng: np.random.Generator, kind: int) -> bytes:
    """A bright ellipse on noise as PNG; its axis ratio tells the class."""
    import cv2

    y, x = np.mgrid[:TINY_SIDE, :TINY_SIDE] - TINY_SIDE / 2
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    light = 160 * np.exp(-0.5 * ((u / 8) ** 2 + (v / (8.0, 2.0, 4.0)[kind]) ** 2))
    image = np.clip(light[..., None] * rng.uniform(0.6, 1, 3) + rng.uniform(0, 40, (TINY_SIDE, TINY_SIDE, 3)), 0, 255)
    return bytes(cv2.imencode(".png", image.astype(np.uint8))[1])


def make_tiny_store(path: Path, rows: int = 2, each: int = 30, seed: int = 0) -> Path:
    """A sealed galaxy store of small PNG images: row columns, a class table and a table of votes, both with gaps."""
    import pyarrow as pa

    from sciencessl.registry import load_domain
    from sciencessl.spec import LabelSchema, Question
    from sciencessl.store.format import StoreHeader
    from sciencessl.store.seal import seal
    from sciencessl.store.tables import write_table
    from sciencessl.store.writer import PreparedSample, create_store, write_row

    rng = np.random.default_rng(seed)
    header = StoreHeader("galaxy", "images", dict(load_domain("galaxy").fields), rows, each, {}, "plan", "config")
    create_store(path, header, each * 4_000)
    ids, kinds, splits = [f"g{i}" for i in range(rows * each)], rng.integers(0, 3, rows * each), []
    for row in range(rows):
        samples = []
        for i in range(row * each, (row + 1) * each):
            splits.append("test" if i % 5 == 4 else "train")
            columns = {"mag": float(rng.normal()), "night": i % 2, "one": "same"}
            samples.append(PreparedSample(ids[i], splits[-1], {"image": _tiny_image(rng, int(kinds[i]))}, columns))
        write_row(path, header, row, samples, [], f"inputs {row}")
    seal(path, header)
    classes = [TINY_CLASSES[kind] if i % 3 else None for i, kind in enumerate(kinds)]
    tested = [name if split == "test" else None for name, split in zip(classes, splits, strict=True)]
    write_table(path, "labels", pa.table({"id": ids, "class": classes, "test-only": pa.array(tested, pa.string())}))
    schema = LabelSchema("tiny", (
        Question("smooth", ("yes", "no")), Question("arms", ("1", "2", "more"), ("smooth_no",)),
    ))
    votes = {name: rng.integers(0, 9, len(ids)) * (rng.uniform(size=len(ids)) < 0.6) for name in schema.columns}
    write_table(path, "votes", pa.table({"id": ids, **votes}), schema=schema, note="drawn at random")
    return path


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of 40 px, 48 of them in split=train; do not change it."""
    return make_tiny_store(tmp_path_factory.mktemp("tiny") / "tiny.zarr")


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Path]:
    """`make_tiny_store`, for a test that needs a store of its own."""
    return make_tiny_store
