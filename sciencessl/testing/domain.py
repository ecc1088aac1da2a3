"""`check_domain`: a domain against its contract, from its synthetic data to a batch that a step could take."""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np

from sciencessl import registry
from sciencessl.config import build_config
from sciencessl.data.loader import BatchStream, Decoder, ViewRandomness
from sciencessl.data.order import Order
from sciencessl.errors import RegistryError, SciencesslError
from sciencessl.layers import preset_layers, scales
from sciencessl.samples import Sample
from sciencessl.spec import API, UNLABELLED, DomainSpec, LabelSchema, TransferTask
from sciencessl.store.reader import Store
from sciencessl.testing.requirement import ConformanceError, is_frozen_dataclass, require
from sciencessl.views.to_input import fit_stats

SAMPLES = 60
SHOWN = 8
BUDGET = re.compile(r"all|\d+(/class)?|\d+(\.\d+)?%|\d+ \w+")
DTYPES = ("uint8", "float32")


def check_domain(spec: DomainSpec, samples: int = SAMPLES, folder: Path | None = None) -> tuple[str, ...]:
    """Check that a domain's parts fit each other and the engine. Takes seconds.

    Its synthetic data is written, prepared by its default source, decoded, augmented and shown.

    Args:
        spec: The domain; it need not be registered.
        samples: Synthetic samples to make.
        folder: Empty folder to work in; a temporary one when None.

    Returns:
        What was checked, in order.

    Raises:
        ConformanceError: At the first thing that does not hold.
    """
    require(isinstance(spec, DomainSpec), f"{spec!r} is no DomainSpec.")
    done = []
    for check in (_fields, _columns, _schemas, _options, _functions, _tasks, _preset):
        check(spec)
        done.append(check.__name__.removeprefix("_"))
    with tempfile.TemporaryDirectory() as temporary:
        store = _prepared(spec, folder or Path(temporary), samples)
        rest: tuple[Callable[[DomainSpec, Store], None], ...] = (_stored, _views, _shown, _batches, _labels, _answered)
        for check_store in rest:
            check_store(spec, store)
            done.append(check_store.__name__.removeprefix("_"))
    return (*done[:7], "synthetic", "prepared", *done[7:])


def _fields(spec: DomainSpec) -> None:
    require(bool(re.fullmatch(r"[a-z][a-z0-9_-]*", spec.name)), f"name {spec.name!r}: lower-case letters, digits, - _.")
    require(spec.api == API, f"api is {spec.api}, this sciencessl speaks {API}.")
    require(bool(spec.title), "title is empty; `sciencessl domains` shows it.")
    for name, field in spec.fields.items():
        where = f"field {name!r}"
        require(field.kind in ("bytes", "array"), f"{where}: kind {field.kind!r}.")
        require(len(set(field.channels)) == len(field.channels) >= 1, f"{where}: channels {field.channels}.")
        require(np.dtype(field.dtype).name in DTYPES, f"{where}: dtype {field.dtype!r}, expected one of {DTYPES}.")
        require((field.kind == "array") == bool(field.shape), f"{where}: a shape belongs to `array` fields, and there.")
        encoded = field.kind == "bytes" and spec.decode == "sciencessl.data.decode:decode"
        require(not encoded or len(field.channels) in (1, 3), f"{where}: encoded images have 1 or 3 channels.")


def _columns(spec: DomainSpec) -> None:
    names = [column.name for column in spec.columns]
    require(len(set(names)) == len(names), f"columns repeat: {names}.")
    require(not spec.group or spec.group in names, f"group {spec.group!r} is none of the columns {names}.")
    missing = [name for name in spec.identity if name not in names]
    require(not missing, f"identity names {missing}, none of the columns {names}.")
    for column in spec.columns:
        try:
            np.dtype(column.dtype)
        except TypeError as error:
            raise ConformanceError(f"column {column.name!r}: {column.dtype!r} is no NumPy dtype.") from error


def _schemas(spec: DomainSpec) -> None:
    for name, schema in spec.labels.items():
        require(schema.name == name, f"labels[{name!r}] is a schema called {schema.name!r}.")
        again = LabelSchema.from_dict(schema.to_dict())
        require(again == schema, f"schema {name!r} does not survive being written and read.")


def _options(spec: DomainSpec) -> None:
    for what in ("train_options", "prepare_options"):
        kind = getattr(spec, what)
        require(is_frozen_dataclass(kind), f"{what} is no frozen dataclass.")
        try:
            kind()
        except Exception as error:
            raise ConformanceError(f"{what} cannot be made from its defaults: {error}") from error


def _functions(spec: DomainSpec) -> None:
    require(bool(spec.sources), "sources is empty; `prepare` needs one, the first being the default.")
    targets = {"decode": spec.decode, "to_input": spec.to_input, "label_loss": spec.label_loss,
               **{f"sources[{name!r}]": target for name, target in spec.sources.items()},
               **({"places": spec.places} if spec.places else {})}
    for what, target in targets.items():
        try:
            function = registry.resolve(target)
        except RegistryError as error:
            raise ConformanceError(f"{what}: {error}") from error
        require(callable(function), f"{what}: {target} cannot be called.")
    try:
        pickle.loads(pickle.dumps(spec.views))
    except Exception as error:
        sentence = f"views cannot be sent to loader workers: {error}. Make it a module's function."
        raise ConformanceError(sentence) from error


def _tasks(spec: DomainSpec) -> None:
    names = [task.name for task in spec.tasks]
    require(len(set(names)) == len(names), f"tasks repeat names: {names}.")
    columns = {column.name for column in spec.columns}
    for task in spec.tasks:
        wrong = [budget for budget in task.budgets if not BUDGET.fullmatch(budget)]
        require(bool(task.budgets) and not wrong, f"task {task.name!r}: budgets {wrong or 'missing'}, not as 20/class.")
        known = {"object", "group", *columns}
        require(task.unit in known, f"task {task.name!r}: unit {task.unit!r}, expected one of {sorted(known)}.")


def _preset(spec: DomainSpec) -> None:
    """The shipped layers together with the domain's own, for a domain that is registered."""
    try:
        if registry.load_domain(spec.name) is not spec:
            return
    except RegistryError:
        return
    options = registry.load_method("byol").Options
    for scale in scales():
        layers = preset_layers(scale, "byol", spec.name, [])
        try:
            build_config(layers, options, spec.train_options, {"data": "store.zarr", "steps": 1})
        except SciencesslError as error:
            raise ConformanceError(f"preset.yaml does not fit scale {scale}: {error}") from error


def _prepared(spec: DomainSpec, folder: Path, samples: int) -> Store:
    """The synthetic data, twice the same, as a store."""
    made = []
    for name in ("raw", "again"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        made.append(spec.synthetic(folder / name, np.random.default_rng(0), samples))
        require(Path(made[-1]).exists(), f"synthetic() returns {made[-1]}, which is not there.")
    first, second = (_contents(folder / name) for name in ("raw", "again"))
    require(bool(first), "synthetic() writes nothing.")
    changed = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    require(not changed, f"synthetic() writes {changed[:3]} differently from equal generators.")
    out = folder / "store.zarr"
    try:
        registry.preparer()(spec, [made[0]], out, registry.prepare_settings()(), domain_options=spec.prepare_options())
    except SciencesslError as error:
        raise ConformanceError(f"the default source cannot prepare the synthetic data: {error}") from error
    return Store(out)


def _contents(folder: Path) -> Mapping[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): blake2b(path.read_bytes()).hexdigest() for path in files}


def _stored(spec: DomainSpec, store: Store) -> None:
    require(store.primary == spec.primary, f"the store's primary field is {store.primary!r}, not {spec.primary!r}.")
    for split in ("train", "test"):
        require(len(store.split(split)) > 0, f"the synthetic store has no sample in split={split}; make more of them.")
    declared = {column.name for column in spec.columns if column.role == "group"}
    missing = declared - set(store.columns())
    require(not missing, f"the synthetic store lacks the group column {sorted(missing)}.")


def _some(spec: DomainSpec, store: Store) -> list[Sample]:
    index = store.split("train").all()[:SHOWN]
    samples = Decoder(store, spec.decode)(index)
    field = store.header.fields[spec.primary]
    for sample in samples:
        image = sample.fields[spec.primary]
        shape, expected = image.shape, len(field.channels)
        require(image.ndim == field.spatial_dims + 1 and shape[-1] == expected, f"decode gives {shape}, C={expected}.")
        require(image.dtype == np.dtype(field.dtype), f"decode gives {image.dtype}, the field is {field.dtype}.")
    return samples


def _views(spec: DomainSpec, store: Store) -> None:
    train, evaluate = spec.views(spec.train_options())
    for made in (train, evaluate):
        least = getattr(made, "least_px", {})
        fits = all(name in spec.fields and px > 0 for name, px in least.items())
        require(fits, f"least_px of a view is {least}, expected field -> pixels above 0.")
    shapes: dict[int, set[tuple[int, ...]]] = {}
    for sample in _some(spec, store):
        before = sample.fields[spec.primary].copy()
        views = [train(sample, ViewRandomness(seed, 0, 1)) for seed in (0, 0, 1)]
        shown = [evaluate(sample, ViewRandomness(seed, 0, 1)) for seed in (0, 1)]
        require(np.array_equal(before, sample.fields[spec.primary]), "a view changes the sample that it is made from.")
        require(len(views[0]) >= 2, f"the train view gives {len(views[0])} view(s); methods compare two.")
        require(len(shown[0]) == 1, f"the evaluation view gives {len(shown[0])} views, expected one.")
        require(_equal(views[0], views[1], spec), "the train view differs from equal generators; draw from random(v).")
        require(not _equal(views[0], views[2], spec), "the train view is the same from different generators.")
        require(_equal(shown[0], shown[1], spec), "the evaluation view is random.")
        require(not _equal(views[0][:1], views[0][1:2], spec), "both train views of a sample are the same.")
        for number, view in (*enumerate(views[0]), (0, shown[0][0])):
            image = view.fields[spec.primary]
            require(image.dtype == before.dtype, f"a view is {image.dtype}, the sample {before.dtype}.")
            require(view.index == sample.index, "a view has another index than its sample.")
            shapes.setdefault(number, set()).add(image.shape)
    for number, found in shapes.items():
        require(len(found) == 1, f"views of number {number} have shapes {sorted(found)}; a batch needs one.")
    size = getattr(spec.train_options(), "size", None)
    (shape,) = shapes[0]
    require(size is None or shape[:2] == (size, size), f"views are {shape[:2]}, the option size is {size}.")


def _equal(first: list[Sample], second: list[Sample], spec: DomainSpec) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(a.fields[spec.primary], b.fields[spec.primary], equal_nan=True) for a, b in pairs)


def _shown(spec: DomainSpec, store: Store) -> None:
    _, evaluate = spec.views(spec.train_options())
    for sample in _some(spec, store):
        for shown in (sample, *evaluate(sample, ViewRandomness(0, 0, 0))):
            image = spec.display(shown)
            fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            require(fits, f"display gives {image.dtype} {image.shape}, expected (H, W, 3) uint8.")


def _batches(spec: DomainSpec, store: Store) -> None:
    """The loader's batch, and model input from it."""
    import torch

    split = store.split("train")
    stream = BatchStream(Decoder(store, spec.decode), Order(len(split), 0, 4), split, spec.views, spec.train_options(),
                         {}, [spec.primary])
    pixels = stream.batch(0).views[0][spec.primary]
    field = store.header.fields[spec.primary]
    images = [sample.fields[spec.primary] for sample in _some(spec, store)]
    stats = fit_stats(images, len(field.channels), spec.stretch, field.dtype)
    before = pixels.clone()
    found = registry.resolve(spec.to_input)(pixels, stats)
    require(torch.equal(before, pixels), "to_input changes the stored pixels it is given.")
    fits = found.dtype == torch.float32 and found.ndim == 4
    require(fits, f"to_input gives {found.dtype} of {found.ndim} dimensions, expected float32 (B, C, H, W).")
    require(bool(found.isfinite().all()), "to_input gives values that are not finite.")


def _labels(spec: DomainSpec, store: Store) -> None:
    """Heads and losses for the schemas of the store and for classes."""
    import torch

    losses = registry.resolve(spec.label_loss)
    generator = torch.Generator().manual_seed(0)
    for schema in (None, *spec.labels.values()):
        loss = losses(schema, 3)
        outputs = loss.head(5, generator)(torch.randn(4, 5, generator=generator))
        count = 0 if schema is None else len(schema.columns)
        none = torch.zeros(4, count) if schema else torch.full((4,), UNLABELLED)
        some = torch.ones(4, count) if schema else torch.tensor([0, 1, 2, UNLABELLED])
        name = "classes" if schema is None else f"schema {schema.name!r}"
        total, rows = loss(outputs, none)
        cost = float(total.detach())
        require(cost == 0 == int(rows), f"label_loss of {name}: unlabelled rows cost {cost}.")
        total, rows = loss(outputs, some)
        require(bool(total.isfinite()) and int(rows) == (4 if schema else 3), f"label_loss of {name}: {total}, {rows}.")


def _answered(spec: DomainSpec, store: Store) -> None:
    """Tasks against the columns and values of the synthetic store, and votes against the domain's schemas."""
    votes = {column for schema in spec.labels.values() for column in schema.columns}
    for task in spec.tasks:
        _check_task(task, store, votes)


def _check_task(task: TransferTask, store: Store, votes: set[str]) -> None:
    columns = store.columns()
    wanted = [*task.needs, *([] if task.unit == "object" else [task.unit])]
    missing = [name for name in wanted if name not in columns and name not in votes]
    require(not missing, f"task {task.name!r} reads {missing}, which the synthetic store lacks: {sorted(columns)}.")
    if task.columns:
        return
    values = {str(value) for value in store.column(task.column) if value is not None}
    classes = {task.classes[value] for value in values if value in task.classes} if task.classes else values
    require(len(classes) >= 2, f"task {task.name!r}: the synthetic store has classes {sorted(classes)}, needs two.")
