"""One of eight completions cannot be graded: for the other seven it is as if it had not been drawn."""

from collections.abc import Sequence

import pytest
import torch
import unruly_rewards
from fakes import TEXT, prompts

from lit_posttrain.batches import Completion, Grade, PromptBatch, Sampling, StopReason, Verdict
from lit_posttrain.contracts import Grader, RolloutEngine
from lit_posttrain.graders import PythonFunction
from lit_posttrain.graders.single import SingleGrader, ungraded
from lit_posttrain.ledger import Ledger
from lit_posttrain.methods.rollout_metrics import rollout_metrics
from lit_posttrain.objectives.advantages import BatchWhitened, GroupAdvantage, LeaveOneOut
from lit_posttrain.rollouts import draw, to_experience
from lit_posttrain.rollouts.collect import attempts, reward_parts
from lit_posttrain.text import load_text

WHOLE = [["1", "2", "3", "odd", "4", "5", "6", "7"], ["-9", "-9", "0", "odd", "2", "0", "1", "1"]]
WITHOUT = [[text for text in group if text != "odd"] for group in WHOLE]
OTHERS = [0, 1, 2, 4, 5, 6, 7]
ADVANTAGES = {
    "group": GroupAdvantage("group"),
    "batch": GroupAdvantage("batch"),
    "none": GroupAdvantage("none"),
    "leave one out": LeaveOneOut(),
    "whitened": BatchWhitened("batch"),
}


class Written(RolloutEngine):
    """Gives these texts, and tells of each."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self.texts = texts

    def generate(self, requests, finished=None):
        groups = [
            [Completion(torch.tensor([3, 4]), torch.full((2,), -1.0), StopReason.EOS, t) for t in texts]
            for texts in self.texts
        ]
        for i, group in enumerate(groups):
            for j, one in enumerate(group):
                if finished is not None:
                    finished(i, j, one)
        return groups


class Here(SingleGrader):
    """In this process: raises on what is no number, or says that it cannot grade it."""

    lowest = -9.0

    def __init__(self, *, says: bool) -> None:
        self.says = says

    def grade_one(self, problem, completion):
        if self.says and completion.text == "odd":
            return ungraded(Verdict.GOLD_UNPARSEABLE)
        reward = float(completion.text)
        return Grade(reward, reward > 0, Verdict.CORRECT if reward > 0 else Verdict.INCORRECT)


def function(which) -> Grader:
    return PythonFunction(which, deadline_s=0.5, correct_at=0.5, lowest=-9.0)


GRADERS = {
    "raises": lambda: function(unruly_rewards.raises),
    "hangs": lambda: function(unruly_rewards.hangs),
    "says none": lambda: function(unruly_rewards.says_none),
    "raises here": lambda: Here(says=False),
    "says none here": lambda: Here(says=True),
}


def drawn(grader: Grader, texts):
    batch = some_prompts()
    return draw(
        Written(texts),
        grader,
        batch,
        sampling=Sampling(),
        n=len(texts[0]),
        seed=0,
        ledger=Ledger(),
        deadline_s=30,
    )


def some_prompts() -> PromptBatch:
    return prompts(load_text(TEXT), 2)


@pytest.fixture(scope="module", params=GRADERS)
def answers(request):
    grader = GRADERS[request.param]()
    yield drawn(grader, WHOLE)
    grader.close()


@pytest.fixture(scope="module")
def fewer():
    return drawn(Here(says=True), WITHOUT)


def test_only_the_one_is_ungraded(answers):
    assert [[a.completion.text for a in group] for group in answers] == WHOLE
    assert [[a.grade.reward is None for a in group] for group in answers] == [[i == 3 for i in range(8)]] * 2
    assert all(group[3].grade.correct is None for group in answers)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_no_other_advantage_changes(answers, fewer, name):
    advantage = ADVANTAGES[name]
    found, wanted = (advantage(*reward_parts(groups, ())) for groups in (answers, fewer))
    assert torch.allclose(found[:, OTHERS], wanted, rtol=0, atol=1e-6)
    assert found[:, 3].tolist() == [0.0, 0.0]
    assert float(found.abs().max()) > 0.5


def test_advantages_by_hand(answers):
    """The seven rewards 1 to 7 have the mean 4; as a 0 the eighth would make it 3.5. The others of the first, 2 to 7,
    have the mean 4.5."""
    parts, graded = reward_parts(answers, ())
    assert GroupAdvantage("none")(parts, graded)[0].tolist() == [-3, -2, -1, 0, 0, 1, 2, 3]
    assert float(LeaveOneOut()(parts, graded)[0, 0]) == pytest.approx(-3.5, abs=1e-6)


def test_it_is_in_no_mean_and_counts_as_no_attempt(answers, fewer):
    """28 in the first group and -14 in the second make 1 a completion; 7 and 3 of 7 are right."""
    told, same = (
        rollout_metrics(groups, rewards[..., 0], graded, lowest=-9.0)
        for groups in (answers, fewer)
        for rewards, graded in [reward_parts(groups, ())]
    )
    assert told["rollout/ungraded_fraction"] == 0.125
    assert told["reward/mean"] == pytest.approx(1.0, abs=1e-6)
    assert told["reward/correct_fraction"] == pytest.approx(10 / 14, abs=1e-6)
    for name in ("reward/mean", "reward/standard_deviation", "reward/group_standard_deviation"):
        assert told[name] == pytest.approx(same[name], abs=1e-6)
    assert [(a.judged, a.correct) for a in attempts(answers)] == [(7, 7), (7, 3)]


def test_it_is_told_apart_in_the_experience(answers):
    parts, graded = reward_parts(answers, ())
    batch = to_experience(
        answers,
        some_prompts().prompt_ids,
        GroupAdvantage()(parts, graded),
        temperature=1.0,
        policy_version=0,
        pad_id=0,
    )
    assert batch.graded.tolist() == [i != 3 for i in range(8)] * 2
    assert float(batch.advantages[[3, 11]].abs().max()) == 0
