"""The paper's tables and figures next to ours: `python -m benchmarks reproduce`.

published.py        the paper's numbers, as data
trials.py           the trials: one for each cell of a table, at three scales
learning_speed.py   Figure 3
greedy_error.py     Table 5
speed.py            Figure 4
tables.py           reports as markdown
pictures.py         reports as pictures
command.py          trains, measures and writes the reports
"""

from benchmarks.paper.command import NAMES, Summary, reproduce
from benchmarks.paper.trials import SCALES, table_trials

__all__ = ["NAMES", "SCALES", "Summary", "reproduce", "table_trials"]
