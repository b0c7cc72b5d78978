"""The commands evaluate, export, demo and report; each returns its exit code.

A command imports what it needs when it runs, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import json
import sys

from rankpg.cli.arguments import metrics_table
from rankpg.errors import ConfigError

__all__ = ["demo", "evaluate", "export", "report"]


def evaluate(arguments: argparse.Namespace) -> int:
    """Prints the metrics of a saved run."""
    from rankpg.runs.evaluator import evaluate_run
    from rankpg.runs.storage.load import load_run

    run = load_run(arguments.run, step=arguments.step)
    rows = evaluate_run(run)
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print(f"{arguments.run}: {run.config.estimator}, step {run.step}")
        print(metrics_table(rows))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Exports a saved run and prints the head of its card."""
    from rankpg.export.folder import check_free, export
    from rankpg.runs.storage.load import load_run

    settings = {
        k: v for k, v in vars(arguments).items() if k not in ("command", "run", "out", "step")
    }
    check_free(arguments.out)  # before anything is read or compiled
    folder = export(load_run(arguments.run, step=arguments.step), arguments.out, **settings)
    print((folder / "CARD.md").read_text().partition("\n## Data")[0])
    print(folder)
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Trains four estimators and prints their values."""
    from rankpg.cli import demo as demonstration

    if arguments.num_steps < 1:
        raise ConfigError(f"num_steps={arguments.num_steps}; expected at least 1")
    print(demonstration.demo(arguments.out, arguments.num_steps))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Writes the page that compares runs and prints its path."""
    from rankpg.report.command import report as compare

    def on_progress(sentence: str) -> None:
        print(f"rankpg: {sentence}", file=sys.stderr)

    print(compare(arguments.runs, arguments.out, groups=arguments.groups, on_progress=on_progress))
    return 0
