"""The card of an export: what it is, where it comes from, and what it does not do, in Markdown."""

from __future__ import annotations

from typing import Any

from rankpg.runs.run import Run
from rankpg.runs.storage.card import handed_over, settings_of

__all__ = ["card"]

_METRICS = ("policy_value", "normalised_value", "candidate_recall")


def card(run: Run, seed: int, manifest: dict[str, Any]) -> str:
    """Of one seed.

    Args:
      run: that was exported.
      seed: which of its seeds.
      manifest: what export.json says, sums apart.
    """
    shape = ", ".join(
        f"{letter} = {manifest[name]}"
        for letter, name in (
            ("M", "num_experts"), ("N", "num_items"), ("D", "embedding_dim"), ("K", "num_candidates"),
        )
    )  # fmt: skip
    sections = {
        f"{run.config.estimator}, seed {seed}, step {run.step}": [shape, *_measured(run, seed)],
        "Indices": [_index_line(name, index) for name, index in manifest["indexes"].items()]
        or ["none: search the embeddings exactly"],
        "Data": _data(manifest["data"]),
        "Settings": _settings(run, manifest),
        "Versions": [f"{k}: {v}" for k, v in manifest["versions"].items()],
        "Limits": _limits(run, manifest),
    }
    lines = []
    for title, entries in sections.items():
        lines += [f"{'##' if lines else '#'} {title}", "", *(f"- {x}" for x in entries), ""]
    return "\n".join(lines)


def _measured(run: Run, seed: int) -> list[str]:
    """The last evaluation of this seed."""
    rows = [row for row in run.last_rows if row["seed"] == seed]
    lines = [
        f"{name}: {row[name]:.5g}" for row in rows for name in _METRICS if row.get(name) is not None
    ]
    stops = [sentence for sentence in run.stopped() if sentence.startswith(f"seed {seed} ")]
    then = ["these figures are those of training, on the catalogue and the contexts of that time"]
    return [*(lines + then if lines else ["never evaluated"]), *stops]


def _settings(run: Run, manifest: dict[str, Any]) -> list[str]:
    """Those that hold; of what was handed over in Python, how large it is."""
    settings = [f"{k}: {v}" for k, v in settings_of(run).items()]
    if not handed_over(run):
        return settings
    what = "an environment" if run.dataset.ids_are_rows else "data"
    sizes = f"{manifest['num_items']} items, {run.environment.num_contexts} contexts"
    return [f"{what} of your own, {sizes}", *settings]


def _index_line(name: str, index: dict[str, Any]) -> str:
    recall, effort = index["recall"], index["effort"]
    searched = "exact search" if effort is None else f"effort {effort}"
    return (
        f"{name} ({index['kind']}, {searched}): recall@{index['depth']} {recall['candidates']:.4f} of the "
        f"candidates, {', '.join(f'{x:.4f}' for x in recall['experts'])} by expert, on "
        f"{recall['contexts']} contexts"
    )


def _data(sums: dict[str, str] | None) -> list[str]:
    if sums is None:
        return ["generated from the settings, or an environment of yours: no table to sum up"]
    return [f"SHA-256 of {name.replace('_', ' ')}: {value}" for name, value in sums.items()]


def _limits(run: Run, manifest: dict[str, Any]) -> list[str]:
    held_out = run.config.held_out_contexts
    judged = (
        f"on {held_out} contexts that training never drew"
        if held_out
        else "on contexts that training drew from as well"
    )
    known = (
        "The context tower knows the contexts of contexts.json and no others."
        if manifest["context_tower"]["takes"] == "rows"
        else "The context tower takes any features; far from those it was trained on it guesses."
    )
    lines = [
        "Value and candidate recall are those of training, under its environment and re-ranker, "
        f"{judged}; they say nothing of items and contexts that came or went afterwards.",
        known,
        "The catalogue is the one that was exported: a new item needs another export.",
        "Recall of an index is measured on contexts of the run. Others may be harder.",
    ]
    if manifest["masks"]:
        lines.append(
            "Training masked items by context. The masks are not here: leave out what a context may not see."
        )
    return lines
