"""Sentences of a comparison about its trials, its time, the final list, and the number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rankpg.compare.results import Result
from rankpg.compare.trained import EPOCHS, LEAST_STEPS
from rankpg.compare.tuning import Settings
from rankpg.compare.within_budget import by_budget, cut_of

if TYPE_CHECKING:
    from rankpg.compare.methods import Method
else:
    Method = Any

__all__ = [
    "cut_by_time",
    "limited_methods",
    "notes_of_final",
    "notes_of_steps",
    "notes_of_time",
    "notes_of_trials",
]

Methods = Mapping[str, Method]


def cut_by_time(results: Sequence[Result], methods: Methods, settings: Settings) -> dict[str, str]:
    """Returns what the time of the comparison took from each method that it cut short, in words."""
    known = _known(results, methods)
    found = {r.name: cut_of(r, methods[r.name], settings) for r in known}
    return {name: lost for name, lost in found.items() if lost}


def notes_of_trials(results: Sequence[Result], methods: Methods) -> str:
    """Returns a sentence about the number of settings that were tried of each method."""
    names: dict[int, list[str]] = {}
    for result in _known(results, methods):
        names.setdefault(len(result.trials), []).append(result.name)
    if len(names) == 1:
        return f"Of each method, {_settings(*names)} tried."
    parts = (f"{_settings(count)} tried of {', '.join(own)}" for count, own in names.items())
    return f"{'; '.join(parts)}."


def _settings(count: int) -> str:
    return "1 setting was" if count == 1 else f"{count} settings were"


def notes_of_time(results: Sequence[Result], methods: Methods, settings: Settings) -> list[str]:
    """Returns sentences about the time of the comparison, and about what it took from the methods."""
    cut = cut_by_time(results, methods, settings)
    if not cut:
        return []
    trained = _trained(results, methods)
    seconds = [t.most_seconds for r in trained for t in r.trials if t.most_seconds is not None]
    of_trial = f" A trial that rankpg trains had at most {max(seconds):.0f} s." if seconds else ""
    parts = "; ".join(f"{name} had {lost}" for name, lost in cut.items())
    return [
        f"The time of the comparison, minutes={settings.minutes:g}, cut methods short: {parts}.{of_trial} "
        "On another machine this may differ: give a larger minutes, or minutes=0 for no limit."
    ]


def notes_of_final(results: Sequence[Result], settings: Settings) -> list[str]:
    """Returns sentences about what was chosen for the final list."""
    if not settings.with_final:
        return []
    chosen = [(result.name, result.chosen_for_final) for result in results]
    weights = ", ".join(f"{name} {trial.reranker_weight:g}" for name, trial in chosen if trial)
    return [
        "For the final list, settings, number of updates and the weight of the re-ranker are those whose "
        f"final list has the largest {settings.final[0]} on the validation part.",
        f"Weight of the re-ranker, from 0 (the method's own order) to 1: {weights}.",
    ]


def notes_of_steps(results: Sequence[Result], methods: Methods, settings: Settings) -> list[str]:
    """Returns sentences about the number of steps of methods that rankpg trains."""
    trained = _trained(results, methods)
    if not trained:
        return []
    notes = [
        f"A trial that rankpg trains makes {EPOCHS} passes over the training part and at least {LEAST_STEPS} "
        "updates, or fewer if, by the time of 20 measured updates, its time allows fewer "
        f"(minutes_per_trial={settings.minutes_per_trial:g}). Its best evaluation gives the number of "
        "updates of the final fit."
    ]
    limited = limited_methods([r for r in trained if not by_budget(r, settings)])
    if limited:
        notes.append(
            f"The time of a trial limited the steps of {', '.join(limited)}: give a larger minutes_per_trial "
            "for more passes."
        )
    return notes


def limited_methods(results: Sequence[Result]) -> list[str]:
    """Returns the names of the methods whose steps the time of a trial limited."""
    return [r.name for r in results if any(trial.schedule.limited for trial in r.trials)]


def _known(results: Sequence[Result], methods: Methods) -> list[Result]:
    """Results of methods, without that of a run."""
    return [result for result in results if result.name in methods]


def _trained(results: Sequence[Result], methods: Methods) -> list[Result]:
    """Results of the methods that rankpg trains."""
    return [r for r in _known(results, methods) if methods[r.name].objective]
