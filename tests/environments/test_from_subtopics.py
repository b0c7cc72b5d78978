"""Judgements by subtopic: TREC's own values, the readers' messages, and training from the command line.

`trec_subtopics.txt` holds 178 judgements of topics 60, 151 and 167 of the TREC Web tracks of 2010 and 2012,
by the National Institute of Standards and Technology (https://trec.nist.gov/data/webmain.html). The expected
values are those of NIST's tool ndeval on these lines, from `pyndeval` 0.0.8 (alpha = 0.5).
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.data_files import refusal, write

from rankpg import TrainConfig
from rankpg.cli.main import main
from rankpg.data.diversity_qrels import judgements_of, read_diversity_qrels
from rankpg.environments import from_subtopics, list_rewards
from rankpg.errors import ConfigError
from rankpg.runs.storage.load import load_run

ENABLE_X64 = False
FILE = Path(__file__).with_name("trec_subtopics.txt")

LISTS = {
    "151": "en0011-54-30937 en0005-82-27223 en0035-03-25124 en0008-47-01488 en0000-29-00882 en0025-78-03142 "
    "en0024-64-06740 en0117-19-30588 en0049-41-31794 en0007-84-37981",
    "167": "en0133-54-46761 enwp01-64-02029 en0082-03-34525 en0009-42-35795 en0067-70-00815 en0006-70-19438 "
    "en0022-85-04687 en0011-52-17551 en0006-70-19415 enwp00-28-05888",
    "60": "en0004-50-36092 en0000-61-17725 en0124-71-14985 en0106-50-38021 en0015-08-17361 en0020-56-11116 "
    "en0015-08-17364 en0000-32-17174 en0069-97-08311 en0023-80-43061",
}
OFFICIAL = {  # at 5 and at 10
    "alpha_ndcg": {"151": (0.954993, 0.985265), "167": (0.438391, 0.544326), "60": (0.634489, 0.697745)},
    "err_ia": {"151": (0.971861, 0.986361), "167": (0.265053, 0.312471), "60": (0.355522, 0.391000)},
    "subtopic_recall": {"151": (1.0, 1.0), "167": (0.8, 0.8), "60": (0.75, 0.75)},
}  # fmt: skip


@pytest.mark.parametrize("measure", OFFICIAL)
def test_measures_are_those_of_the_official_tool(measure):
    data = from_subtopics(FILE, list_reward=measure)
    topics = jnp.asarray(data.context_ids.rows(list(LISTS)))
    lists = [[f"clueweb09-{name}" for name in names.split()] for names in LISTS.values()]
    rows = jnp.asarray(data.item_ids.rows(lists))
    values = jax.jit(jax.vmap(data.environment.mean_rewards))
    for place, length in enumerate((5, 10)):
        found = values(topics, rows[:, :length]).sum(axis=1)
        expected = [OFFICIAL[measure][topic][place] for topic in LISTS]
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_contexts_are_topics_and_items_are_documents():
    lines = (
        ["b", "b", "a", "a", "none"],
        [1, 2, 1, 2, 1],
        ["y", "y", "x", "y", "x"],
        [2, 1, 1, -2, 0],
    )
    data = from_subtopics(lines)  # fmt: skip
    world = data.environment
    assert data.context_ids.ids.tolist() == ["a", "b"]
    assert data.item_ids.ids.tolist() == ["x", "y"]
    every = jnp.arange(2)
    assert world.relevance(jnp.int32(0), every).tolist() == [1, 0]
    assert world.relevance(jnp.int32(1), every).tolist() == [0, 2]
    assert world.eligible(jnp.int32(1), every).tolist() == [False, True]
    assert from_subtopics(lines, eligible="all").environment.eligible(jnp.int32(1), every) is None
    assert "1 topics without a relevant document are left out, with their judgements." in data.notes


def test_coverage_reads_grades_as_probabilities():
    lines = (["q"] * 3, [1, 2, 1], ["x", "x", "y"], [2, 1, 1])
    data = from_subtopics(lines, list_reward="coverage")
    gains = data.environment.mean_rewards(jnp.int32(0), jnp.arange(2))
    np.testing.assert_allclose(gains, [0.75 + 0.25, 0.25 * 0.25])


def test_without_a_list_reward_the_reward_is_the_relevance():
    data = from_subtopics((["q"] * 2, [1, 2], ["x", "y"], [2, 1]), list_reward=None)
    assert not data.environment.rewards_interact
    assert data.environment.mean_rewards(jnp.int32(0), jnp.arange(2)).tolist() == [2, 1]


def test_the_ideal_takes_the_last_of_equal_documents():
    """The first one would leave 2 and 1 to be gained by the others."""
    covers = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]])
    ideal = list_rewards.greedy_ideal(covers, 3)
    np.testing.assert_allclose(ideal, np.cumsum([2, 1.5 / np.log2(3), 1.5 / 2]))
    assert list_rewards.greedy_ideal(np.zeros((2, 3)), 2).tolist() == [0, 0]


WRONG = {
    "51 1 d 1\n51 0 d\n": ("line 2: 3 columns, which are those of judgements without subtopics",),
    "51 1 d 1 x\n": ("line 1: 5 columns; expected topic, subtopic, document and judgement",),
    "51 one d 1\n": ("line 1: the subtopic 'one' is not a whole number", "correct or remove the line"),
    "51 1 d 1\n\n51 1 e 0.5\n": ("line 3: the judgement '0.5' is not a whole number",),
    "51 1 d 1\n51 1 d 0\n": ("line 2: document 'd' is judged for subtopic 1", "on line 1 already"),
    "51 1 d 0\n": ("no judgement is above 0: there is nothing to train on",),
    " \n": ("the file has no lines",),
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_malformed_files_are_named_with_their_line(tmp_path, text):
    file = write(tmp_path, text, "qrels.txt")
    refusal(lambda: read_diversity_qrels(file), file, *WRONG[text])


def test_other_inputs_that_cannot_be_used(tmp_path):
    refusal(lambda: read_diversity_qrels(tmp_path), "is a folder; expected a file of lines")
    refusal(lambda: from_subtopics(tmp_path / "none"), "no such file", error=FileNotFoundError)
    columns = [["q"], [1], ["d"], [1]]
    refusal(lambda: judgements_of(*columns[:3], [1, 2]), "lists of one length", "1, 1, 1, 2")
    refusal(lambda: judgements_of(["q"], [1.5], ["d"], [1]), "row 0: the subtopic '1.5' is not")
    refusal(lambda: from_subtopics(columns[:3]), "holds 3 lists; expected four", error=ValueError)
    for option in ({"list_reward": "ndcg"}, {"eligible": "some"}):
        name, value = next(iter(option.items()))
        refusal(
            lambda o=option: from_subtopics(FILE, **o),
            f"{name}={value!r}; expected",
            error=ValueError,
        )


def test_settings_of_the_environment():
    with pytest.raises(ConfigError, match=r"needs path=FILE .lines of topic, subtopic"):
        TrainConfig(environment="subtopics")
    with pytest.raises(ConfigError, match="list_reward='ndcg'"):
        TrainConfig(environment="subtopics", path="x", list_reward="ndcg")
    with pytest.raises(ConfigError, match="list_reward"):
        TrainConfig(environment="ratings", path="x", list_reward="err_ia")


@pytest.mark.slow
@pytest.mark.usefixtures("as_a_user")
def test_training_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    settings = "--num-candidates 6 --ranking-length 4 --batch-size 8 --num-steps 2 --eval-every 1 --seeds 0"
    command = [
        "train",
        "--environment",
        "subtopics",
        "--path",
        str(FILE),
        "--list-reward",
        "err_ia",
    ]
    assert main([*command, *settings.split(), "--estimator", "v_pg", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "The reward is that of the whole shown list: ERR-IA." in printed.err
    assert "The rewards of a list interact" in printed.out
    assert "candidate_recall  " not in printed.out
    assert "The rewards of a list interact" in (out / "RUN.md").read_text()
    assert main(["evaluate", str(out)]) == 0
    assert "need rewards of single items" in capsys.readouterr().out
    assert load_run(out).environment.rewards_interact
