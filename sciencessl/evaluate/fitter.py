"""The fits of a plan: computed one by one and kept, by this process or by several side by side."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from sciencessl.evaluate.abmil import BagFeatures
from sciencessl.evaluate.bags import pooled
from sciencessl.evaluate.dense import Segmented, run_dense
from sciencessl.evaluate.dense_masks import read_masks
from sciencessl.evaluate.encoders import fresh_module, take_statistics
from sciencessl.evaluate.features import Features
from sciencessl.evaluate.finetune import Labelled
from sciencessl.evaluate.fits import Fit, load_fit, run_attention, run_fit, run_training, save_fit
from sciencessl.evaluate.kinds import frozen_fit, output_width
from sciencessl.evaluate.metrics import ordered_metrics
from sciencessl.evaluate.models import holds_model, save_model
from sciencessl.evaluate.plan import Item, Plan, Request, make_plan
from sciencessl.monitor.throughput import Progress

POLL_SECONDS = 0.5
"""Between two looks at what other processes have done."""


def cached_fit(plan: Plan, item: Item) -> Fit | None:
    """A fit that is done, its model too where that is kept."""
    key, folder = plan.key(item), plan.model_folder(item)
    if folder is not None and not holds_model(folder, key):
        return None
    return load_fit(plan.out / "fits", key, (len(item.part.data.test), output_width(item.part.data)))


class Fitter:
    """Computes fits and keeps them, each under its own key."""

    def __init__(self, plan: Plan, features: Features) -> None:
        self.plan = plan
        self.features = features
        self._ready: set[str] = set()

    def fit(self, item: Item) -> Fit:
        """Compute a fit and keep it; its model first, where that is kept, so that a fit that is done has one."""
        plan = self.plan
        if plan.data.task.kind == "dense":
            fit = self._segment(item)
        else:
            fit = self._train(item) if plan.trains(item.arm) else self._head(item)
        if plan.data.task.ordered:
            more = ordered_metrics(fit.probabilities, item.part.data.test_labels)
            fit = replace(fit, metrics={**fit.metrics, **more})
        key, folder = plan.key(item), plan.model_folder(item)
        if folder is not None:
            save_model(folder, item.arm, item.encoder, fit, key, plan.store, plan.data, plan.training_of(item.arm))
        save_fit(plan.out / "fits", key, fit)
        return fit

    def _head(self, item: Item) -> Fit:
        data, rows = item.part.data, item.rows
        if item.arm == "abmil":
            return self._attention(item)
        pooling = "max" if item.arm == "max" else "mean"
        train = pooled(partial(self.features.of_pool, item.encoder), data.train_bags, data.train[rows], pooling)
        test = pooled(partial(self.features.of_test, item.encoder), data.test_bags, data.test, pooling)
        if item.arm == "knn":
            return run_fit("knn", train, data.train_labels[rows], data.train_units[rows], test, data.test_labels,
                           len(data.classes), item.seed)
        return frozen_fit(data, rows, train, test, item.seed)

    def _attention(self, item: Item) -> Fit:
        data, rows = item.part.data, item.rows
        assert data.train_bags is not None  # `check_arms` lets only tasks of bags have this arm
        assert data.test_bags is not None
        samples, sizes = data.train_bags.of(data.train[rows])
        tested, test_sizes = data.test_bags.of(data.test)
        train = BagFeatures(self.features.of_pool(item.encoder, samples), sizes)
        test = BagFeatures(self.features.of_test(item.encoder, tested), test_sizes)
        return run_attention(train, data.train_labels[rows], data.train_units[rows], test, data.test_labels,
                             len(data.classes), item.seed)

    def _train(self, item: Item) -> Fit:
        plan, data, rows, scratch = self.plan, item.part.data, item.rows, item.arm == "scratch"
        index = data.train[rows]
        labelled = Labelled(plan.store, index, data.train_labels[rows], data.train_units[rows],
                            None if scratch else self.features.of_pool(item.encoder, index))
        start = fresh_module(item.encoder.card, item.seed) if scratch else item.encoder.module
        return run_training(start, item.encoder.card, labelled, plan.test_store, data.test, data.test_labels,
                            len(data.classes), plan.training_of(item.arm), item.seed, self.features.pool.workers)

    def _segment(self, item: Item) -> Fit:
        plan, data, encoder = self.plan, item.part.data, item.encoder
        if encoder.statistics and encoder.digest not in self._ready:
            take_statistics([encoder], plan.store)
            self._ready.add(encoder.digest)
        masks = read_masks(plan.test_store, data.task, data.classes, data.test)
        test = Segmented(plan.test_store, data.test, masks, data.test_labels, data.test_units)
        start = fresh_module(encoder.card, item.seed) if item.arm == "scratch" else encoder.module
        return run_dense(start, encoder.card, segmented(plan, item), test, plan.training_of(item.arm), item.seed,
                         self.features.pool.workers)


def segmented(plan: Plan, item: Item) -> Segmented:
    """The samples of a fit's budget with their label images."""
    data, rows = item.part.data, item.rows
    index = data.train[rows]
    masks = read_masks(plan.store, data.task, data.classes, index)
    return Segmented(plan.store, index, masks, data.train_labels[rows], data.train_units[rows])


def train_side_by_side(request: Request, plan: Plan, jobs: int) -> int:
    """Compute the fits that train a network in several processes, each with its share of the cores.

    A process takes every `jobs`-th fit that is not done and keeps it; whoever asks next finds it. Small networks leave
    cores idle when several threads share one fit. What a process could not do is left to the caller, whose error names
    it.

    Args:
        request: Of the plan, which each process makes anew.
        plan: Whose features are filled.
        jobs: Processes, 2 or more; each loads its own images.

    Returns:
        Fits that were computed.
    """
    todo = [item for item in _trained(plan) if cached_fit(plan, item) is None]
    if len(todo) < 2:
        return 0
    context = multiprocessing.get_context("spawn")
    keys = {plan.key(item).name for item in todo}
    shares = [sorted(keys)[number::jobs] for number in range(min(jobs, len(todo)))]
    processes = [context.Process(target=_train_share, args=(request, share, jobs)) for share in shares]
    progress = Progress(len(todo), unit="training", title=f"transfer in {len(processes)} processes")
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            time.sleep(POLL_SECONDS)
            progress.update(_done(plan, keys))
    finally:
        for process in processes:
            process.terminate()
            process.join()
    progress.close()
    return _done(plan, keys)


def _trained(plan: Plan) -> list[Item]:
    return [item for curve in plan.curves if plan.trains(curve.arm) for item in plan.items(curve, curve.encoders)]


def _done(plan: Plan, keys: set[str]) -> int:
    return sum((plan.out / "fits" / f"{key}.npz").exists() for key in keys)


def _train_share(request: Request, share: Sequence[str], jobs: int) -> None:
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // jobs))
    plan = make_plan(request)
    fitter = Fitter(plan, Features(plan, workers=0))
    for item in _trained(plan):
        if plan.key(item).name in share:
            fitter.fit(item)
