"""CARD.md: the results, settings, versions and limits of an export."""

from __future__ import annotations

from rankpg.export.manifest import IndexEntry, Manifest
from rankpg.runs.held_out import is_final, part_of
from rankpg.runs.run import Run
from rankpg.runs.storage.card import handed_over, limits_of, method_of, settings_of

__all__ = ["card"]

_METRICS = ("policy_value", "normalised_value", "candidate_recall")

_METRICS_OF_INTERACTIONS = ("recall@20", "recall@100", "ndcg@10", "policy_value", "reward")


def card(run: Run, seed: int, manifest: Manifest) -> str:
    """Returns the card of an exported seed, in Markdown.

    Args:
      run: the exported run.
      seed: the exported seed.
      manifest: the fields of export.json; the checksums are not read.
    """
    shape = ", ".join(
        f"{letter} = {size}"
        for letter, size in (
            ("M", manifest["num_experts"]), ("N", manifest["num_items"]),
            ("D", manifest["embedding_dim"]), ("K", manifest["num_candidates"]),
        )
    )  # fmt: skip
    sections = {
        f"{method_of(run)}, seed {seed}, step {run.state_step}": [shape, *_results(run, seed)],
        "Indexes": [_index_line(name, index) for name, index in manifest["indexes"].items()]
        or ["none; use exact search over the embeddings"],
        "Data": _data(manifest["data"]),
        "Settings": _settings(run, manifest),
        "Versions": [f"{k}: {v}" for k, v in manifest["versions"].items()],
        "Limits": _limits(run, manifest),
    }
    lines = []
    for title, entries in sections.items():
        lines += [f"{'##' if lines else '#'} {title}", "", *(f"- {x}" for x in entries), ""]
    return "\n".join(lines)


def _results(run: Run, seed: int) -> list[str]:
    """Returns the metrics of the last evaluation of a seed, and why it stopped."""
    rows = [row for row in run.state_rows if row["seed"] == seed]
    of_parts = run.dataset.parts is not None
    final = [name for row in rows for name in row if is_final(name)]
    lines = [
        f"{name}: {row[name]:.5g}" + (f" ({part_of(name)})" if of_parts else "")
        for row in rows
        for name in ((*_METRICS_OF_INTERACTIONS, *final) if of_parts else _METRICS)
        if row.get(name) is not None
    ]
    stops = [sentence for sentence in run.stopped() if sentence.startswith(f"seed {seed} ")]
    source = ["the metrics are from training, on the catalogue and the contexts of that time"]
    return [*(lines + source if lines else ["never evaluated"]), *stops]


def _settings(run: Run, manifest: Manifest) -> list[str]:
    """Returns the settings, and the size of an environment that was passed in Python."""
    settings = [f"{k}: {v}" for k, v in settings_of(run).items()]
    if not handed_over(run):
        return settings
    kind = "an environment" if run.dataset.ids_are_rows else "data"
    sizes = f"{manifest['num_items']} items, {run.environment.num_contexts} contexts"
    return [f"{kind} of your own, {sizes}", *settings]


def _index_line(name: str, index: IndexEntry) -> str:
    """Returns the kind, search effort and recall of an index."""
    recall, effort = index["recall"], index["effort"]
    search = "exact search" if effort is None else f"search effort {effort}"
    return (
        f"{name} ({index['kind']}, {search}): recall@{index['depth']} {recall['candidates']:.4f} of the "
        f"candidates, {', '.join(f'{x:.4f}' for x in recall['experts'])} by expert, measured on "
        f"{recall['contexts']} contexts"
    )


def _data(checksums: dict[str, str] | None) -> list[str]:
    """Returns the checksums of the training data."""
    if checksums is None:
        return ["generated from the settings, or an environment without ids; no checksums"]
    return [f"SHA-256 of {name.replace('_', ' ')}: {value}" for name, value in checksums.items()]


def _limits(run: Run, manifest: Manifest) -> list[str]:
    """Returns what the export and its metrics do not cover."""
    held_out = run.config.held_out_contexts
    evaluated = (
        f"on {held_out} contexts that were held out from training"
        if held_out
        else "on contexts that were also used in training"
    )
    known = (
        "The context tower takes the contexts in contexts.json and no others."
        if manifest["context_tower"]["takes"] == "rows"
        else "The context tower takes any features; outside the range of training it extrapolates."
    )
    measured = (
        "Value and candidate recall were measured in training, under its environment and re-ranker, "
        f"{evaluated}. They do not cover items and contexts that were added or removed afterwards."
    )
    lines = [
        measured if run.dataset.parts is None else limits_of(run),
        known,
        "The catalogue is fixed at export time; a new item needs a new export.",
        "The recall of an index was measured on contexts of the run. Other contexts may be harder.",
    ]
    if manifest["seen"] is not None:
        lines.append(
            "seen.npz holds the items that each context had seen before the test part, so it is as private "
            "as the log. A server leaves them out of the candidates; add what a context has seen since."
        )
        if manifest["indexes"]:
            lines.append(
                "The recall of an index was measured with seen items among the exact ones. Where a server "
                "leaves them out, an approximate index may find fewer."
            )
    if run.fitted is not None:
        lines.append(
            "The fitted re-ranker is not exported. Its model is reranker.txt in the run folder; a server "
            "sorts the candidates by its scores, from the features of `training.pair_features`."
        )
    if manifest["masks"]:
        lines.append(
            "Training restricted the items of each context, but the export holds no masks. Remove the items "
            "that a context may not see."
        )
    return lines
