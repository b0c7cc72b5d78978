"""One HTML page that compares runs.

command.py    `report`, behind `python -m rankpg report`
gather.py     reads runs and measures what their checkpoints allow
measure.py    exposure, calibration, item map and ranking of a trained policy
groups.py     item groups from a file
sections.py   sections from metrics, and SECTIONS, the table of all sections
trained.py    sections from measurements of the trained policy
pictures.py   figures, embedded in the page
page.py       tables, panels and sections as data, and the HTML

The measures themselves are in `rankpg.evaluation`.
"""

from rankpg.report.command import report
from rankpg.report.sections import SECTIONS

__all__ = ["SECTIONS", "report"]
