"""A process reward model as a grader: the same scores as in training, alone, in batches and step by step."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from fakes import TEXT, tiny

from lit_posttrain.batches import Completion, Problem, StopReason, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders import ProcessRewardModel
from lit_posttrain.graders.steps import step_ends
from lit_posttrain.networks import NetworkConfig, ScoreHead, build
from lit_posttrain.solution_steps import StepFormat, StepReader
from lit_posttrain.text import load_text

PROBLEM = Problem(({"role": "user", "content": "12+3="},), "15", "12+3")
STEPS = ["1+2", "3", "45+6", "7"]
TEXT_OF_STEPS = "1+2=3=45+6=7="


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random reward model of two heads that reads steps ending in `=`."""
    place = tmp_path_factory.mktemp("prm")
    network = build(tiny(head=ScoreHead(2)))
    network.causal.save_pretrained(place)
    load_text(TEXT).save(place)
    StepFormat("=").save(place)
    return place


def completion(text: str) -> Completion:
    return Completion(torch.zeros(1, dtype=torch.int64), torch.zeros(1), StopReason.EOS, text)


def by_hand(folder, steps: list[str]) -> list[float]:
    """The chances of the steps, from the ids that training sees and one sequence alone."""
    text = load_text(str(folder))
    solution = StepReader(text, StepFormat("="))(PROBLEM.messages, steps)
    network = build(NetworkConfig(path=str(folder), head=ScoreHead(2))).eval()
    with torch.no_grad():
        states = network.causal.model(torch.tensor([solution.ids])).last_hidden_state[0, solution.ends]
        return torch.sigmoid((states @ network.causal.score.weight.T).mean(1)).tolist()


def test_scores_are_those_of_the_last_tokens_of_steps(folder):
    ((*scores,),) = ProcessRewardModel(str(folder)).score([(PROBLEM, STEPS)])
    assert scores == pytest.approx(by_hand(folder, STEPS), abs=1e-6)
    assert max(scores) - min(scores) > 1e-3


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_scores_do_not_depend_on_the_batch(folder, batch_tokens):
    grader = ProcessRewardModel(str(folder), batch_tokens=batch_tokens)
    items = [(PROBLEM, STEPS[:n]) for n in (3, 1, 4, 2, 0)]
    for (_, steps), scores in zip(items, grader.score(items), strict=True):
        assert scores == pytest.approx(by_hand(folder, steps) if steps else [], abs=1e-6)


def test_a_step_has_the_same_score_while_its_solution_is_still_written(folder):
    whole, begun = ProcessRewardModel(str(folder)).score([(PROBLEM, STEPS), (PROBLEM, STEPS[:2])])
    assert begun == pytest.approx(whole[:2], abs=1e-6)


@pytest.mark.parametrize("how", ["minimum", "product", "last", "mean"])
def test_a_completion_gets_the_aggregated_score_of_its_steps(folder, how):
    (grade,) = ProcessRewardModel(str(folder), how).grade([(PROBLEM, completion(TEXT_OF_STEPS))])
    a, b, c, d = by_hand(folder, STEPS)
    wanted = {"minimum": min(a, b, c, d), "product": a * b * c * d, "last": d, "mean": (a + b + c + d) / 4}
    assert grade.reward == pytest.approx(wanted[how], abs=1e-6)
    assert (grade.correct, grade.verdict) == (None, Verdict.PARTIAL)
    parts = {"step_minimum": min(a, b, c, d), "step_mean": (a + b + c + d) / 4, "step_last": d}
    assert grade.parts == pytest.approx(parts, abs=1e-6)


def test_a_grade_has_the_score_of_each_step_at_its_end_in_the_text(folder):
    """Of `1+2=3=45+6=7` the steps end behind their separators after 4, 6, 11 and, without one, 12 characters."""
    grader = ProcessRewardModel(str(folder))
    bare, closed = grader.grade([(PROBLEM, completion(t)) for t in (TEXT_OF_STEPS[:-1], TEXT_OF_STEPS)])
    assert [end for end, _ in bare.steps] == [4, 6, 11, 12]
    assert [end for end, _ in closed.steps] == [4, 6, 11, 13]
    for grade in (bare, closed):
        assert [score for _, score in grade.steps] == pytest.approx(by_hand(folder, STEPS), abs=1e-6)
    assert grader.grade([(PROBLEM, completion(" = "))])[0].steps == ()


@pytest.mark.parametrize(
    ("text", "steps", "ends"),
    [
        ("  1 = = 2 ", StepFormat("="), [5, 10]),
        ("==1==2==", StepFormat("="), [4, 7]),
        ("Step 1: a\nb\nStep 2: c\n", StepFormat("\n", r"\n(?=Step \d+:)"), [12, 22]),
        ("a. b. c", StepFormat("\n", r"(?<=\.) "), [3, 6, 7]),
        ("Step 1:1Step 2:1", StepFormat("\n", r"Step \d:"), [15, 16]),
        ("1a2", StepFormat("\n", "(?=a)"), [1, 3]),
        (" \n ", StepFormat(), []),
    ],
)
def test_ends_of_steps_counted_by_hand(text, steps, ends):
    assert step_ends(text, steps) == ends
    assert len(steps.split(text)) == len(ends)
    for step, end in zip(steps.split(text), ends, strict=True):
        assert step in text[:end]


def test_what_the_models_text_causes_is_the_lowest_reward(folder):
    grades = ProcessRewardModel(str(folder)).grade(
        [(PROBLEM, completion(text)) for text in ("", " = ", "1=abc=2", "1=<eos>=2", "1=2")]
    )
    verdicts = [Verdict.NO_ANSWER, Verdict.NO_ANSWER, Verdict.MALFORMED, Verdict.MALFORMED, Verdict.PARTIAL]
    assert [grade.verdict for grade in grades] == verdicts
    assert [grade.reward for grade in grades[:4]] == [0.0] * 4
    assert all(grade.correct is False for grade in grades[:4])


def test_from_the_first_unreadable_step_on_scores_are_0(folder):
    ((*scores,), (*none,)) = ProcessRewardModel(str(folder)).score(
        [(PROBLEM, ["1+2", "?", "3"]), (PROBLEM, ["?"])]
    )
    assert scores == [pytest.approx(by_hand(folder, ["1+2"])[0], abs=1e-6), 0.0, 0.0]
    assert none == [0.0]


def test_what_is_too_long_for_the_network_is_not_graded(folder):
    grader = ProcessRewardModel(str(folder))
    long, fits = grader.grade([(PROBLEM, completion("1=" * 40)), (PROBLEM, completion("1=" * 20))])
    assert (long.reward, long.verdict) == (None, Verdict.GRADER_ERROR)
    assert "85 tokens exceeds the 64 positions" in long.note
    assert fits.reward is not None
    with pytest.raises(InputError, match="85 tokens exceeds the 64 positions"):
        grader.score([(PROBLEM, ["1"] * 40)])


def test_a_prompt_that_cannot_be_read_is_not_the_models_fault(folder):
    odd = replace(PROBLEM, messages=({"role": "user", "content": "what?"},))
    (grade,) = ProcessRewardModel(str(folder)).grade([(odd, completion("1=2"))])
    assert (grade.reward, grade.verdict) == (None, Verdict.GOLD_UNPARSEABLE)
    with pytest.raises(InputError):
        ProcessRewardModel(str(folder)).score([(odd, ["1"])])


def test_folders_that_are_no_process_reward_model_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "outcome")
    (tmp_path / "outcome" / "steps.json").unlink()
    with pytest.raises(InputError, match="no step separator found"):
        ProcessRewardModel(str(tmp_path / "outcome"))
    shutil.copytree(folder, tmp_path / "policy")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "policy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="has no reward head"):
        ProcessRewardModel(str(tmp_path / "policy"))


def test_bad_settings(folder):
    with pytest.raises(InputError, match="no aggregation 'median'"):
        ProcessRewardModel(str(folder), "median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch_tokens is 0"):
        ProcessRewardModel(str(folder), batch_tokens=0)
