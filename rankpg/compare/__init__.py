"""Comparison of rankpg with baselines on one log of interactions.

command.py   `compare`, behind `python -m rankpg compare`
stages.py    the data of the tuning, and of the final fit
budget.py    the time of a comparison, and what each method may take of it
within_budget.py  the methods in their turn, within this time
methods.py   METHODS, the table of what is compared, with the settings that a tuning tries
final_list.py  the list of a re-ranker that sorts the candidates of every method, and what each stage loses
of_run.py    a trained run as one more row
trained.py   methods that rankpg trains: number of steps, training, lists
results.py   the result of a method, saved as soon as it is finished
notes.py     sentences about trials, time and steps
verdict.py   intervals, differences, and the method to take in a sentence
tables.py    the comparison as JSON, Markdown and one HTML page

Every method has the same number of trials, as far as the time of the comparison allows. Each is trained on
the training part and evaluated on the validation part; the best one is fitted again to both parts, and
evaluated on the test part.
"""

from rankpg.compare.command import Comparison, compare
from rankpg.compare.methods import METHODS, Method
from rankpg.compare.verdict import Row, verdict

__all__ = ["METHODS", "Comparison", "Method", "Row", "compare", "verdict"]
