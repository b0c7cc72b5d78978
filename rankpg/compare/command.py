"""Compares rankpg with baselines on one log of interactions; called by `python -m rankpg compare`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rankpg._utils.paths import expanded
from rankpg._version import versions
from rankpg.compare.budget import Budget
from rankpg.compare.final_list import final_lists
from rankpg.compare.methods import DEFAULT, METHODS, MOST_TRIALS, Method
from rankpg.compare.notes import (
    cut_by_time,
    limited_methods,
    notes_of_final,
    notes_of_steps,
    notes_of_time,
    notes_of_trials,
)
from rankpg.compare.of_run import THIS_RUN, data_of_run, has_validation, lists_of_run, trial_of_run
from rankpg.compare.results import Result
from rankpg.compare.stages import MOST_TUNING_USERS, Stage, check_parts, final_stage, tuning_stage
from rankpg.compare.tables import (
    check_extra,
    final_table,
    main_table,
    markdown_table,
    page,
    plain,
    write_outputs,
)
from rankpg.compare.trained import EPOCHS, LEAST_STEPS
from rankpg.compare.tuning import Settings, metrics_of
from rankpg.compare.verdict import Row, final_sentence, rows_of, verdict
from rankpg.compare.within_budget import Saved, run_methods
from rankpg.environments.dataset import Dataset
from rankpg.errors import ConfigError, argument
from rankpg.runs.run import Run

__all__ = ["Comparison", "compare"]

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods on the test part of one log: their metrics with intervals, and the method to take."""

    rows: tuple[Row, ...]
    """One for each method, the largest nDCG first."""
    results: tuple[Result, ...]
    """Trials and metrics of every user, in the order in which methods ran."""
    reference: str | None
    """The method of rankpg that differences subtract; None if no method of rankpg was compared."""
    compared: tuple[str, ...]
    """Metrics that have differences: nDCG at the first cut-off, recall at the last."""
    users: np.ndarray
    """int32[n], rows of the users with test items, to whom the columns of `Result.values` belong."""
    notes: tuple[str, ...]
    """Sentences about data, methods that were left out, and the number of steps."""
    facts: Mapping[str, Any]
    """Settings, versions and hardware, as plain values."""
    final: tuple[str, ...] = ()
    """Metric of the final list, and the losses of retriever and re-ranker; empty without a re-ranker."""

    @property
    def verdict(self) -> str:
        """The best method of each metric and the method to take; see `verdict.verdict`.

        Further sentences are about the final list behind the re-ranker, if there is one, and say so if the
        time of a trial limited the steps of the reference.
        """
        said = verdict(self.rows, self.reference, self.compared)
        if self.final:
            said = f"{said} {final_sentence(self.rows, self.reference, self.final[0])}"
        own = next((r for r in self.results if r.name == self.reference), None)
        by_comparison = any(row.cut for row in self.rows if row.method == self.reference)
        if by_comparison:
            return (
                f"{said} The time of the comparison left {self.reference} fewer trials, seeds or updates: "
                "a larger minutes may change this."
            )
        if own is None or not limited_methods([own]):
            return said
        return (
            f"{said} The time of a trial ended the training of {self.reference} early: a larger "
            "minutes_per_trial may change this."
        )

    @property
    def markdown(self) -> str:
        """The table as Markdown, with its caption."""
        tables = [main_table(self.rows, self.reference, self.compared)]
        if self.final:
            tables.append(final_table(self.rows, self.reference, self.final))
        return "\n\n".join(f"{markdown_table(table)}\n\n{table.caption}" for table in tables)

    def write(self, folder: Path) -> None:
        """Writes comparison.json, comparison.md and comparison.html.

        Raises:
          OSError: a file cannot be written.
        """
        said = self.verdict
        found = plain(self.rows, self.results, said, {**self.facts, "notes": list(self.notes)})
        notes = "\n".join(f"- {note}" for note in self.notes)
        text = f"# Comparison\n\n{said}\n\n{self.markdown}\n\n## Notes\n\n{notes}"
        html = page(
            self.rows,
            self.results,
            self.reference,
            self.compared,
            said,
            self.notes,
            self.facts["versions"],
            {result.name: _description(result.name) for result in self.results},
            self.final,
        )
        write_outputs(folder, found, text, html)


def compare(
    data: Dataset | Run,
    *,
    methods: Sequence[str] | None = None,
    trials: int = 4,
    seeds: Sequence[int] = (0, 1, 2),
    cutoffs: Sequence[int] = (10, 20, 100),
    minutes: float = 10.0,
    minutes_per_trial: float = 10.0,
    reranker: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_progress: Say | None = None,
) -> Comparison:
    """Tunes, fits and evaluates methods on one log of interactions.

    Every method tries the same number of settings, as far as `minutes` allow. Each is trained on the training
    part and evaluated by nDCG at the smallest cut-off on the validation part; the best one is fitted to both
    parts with every seed, and evaluated on the test part, from which no choice is made. For all methods, the
    items that a user had before the evaluated part are left out of the lists. Metrics are means over seeds
    for each user.

    With a re-ranker, the best items of every method are candidates, which it sorts into a final list: see
    `rankpg.compare.final_list`. For the final list, settings and number of updates are those whose final list
    is best on the validation part; a method is fitted twice only where its two choices have other settings.

    Args:
      data: from `environments.from_interactions`, with a validation part. Or a trained run on interactions:
        its lists are one more row, `this run`, which differences subtract, and nothing of it is trained.
      methods: names in `METHODS`; all of them if None.
      trials: number of settings that are tried for each method, 1 to `methods.MOST_TRIALS`.
      seeds: seeds of the final fits; trials use the first. A method without random numbers is fitted once.
      cutoffs: k of the metrics.
      minutes: time of the whole comparison from this call on; 0 for no limit. Where it is short, seeds are
        given up first, then trials, then updates, and last methods: see `rankpg.compare.budget`. Those
        that rankpg trains have equal trials of equal time, and a method that was cut short is marked. What
        is cut depends on the speed of the machine; without a limit by time, results are reproducible. What
        has begun is finished: a fit of a baseline, compiling, and the lists of all users.
      minutes_per_trial: most minutes of a trial of a method that rankpg trains.
      reranker: "lightgbm" fits a LambdaMART to the training data of each stage; "none" compares no final
        list, and leaves out `exposure`, which is trained through its order. None is "lightgbm" where the
        package is installed and the features of all users with all items take at most 1 GiB.
      out: folder of the outputs. A trial or a method that is finished is saved there at once, and not run
        again for the same data and settings; its seconds count as spent. None writes nothing.
      on_progress: called with a sentence before each trial and fit.

    Raises:
      ConfigError: the data has no validation or no test part, an argument is out of range, or no method could
        be run.
      ModuleNotFoundError: `out` needs jinja2 and matplotlib.

    >>> from rankpg.environments import from_interactions
    >>> log = {"user": [u for u in range(9) for _ in range(6)],
    ...     "item": [(u + 2 * i) % 11 for u in range(9) for i in range(6)]}
    >>> data = from_interactions(log, validation_share=0.2, split="random")
    >>> found = compare(data, methods=["popular", "item_knn"], trials=1)
    >>> sorted(row.method for row in found.rows), len(found.users)
    (['item_knn', 'popular'], 9)
    """
    say = on_progress or (lambda sentence: None)
    names, budget = _check_methods(methods), Budget(minutes)
    _check_trials(trials)
    settings = Settings(trials, tuple(seeds), tuple(sorted(cutoffs)), minutes_per_trial, minutes)
    run = data if isinstance(data, Run) else None
    data, said = data_of_run(data) if isinstance(data, Run) else (data, ())
    check_parts(data)
    folder = None if out is None else _folder(out)
    stages, of_final = _with_final((tuning_stage(data), final_stage(data)), reranker, say)
    settings = replace(settings, with_final=stages[1].final is not None)
    results, left_out = [], [*said, of_final]
    if run is not None:
        results.append(_result_of_run(run, stages, settings))
    chosen = {name: METHODS[name] for name in names}
    passes = EPOCHS, LEAST_STEPS
    keys = {} if folder is None else _keys(data, chosen, settings, passes)
    saved = Saved(folder, keys)
    found, without = run_methods(chosen, stages, settings, budget, saved, say, DEFAULT)
    results += found
    if not results:
        raise ConfigError("no method could be run: " + "; ".join(without))
    left_out += without
    comparison = _comparison(data, stages[1], results, settings, left_out)
    if folder is not None:
        comparison.write(folder)
    return comparison


def _keys(
    data: Dataset, methods: Mapping[str, Method], settings: Settings, passes: tuple[int, int]
) -> dict[str, str]:
    """Returns the key of the result of each method."""
    return {name: settings.key(data, method, passes) for name, method in methods.items()}


def _with_final(
    stages: tuple[Stage, Stage], reranker: str | None, say: Say
) -> tuple[tuple[Stage, Stage], str]:
    """Returns the stages with a re-ranker each, if there is one, and a sentence about it."""
    if reranker != "none":
        say("fitting the re-ranker of the final list")
    inputs = tuple((stage.data, stage.part, stage.eligible) for stage in stages)
    found, sentence = final_lists(reranker, inputs)
    if found is None:
        return stages, sentence
    earlier, final = (replace(stage, final=own) for stage, own in zip(stages, found, strict=True))
    return (earlier, final), sentence


def _result_of_run(run: Run, stages: tuple[Stage, Stage], settings: Settings) -> Result:
    """Returns the metrics of a run's trained state.

    The weight of the re-ranker is the best for its lists of the tuning; that of a run without a validation
    part is 1/2, since the tuning is on what it was trained on.
    """
    (earlier, final), cutoffs, trial = stages, settings.cutoffs, trial_of_run(run)
    began = time.perf_counter()
    trial = replace(trial, reranker_weight=0.5)
    if earlier.final is not None and has_validation(run):
        (before,) = lists_of_run(run, earlier, earlier.depth(cutoffs[0]), most=1)
        _, final_score, weight = earlier.score(before, cutoffs[0])
        trial = replace(trial, final_score=final_score, reranker_weight=weight)
    lists = lists_of_run(run, final, final.depth(cutoffs[-1]))
    values, catalogue = metrics_of(final, lists, lists, settings, trial.reranker_weight)
    return Result(THIS_RUN, (trial,), values, catalogue, time.perf_counter() - began)


def _comparison(
    data: Dataset,
    final: Stage,
    results: list[Result],
    settings: Settings,
    left_out: list[str],
) -> Comparison:
    """Returns the comparison of finished methods, with notes and facts."""
    reference = _reference([result.name for result in results])
    users = final.part.users
    without = len(data.context_ids) - len(users)
    notes = [
        *data.notes,
        f"{len(users)} users have test items and are evaluated; {without} without any are left out.",
        "Items that a user had before the test part are left out of every list.",
        f"{notes_of_trials(results, METHODS)} The best one, by {settings.compared[0]} on "
        f"the validation part (at most {MOST_TUNING_USERS} users), was fitted again to training and "
        "validation part.",
        *notes_of_time(results, METHODS, settings),
        *notes_of_final(results, settings),
        *notes_of_steps(results, METHODS, settings),
        *(
            f"{result.name}: the trial with {dict(trial.settings)} failed: {trial.failure}"
            for result in results
            for trial in result.trials
            if trial.failure
        ),
        *left_out,
    ]
    facts = {
        "reference": reference,
        "compared": list(settings.compared),
        "final": list(settings.final),
        "trials": settings.trials,
        "seeds": list(settings.seeds),
        "cutoffs": list(settings.cutoffs),
        "minutes": settings.minutes,
        "minutes_per_trial": settings.minutes_per_trial,
        "users": {"evaluated": len(users), "left_out": without},
        "items": final.num_items,
        "fingerprint": data.fingerprint(),
        "versions": versions(),
    }
    metrics = (*settings.compared, *settings.final[:1])
    rows = rows_of(results, reference, metrics, cut_by_time(results, METHODS, settings))
    return Comparison(
        rows,
        tuple(results),
        reference,
        settings.compared,
        users,
        tuple(notes),
        facts,
        settings.final,
    )


def _description(name: str) -> str:
    return METHODS[name].description if name in METHODS else "the run that others are compared with"


def _reference(names: Sequence[str]) -> str | None:
    """The run that is compared, else the default method of rankpg, else its first method, else None."""
    if THIS_RUN in names:
        return THIS_RUN
    ours = [name for name in names if METHODS[name].objective]
    return DEFAULT if DEFAULT in ours else next(iter(ours), None)


def _check_methods(methods: Sequence[str] | None) -> list[str]:
    """Returns the names of the methods, in the order of the table."""
    if methods is None:
        return list(METHODS)
    if isinstance(methods, str):
        raise ConfigError(f"{argument('methods', methods)}; expected a list: [{methods!r}]")
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ConfigError(
            f"{argument('methods', tuple(methods))}; expected one or more of {', '.join(METHODS)}"
        )
    return [name for name in METHODS if name in methods]


def _check_trials(trials: int) -> None:
    if not 1 <= trials <= MOST_TRIALS:
        raise ConfigError(
            f"{argument('trials', trials)}; expected a number of settings from 1 to {MOST_TRIALS}"
        )


def _folder(out: str | os.PathLike[str]) -> Path:
    """Makes the folder of the outputs, before anything is trained."""
    check_extra()
    folder = expanded(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{argument('out', str(out))} cannot be made ({error}); expected the name of a folder"
        ) from error
    return folder
