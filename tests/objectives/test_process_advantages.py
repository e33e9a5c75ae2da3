"""Advantages of tokens from rewards of steps, and groups of uneven sizes, by hand."""

import pytest
import torch

from lit_posttrain.batches import Experience, Grade, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.groups import by_group
from lit_posttrain.objectives.process_advantages import ProcessAdvantage, last_of, normalised_steps
from lit_posttrain.objectives.returns import GAE


def test_uneven_groups_become_a_table_and_come_back():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    graded = torch.tensor([True, True, False, True, True])
    group = torch.tensor([7, 3, 7, 3, 7])
    table, marks, places = by_group(values, graded, group)
    assert table.tolist() == [[2.0, 4.0, 0.0], [1.0, 3.0, 5.0]]
    assert marks.tolist() == [[True, True, False], [True, False, True]]
    assert table[places].tolist() == values.tolist()
    table, _, _ = by_group(values[:0], graded[:0], group[:0])
    assert table.shape == (0, 0)


def test_steps_are_compared_with_those_of_their_group():
    """Group 0 has the rewards 1, 0, 2 (mean 1, deviation 1); group 1 equal ones; group 2 a single one."""
    rewards = torch.tensor([[1.0, 0.0, 9.0], [0.0, 2.0, 9.0], [0.3, 0.3, 9.0], [5.0, 0.0, 9.0]])
    ends = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    out = normalised_steps(rewards, ends, torch.tensor([0, 0, 1, 2]), scale=True)
    assert out == pytest.approx(torch.tensor([[0.0, -1.0, 0], [0, 1.0, 0], [0, 0, 0], [0, 0, 0]]), abs=1e-5)
    plain = normalised_steps(rewards * 3, ends, torch.tensor([0, 0, 1, 2]), scale=False)
    assert plain[:2].tolist() == [[0.0, -3.0, 0.0], [0.0, 3.0, 0.0]]


def experience(**given) -> Experience:
    """Two completions of one problem: steps 1 and 0, a step 2; outcomes 1 and 0; and one that is ungraded."""
    mask = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 0]], dtype=torch.bool)
    return Experience(
        mask=mask,
        token_rewards=torch.tensor([[0.0, 1, 0, 0], [0, 0, 2, 0], [0, 7, 0, 0]]),
        step_ends=torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.bool),
        rewards=torch.tensor([1.0, 0.0, 0.0]),
        graded=torch.tensor([True, True, False]),
        group=torch.tensor([0, 0, 0]),
        **given,
    )


def test_a_token_answers_for_the_steps_from_it_on():
    """Relative steps 0, -1 and 1; outcomes ±1/2 without scale, at the last token, with weight 2."""
    out = ProcessAdvantage(outcome_weight=2.0, scale=False)(experience())
    assert out.tolist() == [[0, 0.0, 0.0, 1.0], [0, 0.0, 0.0, 0], [0, 0, 0, 0]]
    steps_alone = ProcessAdvantage(outcome_weight=0.0, scale=False)(experience())
    assert steps_alone.tolist() == [[0, -1.0, -1.0, 0], [0, 1.0, 1.0, 0], [0, 0, 0, 0]]


def test_last_tokens():
    mask = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    assert last_of(mask).tolist() == [[False, False, False, True, False], [False] * 5]


def grade(reward, *steps):
    return Grade(reward, None, Verdict.PARTIAL, steps=tuple((i + 1, score) for i, score in enumerate(steps)))


def test_what_teaches():
    groups = [
        [grade(1.0), grade(1.0)],
        [grade(1.0), grade(0.0)],
        [grade(1.0, 0.5), grade(1.0, 0.2)],
        [grade(1.0, 0.5), grade(1.0, 0.5)],
        [grade(None, 0.5), grade(1.0, 0.2)],
    ]
    assert ProcessAdvantage().informative(groups).tolist() == [False, True, True, False, False]
    only_steps = ProcessAdvantage(outcome_weight=0.0)
    assert only_steps.informative(groups).tolist() == [False, False, True, False, False]


def test_bad_settings():
    with pytest.raises(InputError, match="value network"):
        ProcessAdvantage(returns=GAE())
    with pytest.raises(InputError, match="negative"):
        ProcessAdvantage(outcome_weight=-1.0)
    bare = experience()
    bare.token_rewards = None
    with pytest.raises(InputError, match="no rewards of steps"):
        ProcessAdvantage()(bare)
