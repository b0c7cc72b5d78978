"""One progress bar: compilation, steps per second, time left, the value so far. Needs the extra `cli`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rankpg.runs.run import Progress, Run

__all__ = ["ProgressBar", "progress_bar"]


class ProgressBar:
    """Follows one run after another on one line."""

    def __init__(self, bar: Any, task: Any):
        self._bar, self._task, self._done, self._value = bar, task, 0, "-"

    def start(self, label: str) -> None:
        """The next run begins: its program is compiled first."""
        self._value = "-"
        self._bar.update(self._task, description=label, doing="compiling")

    def update(self, run: Run, progress: Progress) -> None:
        """Shows the progress of a run; `train` takes it as `on_progress`."""
        if progress.rows:
            self._value = f"{run.policy_value:.3f}"
        speed = progress.steps_per_second
        doing = "starting" if speed is None else f"{speed:,.0f} steps/s"
        self._bar.update(
            self._task,
            completed=self._done + progress.step,
            doing=f"{doing}  value {self._value}",
        )

    def finish(self, run: Run) -> None:
        """The run has ended; the next one counts on from here."""
        self._done += run.config.num_steps


@contextlib.contextmanager
def progress_bar(total_steps: int, *, shown: bool = True) -> Iterator[ProgressBar]:
    """A bar over the steps of one or several runs, on stderr, if shown."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the progress bar needs rich: pip install 'rankpg[cli]'"
        ) from error
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[doing]}"),
    )
    console = Console(stderr=True)
    with RichProgress(*columns, console=console, transient=True, disable=not shown) as bar:
        yield ProgressBar(bar, bar.add_task("", total=total_steps, doing="starting"))
