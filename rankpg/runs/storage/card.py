"""RUN.md, the card of a run: results, diagnostics, data, settings, versions and limits."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rankpg._utils.documents import printable
from rankpg._utils.plots import mean_interval
from rankpg._version import versions
from rankpg.environments.interactions import Moments
from rankpg.environments.synthetic import Synthetic
from rankpg.evaluation.metrics import interaction_note
from rankpg.runs.best import VALIDATION
from rankpg.runs.held_out import in_sample, is_final, part_of
from rankpg.runs.run import Run
from rankpg.runs.storage.contents import CARD, CURVE

__all__ = ["CARD", "CURVE", "card", "handed_over", "limits_of", "method_of", "settings_of"]

_FIGURES = ("policy_value", "normalised_value", "candidate_recall", "steps_per_second")

_FIGURES_OF_INTERACTIONS = (
    "recall@20", "recall@100", "ndcg@10", "policy_value",
    "validation_recall@20", "validation_recall@100", "validation_ndcg@10",
    "reward", "loss",
)  # fmt: skip
"""Explained in docs/reference/evaluation.md."""

_DIAGNOSTICS = (
    "gradient_norm", "gradient_variance", "gradient_signal_to_noise", "credit_ess", "effective_items",
    "saturated_candidates", "recall_reward_correlation",
)  # fmt: skip
"""Explained in docs/diagnostics.md."""


_OF_A_NAMED_PROBLEM = (
    "path", "columns", "header", "id_type", "missing", "duplicates", "unknown", "qrels_split", "own_document",
    "list_reward", "eligible_documents", "num_contexts", "num_items", "num_features",
    "instance_seed", "noise_scale", "items_path", "positive", "min_per_user", "min_per_item", "split",
    "test_share", "test_count", "validation_share", "split_seed",
)  # fmt: skip
"""Settings that do not apply to an environment that was passed in Python."""


def handed_over(run: Run) -> bool:
    """Returns True if the environment was passed in Python, so that the config does not describe it."""
    return run.config.environment == "synthetic" and not isinstance(run.environment, Synthetic)


def settings_of(run: Run) -> dict[str, Any]:
    """Returns the settings of a run; an environment that was passed in Python is described in their place."""
    settings = dataclasses.asdict(run.config)
    if not handed_over(run):
        return settings
    own = {name: value for name, value in settings.items() if name not in _OF_A_NAMED_PROBLEM}
    world = run.environment
    return own | {
        "environment": f"yours ({type(world).__name__}): {world.num_contexts} contexts, "
        f"{world.num_items} items"
    }


def method_of(run: Run) -> str:
    """Returns the name of what was trained by: the objective on known feedback, else the estimator."""
    known = run.config.objective != "policy_gradient"
    return run.config.objective if known else run.config.estimator


def card(run: Run, *, step: int | None = None, curve: bool = True) -> str:
    """Returns the run card, in Markdown.

    Args:
      run: the run to describe.
      step: number of updates; those of the run's own loop if None.
      curve: True if the card links the learning curve beside it.
    """
    lines = [f"# {method_of(run)}, step {run.state_step if step is None else step}", ""]
    if run.accumulator.steps:
        lines += [f"Stopped between evaluations; figures are those of step {run.evaluated}.", ""]
    lines += [f"![Policy value against steps]({CURVE})", ""] if curve else []
    if run.restored_step is not None:
        lines += [f"The best of the evaluations up to step {run.step}, by {VALIDATION}.", ""]
    if run.dataset.parts is None:
        note = in_sample(run.config, run.environment)
        lines += [f"{note}.", ""] if note else []
        lines += _figures(run, _FIGURES)
    else:
        lines += _figures_by_part(run)
    lines += [f"- {sentence}" for sentence in run.stopped()]
    diagnostics = _figures(run, _DIAGNOSTICS)
    if diagnostics:
        lines += ["", "## Diagnostics", "", *diagnostics]
    lines += _data(run)
    lines += ["", "## Settings", "", *(f"- {k}: {v}" for k, v in settings_of(run).items())]
    lines += ["", "## Versions", "", *(f"- {k}: {v}" for k, v in versions().items())]
    return "\n".join([*lines, "", "## Limits", "", limits_of(run), ""])


def limits_of(run: Run) -> str:
    """Returns on what the metrics of a run were measured, and what they say nothing about."""
    if all(row.get("policy_value") is None for row in run.state_rows):
        return "No value was measured: rewards came from outside."
    if run.dataset.parts is not None:
        return _limits_of_parts(run, run.dataset.parts.test())
    contexts = (
        f"on {run.config.held_out_contexts} contexts that training never drew; it says nothing about items "
        if run.config.held_out_contexts
        else "on contexts that training drew from as well; it says nothing about contexts or items "
    )
    note = interaction_note(run.environment)
    return (
        "The value is the mean reward under this run's environment and re-ranker, evaluated "
        f"{contexts}that were not there." + (f" {note}." if note else "")
    )


def _limits_of_parts(run: Run, test: Moments) -> str:
    users = int(np.sum(test.feedback_ends > test.history_ends))
    if not users:
        return "The run has no test part, so the metrics of the test part are 0 and say nothing."
    return (
        f"Metrics of the test part were measured on interactions of {users} users that training did not read "
        f"(of at most {run.config.eval_contexts} users in each evaluation). Items that a user had seen "
        "before are never listed. Metrics of the training part are in-sample."
    )


def _figures_by_part(run: Run) -> list[str]:
    """Returns the metrics of a run on interactions, under the part that each is computed on."""
    lines: list[str] = []
    for part in dict.fromkeys(part_of(name) for name in _FIGURES_OF_INTERACTIONS):
        own = tuple(name for name in _names(run) if part_of(name) == part)
        figures = _figures(run, own)
        blank = [""] if lines else []
        lines += [*blank, f"{part.capitalize()}:", "", *figures] if figures else []
    return lines + _figures(run, ("steps_per_second",))


def _names(run: Run) -> list[str]:
    """Names of the metrics of interactions; those of the final list depend on its length."""
    final = [name for name in (run.state_rows or [{}])[0] if is_final(name)]
    return [*_FIGURES_OF_INTERACTIONS, *final]


def _figures(run: Run, names: tuple[str, ...]) -> list[str]:
    """Returns one line for each metric of the last evaluation, with its interval."""
    lines = []
    for name in names:
        values = [row[name] for row in run.state_rows if row.get(name) is not None]
        if values:
            mean, half = mean_interval(values)
            many = "one seed" if half is None else f"mean of {len(values)} seeds, 95 %"
            interval = "" if half is None else f" +- {half:.4g}"
            lines.append(f"- {name}: {mean:.5g}{interval} ({many})")
    return lines


def _data(run: Run) -> list[str]:
    """Returns the lines about a dataset."""
    data = run.dataset
    if data.ids_are_rows:
        return []
    lines = [
        f"- {len(data.context_ids)} contexts, {len(data.item_ids)} items; {data.missing_share:.1%} of all "
        f"pairs have no {'rating' if data.parts is None else 'interaction'}"
    ]
    lines += [f"- {printable(note)}" for note in (*data.notes, *data.cautions)]
    lines += [f"- {data.left_out}"] if data.left_out else []
    for side, featurizer in (("context", data.context_featurizer), ("item", data.item_featurizer)):
        if featurizer is not None and featurizer.names:
            columns = ", ".join(featurizer.features.columns)
            lines.append(f"- {len(featurizer.names)} {side} features from {columns}")
    checksums = data.fingerprint() if run.environment.knows_rewards else {}
    lines += [
        f"- SHA-256 of {name.replace('_', ' ')}: {value}" for name, value in checksums.items()
    ]
    return ["", "## Data", "", *lines]
