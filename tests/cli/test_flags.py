"""Messages of the library, rewritten in terms of flags."""

from __future__ import annotations

import inspect

import pytest

from rankpg.cli.arguments import former_flag, option_names
from rankpg.cli.flags import first_argument, with_flags
from rankpg.cli.main import main, parser
from rankpg.config.train_config import TrainConfig

NAMES = {
    "batch_size",
    "columns",
    "keep_best",
    "learning_rate",
    "mesh",
    "out",
    "path",
    "seeds",
    "step",
}


@pytest.mark.parametrize(
    ("message", "rewritten"),
    [
        # values
        ("learning_rate=1e-3.", "--learning-rate 1e-3."),
        ("learning_rate=nan; expected", "--learning-rate nan; expected"),
        ("(step=80)", "(--step 80)"),
        ("seeds=(0, 1), and", "--seeds 0 1, and"),
        ("seeds=(); expected", "--seeds; expected"),
        ("seeds=[0]; expected", "--seeds [0]; expected"),
        ("columns=('user id', 'b')", "--columns 'user id' b"),
        ("out='runs/a b' is", "--out 'runs/a b' is"),
        ("path=''; expected", "--path ''; expected"),
        ("keep_best=True, keep_best=False", "--keep-best, --no-keep-best"),
        # names alone
        ("choose another out=", "choose another --out"),
        ("path=FILE (csv)", "--path FILE (csv)"),
        ("a lower batch_size, or", "a lower --batch-size, or"),
        ("lower learning_rate.", "lower --learning-rate."),
        # other words
        ("the path of a step", "the path of a step"),
        ("the setting 'batch_size'", "the setting 'batch_size'"),
        ("/data/batch_size.csv and batch_size.csv", "/data/batch_size.csv and batch_size.csv"),
        ("my_batch_size and batch_sizes", "my_batch_size and batch_sizes"),
        ("load_run(path, step=80)", "load_run(path, step=80)"),
        ("Run.f(g(step=1), out=2) or out=3", "Run.f(g(step=1), out=2) or --out 3"),
        ("num_steps=3", "num_steps=3"),
    ],
)
def test_arguments_become_flags(message, rewritten):
    assert with_flags(message, NAMES) == rewritten


def test_without_names_a_message_stays():
    assert with_flags("batch_size=3", ()) == "batch_size=3"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("batch_size=3; expected a multiple", "batch_size"),
        ("path=FILE is missing", "path"),
        ("batch_size holds text", "batch_size"),
        ("path is missing", "path"),
        ("a lower batch_size, or path=", None),
        ("load_run(path=3) fails", None),
        ("batch_sizes=3", None),
        ("'batch_size' is unknown", None),
    ],
)
def test_first_argument_is_the_rejected_one(text, name):
    assert first_argument(text, NAMES) == name
    assert first_argument(text, ()) is None


def test_option_names_are_those_of_the_command():
    settings = set(TrainConfig().to_dict())
    train = option_names(parser(), ["train", "--out", "export"])
    assert settings < train
    assert {"out", "resume", "step", "keep_last", "keep_best", "track", "distributed"} < train
    evaluate = option_names(parser(), ["evaluate", "runs/a"])
    assert evaluate == {"help", "step", "path", "json"}


@pytest.mark.parametrize("former", ["--late-stage", "--late_stage"])
def test_a_former_flag_is_refused(former):
    for argv in (["train", former, "noisy"], [f"{former}=noisy"]):
        assert former_flag(argv) == f"{former} is now named --reranker"


def test_current_flags_are_accepted():
    assert former_flag(["train", "--reranker", "noisy", "--out", "late-stage"]) is None


@pytest.mark.parametrize(
    "line",
    [["train"], ["evaluate", "x"], ["export", "x", "--out", "y"], ["demo"], ["report", "x"]],
)
def test_every_command_calls_a_function(line):
    assert inspect.isfunction(parser().parse_args(line).command)


def test_steps_and_epochs_are_not_given_together(capsys):
    assert main(["train", "--num-steps", "10", "--num-epochs", "2"]) == 2
    assert "--num-steps 10 and --num-epochs 2 both say when" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "flags"),
    [
        ("{'timestamp': 'NAME'}", "USER ITEM TIMESTAMP"),
        ("{'value': 'NAME'}", "USER ITEM TIMESTAMP VALUE"),
        ("{'timestamp': None}", "USER ITEM"),
        ("{'user': 0, 'item': 1, 'timestamp': 2}", "USER ITEM TIMESTAMP"),
    ],
)
def test_named_columns_become_flags_that_can_be_typed(named, flags):
    assert with_flags(f"give columns={named}", ["columns"]) == f"give --columns {flags}"
