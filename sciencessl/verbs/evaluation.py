"""What a run is worth, and what leaves it: `embed transfer predict select compare report average export`."""

from __future__ import annotations

import argparse
from typing import Any

from sciencessl.verbs.output import DONE, REFUSED, add_accept_leak, add_json, emit, teller


def fill_embed(parser: argparse.ArgumentParser) -> None:
    """Arguments of `embed`."""
    parser.add_argument("run", metavar="RUN", help="a finished run, or weights by name as in transfer")
    parser.add_argument("--data", required=True, metavar="STORE|PLAN",
                        help="a sealed store, or a FILE.yaml with domain, sources and settings as prepare takes them: "
                        "its samples are read and not stored")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for Parquet shards")
    parser.add_argument("--split", default="all", choices=("all", "train", "val", "test"),
                        help="samples to embed (default: all)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"),
                        help="of the stored values (default: float32)")
    parser.add_argument("--format", default="parquet", choices=("parquet", "h5"),
                        help="h5: beside the shards a file SLIDE.h5 with coords and features for each slide, as CLAM "
                        "and TRIDENT have them (default: parquet)")
    parser.add_argument("--overwrite", action="store_true", help="replace embeddings of something else in --out")
    add_json(parser)


def run_embed(args: argparse.Namespace) -> int:
    """A store through an encoder."""
    from sciencessl.evaluate.embed import embed

    result = embed(args.run, args.data, args.out, split=args.split, dtype=args.dtype, overwrite=args.overwrite,
                   format=args.format)
    text = (f"{result.samples} embeddings of width {result.features} in {result.shards} shards "
            f"({result.computed} computed now, {result.seconds:.1f} s): {result.out}")
    text += f"; {result.slides} slides in its h5/" if result.slides else ""
    text = "\n".join([*result.guessed, text])
    refused = ", ".join(f"{count:,} {reason}" for reason, count in result.refused.items())
    text += f"\nrefused: {refused}; listed in {result.out / 'refused.csv'}" if refused else ""
    emit(result, args.json, f"{text}\n{args.run}: {result.terms}" if result.terms else text)
    return REFUSED if refused else DONE


def fill_transfer(parser: argparse.ArgumentParser) -> None:
    """Arguments of `transfer`."""
    parser.add_argument("runs", nargs="+", metavar="RUN",
                        help="finished runs, weights by name (timm:NAME.TAG, timm:NAME@FILE, seer:32gf, "
                        "hub:OWNER/NAME, local-dir:FOLDER), tables of features with ids, or "
                        "baseline:colour-histogram")
    parser.add_argument("--data", required=True, metavar="STORE", help="a sealed store with the task's labels")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for table, plot, subsets and cached fits")
    parser.add_argument("--task", default="", help="a task of the domain (not needed if there is one), or a FILE.yaml")
    parser.add_argument("--labels", nargs="+", default=[], metavar="N",
                        help="budgets: 50, 20/class, 1%%, '5 patients', all (default: those of the task)")
    parser.add_argument("--arms", nargs="+", default=[], metavar="ARM",
                        help="frozen: logistic regression; knn; random: the former on random encoders; linear: a layer "
                        "on augmented views; finetune: layer and encoder; scratch: the same from fresh weights "
                        "(default: frozen knn random, for classes). Of bags, such as slides: frozen pools by the mean, "
                        "max by the maximum, abmil by attention")
    parser.add_argument("--subsets", type=int, default=10, metavar="N", help="label subsets a budget (default: 10)")
    parser.add_argument("--random-encoders", type=int, default=5, metavar="N",
                        help="encoders in the random arm (default: 5)")
    parser.add_argument("--draw", default="stratified", choices=("stratified", "random"),
                        help="how label subsets are drawn (default: stratified by class)")
    parser.add_argument("--finetune-labels", nargs="+", default=[], metavar="N",
                        help="budgets of linear, finetune and scratch, some of --labels (default: all of them)")
    parser.add_argument("--finetune-subsets", type=int, default=3, metavar="N",
                        help="label subsets a budget of linear, finetune and scratch (default: 3)")
    parser.add_argument("--max-steps", type=int, default=300, metavar="N", help="steps of a training (default: 300)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="processes that train networks side by side (default: 1)")
    parser.add_argument("--stages", type=int, metavar="N",
                        help="last stages that finetune trains; 0: the head alone (default: all)")
    parser.add_argument("--folds", type=int, default=0, metavar="K",
                        help="cross-validate over units instead of testing on split=test, where units are few")
    parser.add_argument("--repeats", type=int, default=1, metavar="R", help="deal the folds so often (default: 1)")
    parser.add_argument("--folds-by", default="", metavar="COLUMN",
                        help="no fold divides a value of this column, such as site; classes spread evenly")
    parser.add_argument("--test", default="", metavar="STORE|COLUMN=VALUE",
                        help="test on another store, or on the samples with a value that no label is drawn from")
    parser.add_argument("--by", default="", metavar="COLUMN", help="also score groups of test samples by this column")
    parser.add_argument("--dry-run", action="store_true", help="count fits and images, estimate hours; write nothing")
    add_accept_leak(parser)
    add_json(parser)


def run_transfer(args: argparse.Namespace) -> int:
    """Few-label curves."""
    from sciencessl.evaluate.results import TransferEstimate
    from sciencessl.evaluate.tables import estimate_text, table_text
    from sciencessl.evaluate.transfer import transfer

    result = transfer(
        args.runs, args.data, args.out, task=args.task, labels=args.labels, arms=args.arms, subsets=args.subsets,
        random_encoders=args.random_encoders, draw=args.draw, dry_run=args.dry_run, stages=args.stages,
        finetune_labels=args.finetune_labels, finetune_subsets=args.finetune_subsets,
        max_steps=args.max_steps, by=args.by, folds=args.folds, repeats=args.repeats, test=args.test,
        folds_by=args.folds_by, jobs=args.jobs, accept_leak=args.accept_leak, tell=teller(args),
    )
    if isinstance(result, TransferEstimate):
        emit(result, args.json, estimate_text(result))
        return DONE
    kept = " (models of the largest budget in its models/)" if (result.out / "models").is_dir() else ""
    done = f"{result.fits} fits, {result.seconds:.0f} s: {result.out}{kept}"
    emit(result.to_json(), args.json, f"{table_text(result)}\n{done}")
    return DONE


def fill_predict(parser: argparse.ArgumentParser) -> None:
    """Arguments of `predict`."""
    parser.add_argument("model", nargs="+", metavar="MODEL",
                        help="a model that transfer saved (a folder in its models/), or finished runs that learned "
                        "from votes on the same questions: together they are one posterior")
    parser.add_argument("--data", required=True, metavar="STORE", help="a sealed store, with labels or without")
    parser.add_argument("--out", required=True, metavar="DIR",
                        help="folder for Parquet shards with id, split, p_CLASS for each class, predicted and "
                        "confidence (votes: fraction_ANSWER; several labels: p_LABEL; bags: attention, bags.parquet "
                        "and maps); of runs, QUESTION_proportion-asked, QUESTION_ANSWER_fraction, _90pc-lower and "
                        "_90pc-upper")
    parser.add_argument("--split", default="all", choices=("all", "train", "val", "test"),
                        help="samples to predict (default: all)")
    parser.add_argument("--keep", nargs="+", default=[], metavar="COLUMN",
                        help="columns of the store to carry over; all for every one")
    parser.add_argument("--level", type=float, default=0.9, metavar="P",
                        help="of runs: probability that an answer's interval holds (default: 0.9)")
    parser.add_argument("--dropout-passes", type=int, default=0, metavar="P",
                        help="of runs: passes with the dropout of the label head, each a member (default: one without)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of these passes (default: 0)")
    parser.add_argument("--concentrations", action="store_true",
                        help="of runs: also write the Dirichlet concentrations of all members, a list an answer")
    parser.add_argument("--friendly", action="store_true",
                        help="of runs: leave answers empty (NaN) where the question is more likely not asked")
    parser.add_argument("--dry-run", action="store_true", help="count samples, time one batch; write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace predictions of something else in --out")
    add_json(parser)


def run_predict(args: argparse.Namespace) -> int:
    """A store through a saved model, or through runs that learned from votes."""
    from sciencessl.evaluate.predict import PredictEstimate, estimate_text, predict, predict_text
    from sciencessl.evaluate.predict_votes import posteriors_text, predict_votes

    chosen = {"split": args.split, "keep": args.keep, "dry_run": args.dry_run, "overwrite": args.overwrite}
    settings = _posterior_settings(args)
    if settings is not None:
        found = predict_votes(args.model, args.data, args.out, settings=settings, **chosen)
        emit(found, args.json,
             estimate_text(found) if isinstance(found, PredictEstimate) else posteriors_text(found))
        return DONE
    result = predict(args.model[0], args.data, args.out, **chosen)
    emit(result, args.json,
         estimate_text(result) if isinstance(result, PredictEstimate) else predict_text(result))
    return DONE


def _posterior_settings(args: argparse.Namespace) -> Any:
    """Where runs are to predict votes, what their columns hold; None for a model that `transfer` saved."""
    from sciencessl.errors import ConfigError
    from sciencessl.evaluate.posterior_columns import PosteriorSettings
    from sciencessl.store.remote import local_path
    from sciencessl.train.folder import CONFIG, HEAD, MODEL

    names = ("level", "dropout_passes", "seed", "concentrations", "friendly")
    settings = PosteriorSettings(**{name: getattr(args, name) for name in names})
    folders = [local_path(model, "MODEL") for model in args.model]
    is_run = any((folders[0] / name).is_file() for name in (MODEL, CONFIG)) and not (folders[0] / HEAD).is_file()
    if is_run or len(folders) > 1:
        saved = [str(folder) for folder in folders if (folder / HEAD).is_file()]
        if saved:
            raise ConfigError(f"predict: {saved[0]} is a model that transfer saved; such models are predicted with one "
                              "by one. Runs that learned from votes may be several.")
        return settings
    given = [name for name in names if getattr(settings, name) != getattr(PosteriorSettings(), name)]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for runs that learned from votes; {folders[0]} is none. "
                          "Leave it out.")
    return None


def fill_select(parser: argparse.ArgumentParser) -> None:
    """Arguments of `select`."""
    parser.add_argument("runs", nargs="*", metavar="RUN",
                        help="finished runs that learned from votes on the same questions; none with --score random")
    parser.add_argument("--data", required=True, metavar="STORE", help="a sealed store")
    parser.add_argument("--out", required=True, metavar="DIR",
                        help="folder for selection.json, subjects/manifest.csv and a PNG for each subject")
    parser.add_argument("--n", type=int, default=500, help="subjects (default: 500)")
    parser.add_argument("--score", default="bald", choices=("bald", "entropy", "random"),
                        help="bald: where votes would settle most between members; entropy: where volunteers differ; "
                        "random (default: bald)")
    parser.add_argument("--volunteers", type=int, default=40, metavar="N",
                        help="votes that are expected on each question (default: 40)")
    parser.add_argument("--dropout-passes", type=int, default=5, metavar="N",
                        help="members of each run, by dropout of its head; 0: one without (default: 5)")
    parser.add_argument("--random-share", type=float, default=0.2, metavar="SHARE",
                        help="part of the subjects drawn at random, which alone may be measured with (default: 0.2)")
    parser.add_argument("--split", default="train", choices=("train", "val", "test"),
                        help="samples to choose from; of test, at random only (default: train)")
    parser.add_argument("--enough-votes", type=int, default=1, metavar="N",
                        help="leave out samples with so many votes on a question (default: 1)")
    parser.add_argument("--png-px", type=int, default=424, metavar="PX", help="side of the pictures (default: 424)")
    parser.add_argument("--seed", type=int, default=0, help="of the random draw and of dropout (default: 0)")
    parser.add_argument("--dry-run", action="store_true", help="count candidates; write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace another selection in --out")
    add_json(parser)


def run_select(args: argparse.Namespace) -> int:
    """What to label next."""
    from sciencessl.evaluate.selection import Choice, select, selection_text

    choice = Choice(args.n, args.score, args.volunteers, args.dropout_passes, args.random_share, args.split,
                    args.enough_votes, args.png_px, args.seed)
    result = select(args.runs, args.data, args.out, choice, dry_run=args.dry_run, overwrite=args.overwrite)
    emit(result, args.json, selection_text(result))
    return DONE


def fill_compare(parser: argparse.ArgumentParser) -> None:
    """Arguments of `compare`."""
    parser.add_argument("transfers", nargs="+", metavar="TRANSFER", help="folders that `transfer` wrote (its --out)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for CSV, LaTeX and figures")
    parser.add_argument("--match", default="none", choices=("steps", "images", "hours", "none"),
                        help="refuse pretrained runs that differ in it by more than 5 %% (default: none, say what is "
                        "matched)")
    parser.add_argument("--metric", default="", metavar="NAME",
                        help="shown in tables and figures (default: the task's own, which alone has intervals)")
    add_json(parser)


def run_compare(args: argparse.Namespace) -> int:
    """Several few-label tables as one."""
    from sciencessl.evaluate.compare import compare
    from sciencessl.evaluate.compare_output import comparison_json, comparison_text

    result = compare(args.transfers, args.out, match=args.match, metric=args.metric)
    text = f"{comparison_text(result)}\n\nwritten to {result.out}: {', '.join(result.files)}"
    emit(comparison_json(result), args.json, text)
    return DONE


def fill_report(parser: argparse.ArgumentParser) -> None:
    """Arguments of `report`."""
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--transfer", nargs="+", default=[], metavar="DIR",
                        help="transfer folders (default: RUN/transfer*)")
    parser.add_argument("--data", default="", help="the store, where it has moved")
    add_json(parser)


def run_report(args: argparse.Namespace) -> int:
    """One page on a run."""
    from sciencessl.evaluate.report import report

    page = report(args.run, args.transfer, data=args.data)
    emit({"report": page}, args.json, f"report: {page}")
    return DONE


def fill_average(parser: argparse.ArgumentParser) -> None:
    """Arguments of `average`."""
    parser.add_argument("inputs", nargs="+", metavar="RUN",
                        help="finished runs, or checkpoints of theirs: RUN/checkpoints/step-00000200")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write, which then serves as a run")
    parser.add_argument("--last", type=int, default=0, metavar="K",
                        help="average the last K checkpoints of each run (default: the encoder that it exported)")
    parser.add_argument("--network", default="exported", choices=("exported", "online", "target"),
                        help="online, or target: the moving average that BYOL keeps (default: what the run exports)")
    add_json(parser)


def run_average(args: argparse.Namespace) -> int:
    """Encoders -> their mean."""
    from sciencessl.evaluate.average import average, average_text

    result = average(args.inputs, args.out, last=args.last, network=args.network)
    emit(result, args.json, average_text(result))
    return DONE


def fill_export(parser: argparse.ArgumentParser) -> None:
    """Arguments of `export`."""
    parser.add_argument("run", metavar="RUN", help="a finished run")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write, for timm or a colleague")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in --out")
    add_json(parser)


def run_export(args: argparse.Namespace) -> int:
    """A run's encoder in the form that timm loads."""
    from sciencessl.evaluate.export import export, export_text

    result = export(args.run, args.out, overwrite=args.overwrite)
    emit(result, args.json, export_text(result))
    return DONE
