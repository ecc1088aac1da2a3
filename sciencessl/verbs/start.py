"""Where one starts: `demo`, and `doctor` where something does not."""

from __future__ import annotations

import argparse

from sciencessl.registry import DEMO_DOMAIN, domains
from sciencessl.verbs.output import DONE, FAILED, add_json, emit


def fill_demo(parser: argparse.ArgumentParser) -> None:
    """Arguments of `demo`."""
    names = ", ".join(entry.name for entry in domains())
    parser.add_argument("domain", nargs="?", default=DEMO_DOMAIN, help=f"{names} (default: {DEMO_DOMAIN})")
    parser.add_argument("--out", default="demo", help="folder; an earlier demo there is replaced (default: demo)")
    parser.add_argument("--samples", type=int, default=1500, help="synthetic samples (default: 1500)")
    parser.add_argument("--minutes", type=float, default=2.5, help="length of pretraining (default: 2.5)")


def run_demo(args: argparse.Namespace) -> int:
    """The whole path on synthetic data."""
    from sciencessl.demonstration import demo

    demo(args.domain, args.out, args.samples, args.minutes)
    return DONE


def fill_doctor(parser: argparse.ArgumentParser) -> None:
    """Arguments of `doctor`."""
    parser.add_argument("--folder", default=".", help="where you mean to work: is there space? (default: .)")
    add_json(parser)


def run_doctor(args: argparse.Namespace) -> int:
    """The environment; fails when something is broken."""
    from sciencessl.diagnosis import doctor, doctor_text

    findings = doctor(args.folder)
    emit(findings, args.json, doctor_text(findings))
    return FAILED if any(finding.state == "broken" for finding in findings) else DONE
