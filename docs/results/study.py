"""A few-label study from raw files to a results page: prepare, pretrain with several seeds, transfer, compare, write.

    python docs/results/study.py docs/results/galaxy_sdss_gz1.yaml --data DATA --work DIR

Everything is done by the command line that users have, as the study's YAML file says; what is done is not done again,
so that a call after an interruption goes on. The page and its figures lie beside the YAML file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sciencessl.evaluate.results import Row, TransferResult, read_result
from sciencessl.evaluate.tables import difference_text, endpoint_text, resolution_text
from sciencessl.train.folder import read_metrics

HERE = Path(__file__).resolve().parent

OURS = ("store", "seeds", "about", "runs")
"""Options of methods and transfers that are for this script and not for the command."""

MOST_CURVES = 16
"""Where there are more, scores at the largest budget are drawn in place of curves, which nobody could tell apart."""

TIMES = "times.json"
"""Wall seconds of every command that has finished, summed over the calls that it took."""


def main() -> None:
    """Run what is lacking of a study, then write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder that the study's source is in")
    parser.add_argument("--work", type=Path, required=True, help="folder for store, runs and transfers")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are left to do")
    parser.add_argument("--page-only", action="store_true", help="write the page from the transfers that are there")
    args = parser.parse_args()
    study = yaml.safe_load(args.study.read_text(encoding="utf-8"))
    commands = list(_commands(study, args.data))
    args.work.mkdir(parents=True, exist_ok=True)
    for name, command, finished in commands:
        left = not (finished and (args.work / finished).exists())
        if args.dry_run and left:
            print(_shown(command))
        elif left and not args.page_only:
            _run(args.work, name, command, finished)
    if not args.dry_run:
        page = args.study.with_suffix(".md")
        page.write_text("\n".join(_page(study, args, commands)) + "\n", encoding="utf-8")
        print(f"wrote {page}")


def _commands(study: Mapping[str, Any], data: Path) -> Iterator[tuple[str, list[str], str]]:
    """(name, words, file that is there once it is done; empty for commands that find out themselves).

    Methods and transfers are of the study's first store unless their `store` names another. A transfer takes all runs
    on its store, or those of its methods in `runs`, after the `beside` that the study compares with. Further commands
    follow the store or run that `after` names.
    """
    first, *_ = study["stores"]
    for name, options in study["stores"].items():
        yield _called("prepare", name, first), ["prepare", study["domain"], str((data / study["source"]).resolve()),
                                                "--out", f"{name}.zarr", *_words(options)], ""
        yield from _after(study, name)
    runs = _runs(study, first)
    for name, store, seed in sorted(runs, key=lambda run: run[2]):
        yield name, ["pretrain", "--data", f"{store}.zarr", "--out", f"runs/{name}", "--seed", str(seed),
                     *_words(study["pretrain"]), *_words(study["methods"][name.rpartition("-")[0]])], \
            f"runs/{name}/exported/model.json"
        yield from _after(study, name)
    for name, options in study["transfers"].items():
        own = options.get("store", first)
        given = [*study.get("beside", []), *(f"runs/{run}" for run, store, _ in runs
                                             if run.rpartition("-")[0] in options.get("runs", [])
                                             or ("runs" not in options and store == own))]
        yield name, ["transfer", *given, "--data", f"{own}.zarr", "--out", f"transfers/{name}", *_words(options)], ""
    yield from _summaries(study, runs, first)


def _after(study: Mapping[str, Any], name: str) -> Iterator[tuple[str, list[str], str]]:
    """Further commands, each done once: verbs, or scripts beside this one."""
    for number, line in enumerate(study.get("after", {}).get(name, []), 1):
        yield f"{name}-{number}", shlex.split(line), f"done/{name}-{number}"


def _summaries(
    study: Mapping[str, Any], runs: Sequence[tuple[str, str, int]], first: str
) -> Iterator[tuple[str, list[str], str]]:
    for store in study["stores"]:
        transfers = [f"transfers/{name}" for name, options in study["transfers"].items()
                     if options.get("store", first) == store]
        ordered = [f"runs/{run}" for run, own, _ in runs if own == store]
        if transfers:
            name = _called("compare", store, first)
            yield name, ["compare", *transfers, "--out", name], ""
        if transfers and ordered:
            yield _called("report", store, first), ["report", ordered[0], "--data", f"{store}.zarr", "--transfer",
                                                    *transfers], ""


def _runs(study: Mapping[str, Any], first: str) -> list[tuple[str, str, int]]:
    """(name, store, seed) of every run, method by method."""
    return [(f"{method}-{seed}", options.get("store", first), seed) for method, options in study["methods"].items()
            for seed in options.get("seeds", study["seeds"])]


def _called(name: str, store: str, first: str) -> str:
    return name if store == first else f"{name}-{store}"


def _words(options: Mapping[str, Any]) -> list[str]:
    """`{labels: [50, all]}` -> `--labels 50 all`; what is for this script alone is left out."""
    words = []
    for name, value in options.items():
        if name in OURS:
            continue
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _run(work: Path, name: str, command: Sequence[str], finished: str) -> None:
    """Run one command in the folder of the study; a run that was begun is continued."""
    begun = command[0] == "pretrain" and (work / "runs" / name / "config.yaml").exists()
    # A run goes on with its own settings and takes no others.
    words = ["pretrain", "--out", f"runs/{name}", "--resume"] if begun else list(command)
    print("+", _shown(words), flush=True)
    program = [str(HERE / words.pop(0))] if words[0].endswith(".py") else ["-m", "sciencessl"]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *program, *words], cwd=work, check=False)
    times = json.loads((work / TIMES).read_text()) if (work / TIMES).exists() else {}
    times[name] = times.get(name, 0.0) + time.perf_counter() - started
    (work / TIMES).write_text(json.dumps(times, indent=1))
    if done.returncode:
        sys.exit(f"{name} ended with code {done.returncode}; the same call goes on from there.")
    if finished.startswith("done/"):
        (work / finished).parent.mkdir(exist_ok=True)
        (work / finished).touch()


def _shown(words: Sequence[str]) -> str:
    return shlex.join(["python" if words[0].endswith(".py") else "sciencessl", *words])


def _page(study: Mapping[str, Any], args: argparse.Namespace, commands: Sequence[Any]) -> Iterator[str]:
    results = {name: read_result(args.work / "transfers" / name) for name in study["transfers"]}
    yield f"# {study['title']}"
    yield ""
    yield study["about"].strip()
    yield ""
    yield from _conditions(args)
    if study.get("aims"):
        yield from ("", "## What was aimed at", "")
        yield from (f"- {aim['text']} **{_verdict(aim, results)}**" for aim in study["aims"])
    for name, result in results.items():
        yield ""
        yield from _section(name, result, args, study["transfers"][name].get("about", ""))
    if study.get("notes"):
        yield from ("", study["notes"].strip())
    yield ""
    yield from _commands_section(study, args, commands)


def _conditions(args: argparse.Namespace) -> Iterator[str]:
    times = json.loads((args.work / TIMES).read_text()) if (args.work / TIMES).exists() else {}
    cpu = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    pretraining = sum(json.loads(path.read_text())["wall_seconds"] for path in (args.work / "runs").glob("*/cost.json"))
    rest = sum(seconds for name, seconds in times.items() if not (args.work / "runs" / name).exists())
    yield (f"Measured on {time.strftime('%Y-%m-%d')} on {os.cpu_count()} cores ({cpu}, Python "
           f"{platform.python_version()}): {pretraining / 60:.0f} minutes of pretraining and {rest / 60:.0f} of all "
           "else. This page is written by `docs/results/study.py`; the commands are at its end.")


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _section(name: str, result: TransferResult, args: argparse.Namespace, about: str) -> Iterator[str]:
    yield f"## {name if about else result.task}: {', '.join(result.classes)}"
    yield ""
    if about:
        yield from (about.strip(), "")
    metric = result.metric.replace("_", " ")
    yield (f"{result.n_pool:,} labels to draw from, {result.n_test:,} test samples, unit {result.unit}; "
           f"{resolution_text(result.resolution, metric)}. {metric.capitalize()}, mean and half of the 95 % interval "
           "over pretraining seeds (of random: encoders), label subsets and test units.")
    yield ""
    if len({row.budget for row in result.rows}) > 1:
        picture = args.study.with_name(f"{args.study.stem}_{name}.png")
        if len({(row.encoder, row.arm) for row in result.rows}) > MOST_CURVES:
            _dots(result, picture)
        else:
            shutil.copyfile(args.work / "transfers" / name / "curve.png", picture)
        yield f"![few-label curves of {result.task}]({picture.name})"
        yield ""
    yield from _table(result)
    yield ""
    yield from _groups(result)
    if result.endpoints:
        yield "Mean gap between two curves over log labels, the first one primary, the others Holm-adjusted:"
        yield ""
        yield from (f"- {endpoint_text(endpoint)}." for endpoint in result.endpoints)
        yield ""
    yield "What pretraining saw of the task:"
    yield ""
    yield from (f"- {names}: {sentence}" for names, sentence in result.said().items())
    yield from (f"- {note}" for note in result.notes)


def _dots(result: TransferResult, picture: Path) -> None:
    """Scores of every encoder at the largest budget with their intervals, the best on top; one panel an arm, in each a
    band for the interval of what never learned."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    budget = result.rows[-1].budget
    rows = [row for row in result.rows if row.budget == budget]
    blank = next((row for row in rows if row.arm == "random"), None)
    arms = [arm for arm in dict.fromkeys(row.arm for row in rows) if arm != "random"]
    figure, panels = plt.subplots(1, len(arms), sharex=True, layout="constrained", squeeze=False,
                                  figsize=(4.5 * len(arms), 0.8 + 0.22 * len(rows) / len(arms)))
    for panel, arm in zip(panels[0], arms, strict=True):
        own = sorted((row for row in rows if row.arm == arm), key=lambda row: row.score)
        reach = [[row.score - row.low for row in own], [row.high - row.score for row in own]]
        panel.errorbar([row.score for row in own], range(len(own)), xerr=reach, fmt="o", ms=4, lw=1)
        panel.set_yticks(range(len(own)), [row.encoder for row in own], fontsize=8)
        if blank is not None:
            panel.axvspan(blank.low, blank.high, color="0.85", label="random encoders")
            panel.legend(loc="lower right", fontsize=8)
        panel.set_title(f"{arm}, {budget}", fontsize=10)
        panel.set_xlabel(result.metric.replace("_", " "))
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _table(result: TransferResult) -> Iterator[str]:
    budgets = list(dict.fromkeys(row.budget for row in result.rows))
    yield f"| | | {' | '.join(budgets)} |"
    yield f"|---|---|{'---|' * len(budgets)}"
    curves: dict[tuple[str, str], dict[str, Row]] = {}
    for row in result.rows:
        curves.setdefault((row.encoder, row.arm), {})[row.budget] = row
    for (encoder, arm), rows in curves.items():
        cells = [f"{r.score:.3f} ± {r.high - r.score:.3f}" if (r := rows.get(b)) else "" for b in budgets]
        yield f"| {encoder} | {arm} | {' | '.join(cells)} |"
        if any(row.difference is not None for row in rows.values()):
            gaps = [difference_text(r) if (r := rows.get(b)) else "" for b in budgets]
            yield f"| | minus random | {' | '.join(gaps)} |"
            each = [", ".join(f"{v:.3f}" for v in r.each) if (r := rows.get(b)) and r.seeds > 1 else ""
                    for b in budgets]
            if any(each):
                yield f"| | each seed | {' | '.join(each)} |"


def _groups(result: TransferResult) -> Iterator[str]:
    """The score by groups of test samples at the largest budget, where there are any."""
    if not result.by:
        return
    details = [detail for detail in result.details if detail.groups]
    names = [group.group for group in details[0].groups]
    yield f"At {details[0].budget}, by {result.by}, over label subsets and test units for these checkpoints:"
    yield ""
    yield f"| | | {' | '.join(names)} |"
    yield f"|---|---|{'---|' * len(names)}"
    for detail in details:
        cells = [f"{g.score:.3f} [{g.low:.3f}, {g.high:.3f}]" if g.low is not None and g.high is not None
                 else f"{g.score:.3f}" for g in detail.groups]
        yield f"| {detail.encoder} | {detail.arm} | {' | '.join(cells)} |"
    yield ""


def _verdict(aim: Mapping[str, Any], results: Mapping[str, TransferResult]) -> str:
    """Met or not, in numbers."""
    result = results[aim["transfer"]]
    if "above" in aim:
        return _above(aim, result)
    if "at" in aim:
        row = _row(result, aim["of"], "frozen", aim["at"])
        met = row.difference is not None and row.difference >= aim["least"] and row.resolved
        return f"{'Met' if met else 'Not met'}: {difference_text(row)}."
    if "best_of" in aim:
        return _best_of(aim, result)
    found = next(e for e in result.endpoints
                 if (e.encoder, e.arm, e.baseline, e.baseline_arm) == (aim["of"], "frozen", aim["over"], "frozen"))
    met = all(gap > 0 for gap in found.each)
    return (f"{'Met' if met else 'Not met'}: {', '.join(f'{gap:+.3f}' for gap in found.each)} by pretraining seed, "
            f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] together"
            f"{'' if found.resolved else ', not resolved'}.")


def _row(result: TransferResult, encoder: str, arm: str, budget: Any) -> Row:
    return next(r for r in result.rows if (r.encoder, r.arm, r.budget) == (encoder, arm, str(budget)))


def _above(aim: Mapping[str, Any], result: TransferResult) -> str:
    """One arm of two methods: that of `of` above the strongest among `above`."""
    row = _row(result, aim["of"], aim["arm"], aim["at"])
    other = max((_row(result, name, aim["arm"], aim["at"]) for name in aim["above"]), key=lambda r: r.score)
    gap, apart = row.score - other.score, row.low > other.high
    seeds = ", ".join(f"{score - other.score:+.3f}" for score in row.each)
    return (f"{'Met' if gap >= aim['least'] and apart else 'Not met'}: {row.encoder} {row.score:.3f} [{row.low:.3f}, "
            f"{row.high:.3f}], {other.encoder} {other.score:.3f} [{other.low:.3f}, {other.high:.3f}], the stronger of "
            f"{len(aim['above'])}: {gap:+.3f}" + (f" ({seeds} by seed)." if len(row.each) > 1 else "."))


def _best_of(aim: Mapping[str, Any], result: TransferResult) -> str:
    rows = [r for r in result.rows if r.budget == str(aim["best_of"])]
    best = max((r for r in rows if r.arm not in ("scratch", "random")), key=lambda r: r.score)
    scratch = next(r for r in rows if r.arm == "scratch")
    said = "" if best.low > scratch.high else ", intervals overlap: not resolved"
    return (f"{'Met' if best.score > scratch.score else 'Not met'}: {best.encoder} {best.arm} {best.score:.3f} "
            f"[{best.low:.3f}, {best.high:.3f}], scratch {scratch.score:.3f} [{scratch.low:.3f}, "
            f"{scratch.high:.3f}]{said}.")


def _commands_section(study: Mapping[str, Any], args: argparse.Namespace, commands: Sequence[Any]) -> Iterator[str]:
    yield "## Commands and what they cost"
    yield ""
    yield "```bash"
    for _, words, _ in commands:
        shown = [f"DATA/{study['source']}" if word.endswith(study["source"]) else word for word in words]
        yield _shown(shown)
    yield "```"
    yield ""
    measures = study.get("measures", [])
    more = "".join(f" {measure} |" for measure in measures)
    yield f"| run | steps | images | minutes | device-hours | device | peak memory |{more}"
    yield f"|---|---|---|---|---|---|---|{'---|' * len(measures)}"
    for path in sorted((args.work / "runs").glob("*/cost.json")):
        cost, last = json.loads(path.read_text()), (read_metrics(path.parent) or [{}])[-1]
        yield (f"| {path.parent.name} | {cost['steps']:,} | {cost['images_seen']:,} | {cost['wall_seconds'] / 60:.1f} "
               f"| {cost['device_hours']:.3f} | {cost['device']} | {cost['peak_memory_bytes'] / 2**30:.2f} GiB |"
               + "".join(f" {last[m]:.3g} |" if m in last else " |" for m in measures))


if __name__ == "__main__":
    main()
