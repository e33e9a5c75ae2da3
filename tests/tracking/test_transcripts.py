from types import SimpleNamespace

import pytest
import torch

from lit_posttrain.batches import Answer, Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.tracking.transcripts import Transcripts, takes_tables, telling


def answer(uid, reward, text="7", parts=None, tokens=2):
    problem = Problem(
        ({"role": "system", "content": "Add."}, {"role": "user", "content": "3+4"}), "7", uid, "sums"
    )
    logprobs = torch.tensor([-1.0, -3.0][:tokens])
    completion = Completion(torch.arange(tokens), logprobs, StopReason.EOS, text)
    verdict = Verdict.GRADER_ERROR if reward is None else Verdict.CORRECT
    return Answer(problem, completion, Grade(reward, None, verdict, parts or {}), advantage=0.5)


class Tables:
    def __init__(self):
        self.rows = []

    def log_table(self, columns, artifact_file):
        self.rows.append((artifact_file, columns))


class OtherTables:
    def log_table(self, key, columns=None, data=None):
        raise AssertionError("another library's method")


def rewards(answers):
    return [answer.grade.reward for answer in answers]


def test_best_and_worst_of_each_problem_come_first():
    groups = [[answer("a", r) for r in (0.2, 0.9, None, 0.5)], [answer("b", r) for r in (0.0, 1.0)]]
    assert rewards(telling(groups, 10)) == [0.9, None, 1.0, 0.0, 0.5, 0.2]
    assert rewards(telling(groups, 3)) == [0.9, None, 1.0]
    assert rewards(telling([[answer("a", 0.3)], []], 3)) == [0.3]


def test_a_rollout_becomes_a_table_in_the_loggers_that_take_it():
    logger = Tables()
    trainer = SimpleNamespace(loggers=[OtherTables(), logger], global_step=12)
    callback = Transcripts(rows=2, every_n_rollouts=2)
    for _ in range(3):
        callback.on_experience(trainer, None, [[answer("a", 1.0, parts={"format": 0.5}), answer("a", 0.0)]])
    assert [file for file, _ in logger.rows] == ["transcripts/rollouts.json"] * 2
    assert logger.rows[0][1] == {
        "step": [12, 12],
        "uid": ["a", "a"],
        "source": ["sums", "sums"],
        "prompt": ["system: Add.\nuser: 3+4"] * 2,
        "completion": ["7", "7"],
        "reward": [1.0, 0.0],
        "reward/format": [0.5, None],
        "advantage": [0.5, 0.5],
        "verdict": ["correct", "correct"],
        "correct": [None, None],
        "note": ["", ""],
        "stop": ["eos", "eos"],
        "length_tokens": [2, 2],
        "logprob_mean_nats": [-2.0, -2.0],
    }


def test_probes_are_always_logged_and_empty_completions_have_no_logprob():
    logger = Tables()
    trainer = SimpleNamespace(loggers=[logger], global_step=0)
    Transcripts(every_n_rollouts=5).on_probe(trainer, None, {}, [[answer("a", 1.0, tokens=0)]])
    ((file, columns),) = logger.rows
    assert (file, columns["logprob_mean_nats"]) == ("transcripts/probes.json", [None])


def test_a_resumed_run_logs_the_same_rollouts_with_the_same_columns():
    logger = Tables()
    trainer = SimpleNamespace(loggers=[logger], global_step=0)
    first, second = Transcripts(every_n_rollouts=2), Transcripts(every_n_rollouts=2)
    first.on_experience(trainer, None, [[answer("a", 1.0, parts={"format": 1.0})]])
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.on_experience(trainer, None, [[answer("a", 1.0)]])
    assert len(logger.rows) == 2
    assert list(logger.rows[0][1]) == list(logger.rows[1][1])


def test_settings_are_checked():
    assert not takes_tables(OtherTables())
    with pytest.raises(InputError, match="1 or more"):
        Transcripts(rows=0)
