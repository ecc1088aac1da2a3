"""How long the vote loss of many campaigns takes, forward and backward.

    python benchmarks/dirichlet.py [--quick] [--json] [--galaxies N] [--rounds N]

Processor milliseconds on one thread, float32: the Dirichlet-multinomial loss of 512 galaxies on 200 answers to 66
questions, six Galaxy Zoo campaigns in one schema (`gz-evo` without some of its last questions), and its gradient for
the concentrations. Every galaxy has the votes of 40 volunteers of one campaign, drawn down its tree, and zeros
elsewhere, which is what a store of several campaigns holds. Both ways take turns, each round is the same numbers, and a
ratio is the median over rounds of the other's time over ours. Above 1 ours is faster.

Named alternatives:
- `per_question_loop`: the formula for one question at a time, as it is written down, in a Python loop.
- `per_question_loop_all_voted`: the same where each galaxy has votes on every answer of every campaign. No survey has
  that; it is what remains when no answer can be left out.

Before the clock starts both must agree: the loss to 1e-5 of itself, the gradient to 1e-5 of its largest entry.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciencessl.domains.galaxy.schema import SCHEMAS
from sciencessl.domains.galaxy.votes import simulate_votes
from sciencessl.errors import SciencesslError
from sciencessl.losses.dirichlet import Groups, dirichlet_multinomial_nll, scaled_sigmoid
from sciencessl.spec import LabelSchema

ANSWERS = 200
VOLUNTEERS = 40
TOLERANCE = 1e-5
CAMPAIGNS = ("gzd12", "gzd5", "gzd8", "gz2", "candels", "hubble")

Loss = Callable[[Tensor, Tensor, Groups], Tensor]
"""(B, A) counts, (B, A) concentrations, columns of each question -> (B, Q)."""


def per_question_loop(counts: Tensor, concentrations: Tensor, groups: Groups) -> Tensor:
    """The formula, question by question."""
    nll = []
    for start, stop in groups:
        k, a = counts[:, start:stop], concentrations[:, start:stop]
        n, s = k.sum(dim=1), a.sum(dim=1)
        answers = torch.lgamma(k + a) - torch.lgamma(a) - torch.lgamma(k + 1)
        nll.append(-(torch.lgamma(s) + torch.lgamma(n + 1) - torch.lgamma(n + s) + answers.sum(dim=1)))
    return torch.stack(nll, dim=1)


def questions() -> LabelSchema:
    """Of `gz-evo`, from the first, those that fit into 200 answers."""
    kept, room = [], ANSWERS
    for question in SCHEMAS["gz-evo"].questions:
        if len(question.answers) <= room:
            kept.append(question.name)
            room -= len(question.answers)
    return SCHEMAS["gz-evo"].only(kept)


def survey(schema: LabelSchema, galaxies: int, rng: np.random.Generator) -> Tensor:
    """(N, A) float32 votes, each row of one campaign."""
    counts = np.zeros((galaxies, len(schema.columns)), dtype=np.float32)
    for number, name in enumerate(CAMPAIGNS):
        own = {question.name for question in SCHEMAS[name].questions}
        part = schema.only([question.name for question in schema.questions if question.name in own])
        rows = np.arange(number, galaxies, len(CAMPAIGNS))
        shares = np.concatenate([rng.dirichlet(np.ones(len(q.answers)), len(rows)) for q in part.questions], axis=1)
        columns = [schema.columns.index(column) for column in part.columns]
        counts[np.ix_(rows, columns)] = simulate_votes(part, shares, VOLUNTEERS, rng)
    return torch.from_numpy(counts)


def step(loss: Loss, counts: Tensor, concentrations: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
    """The loss, mean over galaxies of the sum over questions, and its gradient."""
    alpha = concentrations.clone().requires_grad_()
    value = loss(counts, alpha, groups).sum() / len(counts)
    value.backward()
    assert alpha.grad is not None
    return value.detach(), alpha.grad


def check_equal(counts: Tensor, concentrations: Tensor, groups: Groups) -> float:
    """Largest difference of the two, of the loss and of the gradient, relative to the loop's largest.

    Raises:
        SciencesslError: When it is above 1e-5.
    """
    ours, loop = (step(loss, counts, concentrations, groups) for loss in (dirichlet_multinomial_nll, per_question_loop))
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, loop, strict=True))
    if not worst <= TOLERANCE:
        raise SciencesslError(f"ours and the loop differ by {worst:.1e}; they must agree to {TOLERANCE:.0e}.")
    return worst


def milliseconds(counts: Tensor, concentrations: Tensor, groups: Groups, rounds: int) -> dict[str, list[float]]:
    """Processor time of a step, one value a round."""
    spent: dict[str, list[float]] = {"ours": [], "loop": []}
    for _ in range(rounds + 2):  # the first two warm up
        for name, loss in (("ours", dirichlet_multinomial_nll), ("loop", per_question_loop)):
            began = time.process_time()
            step(loss, counts, concentrations, groups)
            spent[name].append(1e3 * (time.process_time() - began))
    return {name: values[2:] for name, values in spent.items()}


def measure(galaxies: int, rounds: int) -> dict[str, Any]:
    """Both kinds of votes, in one process on one thread."""
    schema, rng = questions(), np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(-3, 1, (galaxies, len(schema.columns))).astype(np.float32))
    concentrations = scaled_sigmoid(logits)
    everywhere = torch.from_numpy(rng.integers(1, 20, logits.shape).astype(np.float32))
    ratios, times = {}, {}
    absolute: dict[str, Any] = {"galaxies": galaxies, "answers": len(schema.columns),
                                "questions": len(schema.questions), "rounds": rounds}
    for name, counts in (("per_question_loop", survey(schema, galaxies, rng)),
                         ("per_question_loop_all_voted", everywhere)):
        absolute[f"difference_{name}"] = check_equal(counts, concentrations, schema.groups)
        spent = milliseconds(counts, concentrations, schema.groups, rounds)
        ratios[name] = float(np.median(np.divide(spent["loop"], spent["ours"])))
        times[name] = {way: float(np.median(values)) for way, values in spent.items()}
    return {
        "name": "dirichlet",
        "hardware": f"{platform.machine()}, one of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "ratios": ratios, "absolute": {**absolute, "ms": times}, "absent": [],
    }


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    absolute = found["absolute"]
    print(f"vote loss of {absolute['galaxies']} galaxies on {absolute['answers']} answers of {absolute['questions']} "
          f"questions, forward and backward; {found['hardware']}")
    for name, ratio in found["ratios"].items():
        spent = absolute["ms"][name]
        print(f"  {name:28} ours {spent['ours']:6.2f} ms, loop {spent['loop']:6.2f} ms: {ratio:.1f} times faster "
              f"(differ by {absolute[f'difference_{name}']:.0e})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="5 rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--galaxies", type=int, default=512, help="rows (default: 512)")
    parser.add_argument("--rounds", type=int, default=25, help="rounds (default: 25)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.galaxies, 5 if options.quick else options.rounds)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
