"""The paper's tables and figures beside ours: `python -m benchmarks reproduce`.

published.py        the paper's figures, as data
rows.py             what is trained: one row a cell of a table, at three scales
learning_speed.py   Figure 3
greedy_error.py     Table 5
speed.py            Figure 4
tables.py           reports as markdown
pictures.py         reports as pictures
command.py          all of it together
"""

from benchmarks.paper.command import NAMES, Summary, reproduce
from benchmarks.paper.rows import SCALES, table_rows

__all__ = ["NAMES", "SCALES", "Summary", "reproduce", "table_rows"]
