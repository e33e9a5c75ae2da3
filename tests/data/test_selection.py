"""The rules that choose candidates, each on a hand-made group, and the source that applies them to a pool."""

import re

import pytest
import torch

from lit_posttrain.batches import Answer, Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.candidates import Candidate, Cost, Origin
from lit_posttrain.data import ChatData, RankedData
from lit_posttrain.data.selection import (
    AtMost,
    BestByReward,
    Distinct,
    Finished,
    Longest,
    MinimumLogprob,
    MinimumReward,
    OnlyCorrect,
    Shortest,
    select,
)
from lit_posttrain.data.sources import GradedPool, Pool
from lit_posttrain.errors import InputError
from lit_posttrain.rollouts.pool import PoolWriter
from lit_posttrain.text import TextConfig, load_text


def candidate(name, *, uid="u", reward=1.0, tokens=2, logprob=-1.0, key="k", stop=StopReason.EOS):
    """`name` is the text; correct from a reward of 1 on."""
    correct = None if reward is None else reward >= 1
    grade = Grade(reward, correct, Verdict.CORRECT if correct else Verdict.INCORRECT, {}, key)
    completion = Completion(torch.arange(tokens), torch.full((tokens,), logprob), stop, name)
    problem = Problem(({"role": "user", "content": f"{uid}="},), "1", uid, "s")
    return Candidate(Answer(problem, completion, grade), [3], Origin("p"), Cost(tokens), ord(name[0]))


GROUP = [
    candidate("1", reward=0.5, tokens=4, logprob=-0.5, key="a"),
    candidate("2", reward=1.0, tokens=2, logprob=-2.0, key="b"),
    candidate("3", reward=None, tokens=6, logprob=-0.1, key=None, stop=StopReason.LENGTH),
    candidate("4", reward=1.0, tokens=4, logprob=-1.0, key="a", stop=StopReason.STOP_STRING),
    candidate("2", reward=2.0, tokens=0, key="b"),
]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (OnlyCorrect(), "2 4 2"),
        (Finished(), "1 2 4 2"),
        (MinimumReward(1.0), "2 4 2"),
        (MinimumLogprob(-1.0), "1 3 4"),
        (Distinct(), "1 2 3 4"),
        (Distinct("answer"), "1 2 3"),
        (BestByReward(2), "2 2"),
        (BestByReward(9), "1 2 4 2"),
        (Shortest(2), "2 2"),
        (Longest(2), "1 3"),
        (AtMost(3), "1 2 3"),
    ],
)
def test_rule(rule, kept):
    assert " ".join(c.answer.completion.text for c in rule(GROUP)) == kept
    assert rule([]) == []


def test_rules_are_applied_in_order_to_each_problem_and_counted():
    others = [
        candidate("7", uid="v"),
        candidate("8", uid="v", reward=0.0),
        candidate("9", uid="w", reward=0.0),
    ]
    mixed = [GROUP[0], *others, *GROUP[1:]]
    kept = select(mixed, [OnlyCorrect(), AtMost(2), AtMost(1)])
    assert [c.answer.completion.text for c in kept.candidates] == ["2", "7"]
    assert (kept.came, kept.problems) == (8, 3)
    assert kept.left_out == {"OnlyCorrect": 4, "AtMost": 1, "AtMost 2": 1}
    told = kept.in_words("pool")
    assert told == (
        "pool: 8 candidates of 3 problems; 2 of 2 kept\n  left out by: OnlyCorrect 4, AtMost 1, AtMost 2 1"
    )


@pytest.mark.parametrize("rule", [AtMost, BestByReward, Shortest, Longest])
def test_keeping_nothing_is_no_rule(rule):
    with pytest.raises(InputError, match="n is 0"):
        rule(0)


@pytest.fixture
def pool(tmp_path):
    writer = PoolWriter(tmp_path / "pool.parquet")
    for i in range(40):
        right = candidate("12", uid=f"{i}+1", reward=1.0)
        wrong = candidate("34", uid=f"{i}+1", reward=0.0)
        writer.write([right, wrong])
    return tmp_path / "pool.parquet"


def test_kept_candidates_are_conversations(pool, capsys):
    source = Pool(str(pool), held_out_share=0.2)
    chats = source.chats("train")
    held_out = source.chats("validation"), source.chats("test")
    asked = source.problems("train")[0].messages[0]
    assert chats[0] == [asked, {"role": "assistant", "content": "12"}]
    assert len(chats) + sum(map(len, held_out)) == 40
    assert min(map(len, held_out)) > 0
    assert {p.uid for p in source.problems("train")}.isdisjoint(p.uid for p in source.problems("test"))
    told = capsys.readouterr().out
    assert f"{2 * len(chats)} candidates of {len(chats)} problems; {len(chats)} of {len(chats)} kept" in told
    assert f"OnlyCorrect {len(chats)}" in told


def test_chat_data_trains_on_them(pool):
    text = load_text(TextConfig(characters="0123456789+="))
    data = ChatData(Pool(str(pool)), text=text, validation_split=None)
    batch = data.prepare("train").table.batch([0], text.pad_id)
    assert text.decode(batch.input_ids[0].tolist()) == "0+1=12"
    assert batch.mask.sum() == 3  # two digits and the end


def test_several_pools_are_one_and_a_grown_pool_is_read_again(pool, tmp_path):
    writer = PoolWriter(tmp_path / "more.jsonl")
    writer.write([candidate("12", uid="0+1"), candidate("56", uid="99+1")])
    count = len(Pool(str(pool), held_out_share=0.01).problems("train"))
    source = Pool([str(pool), str(tmp_path / "more.jsonl")], held_out_share=0.01)
    assert len(source.problems("train")) == count + 1
    assert len(source.chats("train")) == count + 1
    writer.write([candidate("78", uid="77+1")])
    assert len(source.chats("train")) == count + 2


def test_bad_pools_say_why(pool, tmp_path):
    with pytest.raises(InputError, match=r"nothing of the pool is kept(?s:.)*MinimumReward"):
        Pool(str(pool), [MinimumReward(3.0)]).chats("train")
    with pytest.raises(InputError, match="there is no pool"):
        Pool(str(tmp_path / "none.parquet")).chats("train")
    with pytest.raises(InputError, match=r"no problem of the pool .* falls into split 'test'"):
        Pool(str(pool), held_out_share=1e-9).chats("test")
    with pytest.raises(InputError, match="names no pool"):
        Pool([])


def test_graded_candidates_of_a_problem_stand_together(pool, tmp_path, capsys):
    writer = PoolWriter(tmp_path / "more.jsonl")
    writer.write([candidate("56", uid="3+1", reward=0.5), candidate("78", uid="4+1", reward=None)])
    writer.write([candidate("9", uid="77+1", reward=1.0)])
    source = GradedPool([str(pool), str(tmp_path / "more.jsonl")], held_out_share=0.2)
    rows = [row for split in ("train", "validation", "test") for row in source.rows(split)]
    assert len(rows) == 40  # the problem with one candidate is left out
    by_prompt = {row.prompt[0]["content"]: row for row in rows}
    three = next(row for prompt, row in by_prompt.items() if prompt.startswith("3+1"))
    assert [chat[0]["content"] for chat in three.completions] == ["12", "34", "56"]
    assert three.targets == [1.0, 0.0, 0.5]
    assert len(by_prompt) == 40
    told = [int(n) for n in re.findall(r"(\d+) of \d+ candidates are left out", capsys.readouterr().out)]
    assert sum(told) == 2  # that one, and the one that was not graded
    with pytest.raises(InputError, match=r"no problem of split 'train' has 9 graded candidates"):
        GradedPool(str(pool), at_least=9).rows("train")
    with pytest.raises(InputError, match="at_least must be 1 or more"):
        GradedPool(str(pool), at_least=0)


def test_ranked_data_learns_the_rewards(pool):
    text = load_text(TextConfig(characters="0123456789+="))
    data = RankedData(GradedPool(str(pool)), text=text, validation_split=None)
    batch = next(iter(data.train_dataloader()))
    assert batch.sequences == 16
    answers = [text.decode(ids[mask].tolist()) for ids, mask in zip(batch.input_ids, batch.mask, strict=True)]
    assert {(a, float(t)) for a, t in zip(answers, batch.target, strict=True)} == {("12", 1.0), ("34", 0.0)}
