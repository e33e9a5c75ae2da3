"""Pools on disk: what goes in comes out, what is torn or foreign is refused, what is done is known."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lit_posttrain.batches import Answer, Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.candidates import Candidate, Cost, Origin
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Spent
from lit_posttrain.pools import pool_files, read_pool
from lit_posttrain.rollouts.pool import PoolWriter, merge
from lit_posttrain.rollouts.provenance import candidates_of, settings_json, shares
from lit_posttrain.test_time import Sample

ORIGIN = Origin("ab" * 16, "run-1", 300, "Sample", '{"seed": 0}')
NAMES = ["p.parquet", "p.jsonl"]


def answer(uid="u0", text="12", reward=1.0, reference="12"):
    problem = Problem(({"role": "user", "content": f"{uid}="},), reference, uid, "sums")
    tokens = torch.arange(len(text) + 1)
    completion = Completion(tokens, -torch.rand(len(tokens)), StopReason.EOS, text)
    correct = None if reward is None else reward > 0.5
    verdict = Verdict.GOLD_TIMEOUT if reward is None else Verdict.CORRECT if correct else Verdict.INCORRECT
    return Answer(problem, completion, Grade(reward, correct, verdict, {"sum": 0.5}, "12/1", "why ☂"))


def group(uid="u0", rewards=(1.0, None), origin=ORIGIN, chosen=None):
    answers = [answer(uid, "1" * (i + 1), reward) for i, reward in enumerate(rewards)]
    (costs,) = shares([answers], Spent(seconds=2.0, flops=100.0))
    return candidates_of(answers, [5, 6, 7], f"{uid}=", origin, costs, chosen)


def fields(candidate):
    """All of a candidate, tensors as lists."""
    a = candidate.answer
    c = (a.completion.tokens.tolist(), a.completion.logprobs.tolist(), a.completion.stop, a.completion.text)
    rest = (candidate.origin, candidate.cost, candidate.sample, candidate.samples, candidate.prompt)
    return a.problem, c, a.grade, list(candidate.prompt_ids), rest, candidate.chosen, candidate.parent


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_in_comes_out(tmp_path, name):
    writer = PoolWriter(tmp_path / name)
    first, second = group("u0", chosen=1), group("u1")
    derived = Candidate(answer("u1"), [5], ORIGIN, Cost(3), 0, 1, parent=second[0].uid)
    writer.write(first)
    writer.write([*second, derived])
    found = read_pool(tmp_path / name)
    torch.testing.assert_close(found[0].answer.completion.logprobs, first[0].answer.completion.logprobs)
    assert [fields(c) for c in found] == [fields(c) for c in [*first, *second, derived]]
    assert [c.uid for c in found] == [c.uid for c in [*first, *second, derived]]
    assert len({c.uid for c in found}) == 5
    assert [c.chosen for c in found[:2]] == [False, True]


def test_cost_is_shared_by_tokens():
    short, long = answer(text="1"), answer(text="11111")  # two tokens and six, of eight
    ((a, b),) = shares([[short, long]], Spent(seconds=4.0, flops=80.0))
    assert (a, b) == (Cost(2, 20.0, 1.0), Cost(6, 60.0, 3.0))


def test_any_reader_of_parquet_takes_the_folder(tmp_path):
    writer = PoolWriter(tmp_path / "p.parquet")
    writer.write(group("u0"))
    writer.write(group("u1"))
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.num_rows == 4
    assert table.column("tokens").to_pylist() == [2, 3, 2, 3]
    assert dict(table.column("parts").to_pylist()[0]) == {"sum": 0.5}
    assert [part.name[:11] for part in pool_files(tmp_path / "p.parquet")] == ["part-000000", "part-000001"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_done_is_known(tmp_path, name):
    PoolWriter(tmp_path / name).write([*group("u0"), *group("u1")])
    again = PoolWriter(tmp_path / name)
    assert again.done(ORIGIN) == {("sums", "u0"), ("sums", "u1")}
    assert again.done(Origin(ORIGIN.policy, "another", 7, "Sample", '{"seed": 0}')) == again.done(ORIGIN)
    assert again.done(ORIGIN, at_least=3) == set()
    for other in (
        Origin("cd" * 16, "run-1", 300, "Sample", '{"seed": 0}'),
        Origin(ORIGIN.policy, "run-1", 300, "Best", '{"seed": 0}'),
        Origin(ORIGIN.policy, "run-1", 300, "Sample", '{"seed": 1}'),
    ):
        assert again.done(other) == set()


def test_a_torn_line_is_taken_off_and_its_problem_is_drawn_again(tmp_path):
    path = tmp_path / "p.jsonl"
    PoolWriter(path).write([*group("u0"), *group("u1")])
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_pool(path)) == 3
    writer = PoolWriter(path)
    assert writer.done(ORIGIN) == {("sums", "u0")}
    writer.write(group("u1"))
    assert [c.uid for c in read_pool(path)] == [c.uid for c in [*group("u0"), *group("u1")]]


def test_a_part_that_was_not_finished_is_not_there(tmp_path):
    writer = PoolWriter(tmp_path / "p.parquet")
    (tmp_path / "p.parquet/.part-000000-ab.parquet.tmp").write_bytes(b"PAR1 half")
    again = PoolWriter(tmp_path / "p.parquet")
    assert again.done(ORIGIN) == set()
    writer.write(group())
    assert len(read_pool(tmp_path / "p.parquet")) == 2


def test_a_candidate_that_stands_twice_counts_once(tmp_path):
    writer = PoolWriter(tmp_path / "p.parquet")
    writer.write(group("u0"))
    writer.write(group("u0", rewards=(0.0, 0.0, 1.0)))
    found = read_pool(tmp_path / "p.parquet")
    assert [c.answer.grade.reward for c in found] == [0.0, 0.0, 1.0]  # the later rows
    assert writer.done(ORIGIN, at_least=3) == {("sums", "u0")}


def test_pools_are_merged(tmp_path):
    for name, uids in (("a.parquet", "xy"), ("b.jsonl", "yz")):
        writer = PoolWriter(tmp_path / name)
        for uid in uids:
            writer.write(group(uid))
    assert merge([tmp_path / "a.parquet", tmp_path / "b.jsonl"], tmp_path / "all.parquet") == 6
    assert merge([tmp_path / "b.jsonl"], tmp_path / "all.parquet") == 0
    assert [c.answer.problem.uid for c in read_pool(tmp_path / "all.parquet")] == list("xxyyzz")


def test_the_number_of_samples_is_no_setting_of_a_draw():
    assert settings_json(Sample(4, seed=3)) == settings_json(Sample(8, seed=3)) != settings_json(Sample(4))


def change(path, **metadata):
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_bad_pools_are_refused_with_a_reason(tmp_path):
    with pytest.raises(InputError, match="there is no pool"):
        read_pool(tmp_path / "none.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no part-\*.parquet, but nothing"):
        read_pool(tmp_path / "empty")
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "foreign.parquet")
    with pytest.raises(InputError, match=r"no pool of candidates \(columns a, b\)"):
        read_pool(tmp_path / "foreign.parquet")
    (tmp_path / "text.parquet").write_text("no parquet at all")
    with pytest.raises(InputError, match="damaged or no pool"):
        read_pool(tmp_path / "text.parquet")
    (tmp_path / "text.csv").write_text("a,b")
    with pytest.raises(InputError, match=r"end in .parquet or .jsonl"):
        read_pool(tmp_path / "text.csv")


def test_damaged_and_other_versions_are_refused(tmp_path):
    PoolWriter(tmp_path / "p.parquet").write(group())
    (part,) = pool_files(tmp_path / "p.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged or no pool"):
        read_pool(tmp_path / "p.parquet")
    part.write_bytes(whole)
    change(part, **{"lit_posttrain.pool": "7"})
    with pytest.raises(InputError, match="of version 7, and this code reads version 1"):
        read_pool(tmp_path / "p.parquet")
    pq.write_table(pq.read_table(part).drop_columns(["note"]), part)
    change(part, **{"lit_posttrain.pool": "1"})
    with pytest.raises(InputError, match="has no column note"):
        read_pool(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 .* is no JSON"),
        ("3", "line 1 .* is no candidate"),
        ('{"uid": "u0"}', "line 1 .* is no candidate"),
        ('{"schema": 2, "candidate": "a"}', "of version 2"),
        ('{"schema": 1, "candidate": "a"}', "row 0 .* is no candidate: KeyError"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_pool(tmp_path / "p.jsonl")


def test_a_writer_touches_nothing_that_is_not_a_pool(tmp_path):
    (tmp_path / "mine.jsonl").write_text("kept")
    (tmp_path / "mine.parquet").write_text("kept")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "folder.parquet/a.txt").write_text("kept")
    for name in ("mine.jsonl", "mine.parquet", "folder.parquet"):
        with pytest.raises(InputError, match="is there already; choose another output"):
            PoolWriter(tmp_path / name)
    assert (tmp_path / "mine.jsonl").read_text() == (tmp_path / "mine.parquet").read_text() == "kept"
    with pytest.raises(InputError, match=r"must end in .jsonl or .parquet"):
        PoolWriter(tmp_path / "a.csv")


def test_a_reference_that_is_no_json_is_refused(tmp_path):
    odd = Candidate(answer(reference={1, 2}), [5], ORIGIN, Cost(3))
    with pytest.raises(InputError, match="must be JSON values"):
        PoolWriter(tmp_path / "p.parquet").write([odd])
    assert list((tmp_path / "p.parquet").iterdir()) == []
