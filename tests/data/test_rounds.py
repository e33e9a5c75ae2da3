"""Rounds of expert iteration: order, length, restarts, what is learned from, and going on in the middle."""

import pytest
import torch
from fakes import TEXT, DigitCount, Numbers, grpo, prompt_data, tiny, trainer

from lit_posttrain.batches import (
    Answer,
    Completion,
    Grade,
    Problem,
    PromptBatch,
    Sampling,
    StopReason,
    Verdict,
)
from lit_posttrain.candidates import Candidate, Cost, Origin
from lit_posttrain.contracts import Drawing, DrawingMethod
from lit_posttrain.data import ExpertIterationData
from lit_posttrain.data.rounds import Rounds, RoundStream
from lit_posttrain.data.selection import AtMost, MinimumReward, OnlyCorrect
from lit_posttrain.data.steps import Cut
from lit_posttrain.errors import InputError
from lit_posttrain.methods import SFTModule
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.pools import read_pool

DRAWING = Drawing(DigitCount(), Sampling(max_new_tokens=6), samples=4)


def candidate(number, sample, reward):
    """Prompt of two tokens, completion of 1 + sample tokens that tell the round."""
    problem = Problem(({"role": "user", "content": "1"},), "1", f"u{sample}", "s")
    tokens = torch.full((1 + sample,), 10 + number)
    completion = Completion(tokens, torch.zeros(1 + sample), StopReason.EOS, "x")
    grade = Grade(reward, reward > 0, Verdict.CORRECT)
    return Candidate(Answer(problem, completion, grade), [3, 4], Origin("p"), Cost(1), sample)


class ScriptedMethod:
    """Draws five completions a round, of which the last is wrong; none is right in the rounds of `empty`."""

    weighting = TokenMean()

    def __init__(self, empty=()):
        self.empty, self.events, self.stopped, self.recorded = set(empty), [], None, []

    def draw(self, prompts, drawing, index, seed):
        self.events.append(("draw", index, seed))
        return [candidate(index, i, float(i < 4 and index not in self.empty)) for i in range(5)]

    def restart(self):
        self.events.append("restart")

    def record(self, values):
        self.recorded.append(values)

    def stop(self, reason):
        self.stopped = reason


def stream(method, *, cut=Cut(2), **settings):
    rounds = Rounds(**({"count": 3, "problems": 5, "steps": 4, "batch_sequences": 3} | settings))
    return RoundStream(method, lambda i: PromptBatch([], []), DRAWING, rounds, cut=cut, pad_id=0)


def test_the_scripted_method_is_what_the_loader_wants():
    assert isinstance(ScriptedMethod(), DrawingMethod)
    assert isinstance(SFTModule(tiny(), TEXT), DrawingMethod)
    assert not isinstance(grpo(), DrawingMethod)


@pytest.mark.parametrize("begin", ["start", "current"])
def test_length_is_exact_and_each_round_is_drawn_when_it_begins(begin):
    method = ScriptedMethod()
    one = stream(method, begin=begin)
    assert len(one) == 3 * 4 * 2
    for i, _ in enumerate(one):
        number = i // 8
        assert [e[1] for e in method.events if e != "restart"] == list(range(number + 1))
        assert method.events.count("restart") == (number if begin == "start" else 0)
    assert i + 1 == len(one)
    assert len({e[2] for e in method.events if e != "restart"}) == 3  # seeds
    assert method.recorded == [{"rollout/kept_fraction": 0.8}] * 3


def test_only_what_is_kept_is_learned_from_as_it_was_drawn():
    batches = list(stream(ScriptedMethod(), count=1))
    seen = [
        row[:n].tolist() for b in batches for row, n in zip(b.input_ids, (b.segments > 0).sum(1), strict=True)
    ]
    assert {len(row) for row in seen} == {3, 4, 5, 6}  # not 7, which was wrong
    assert all(row[:2] == [3, 4] and set(row[2:]) == {10} for row in seen)
    learned = [b.mask.sum(1).tolist() for b in batches]
    assert sorted(n for row in learned for n in row) == sorted(len(row) - 2 for row in seen)
    # 4 steps of 3 sequences, 12 of 4 kept: each comes three times
    assert sorted(map(len, seen)) == sorted([3, 4, 5, 6] * 3)
    for step in range(4):
        assert sum(float(b.weights.sum()) for b in batches[2 * step : 2 * step + 2]) == pytest.approx(
            1, abs=1e-6
        )


def test_nothing_kept_is_an_error_at_first_and_later_the_end():
    with pytest.raises(InputError, match=r"nothing to learn from: round 0: 5 candidates.*\n.*OnlyCorrect 5"):
        list(stream(ScriptedMethod(empty={0})))
    method = ScriptedMethod(empty={1})
    assert len(list(stream(method))) == 8
    assert "round 1 was kept" in method.stopped
    assert "restart" not in method.events


@pytest.mark.parametrize("stop", [1, 7, 8, 9, 17, 23])
@pytest.mark.parametrize("packed", [False, True])
def test_going_on_gives_the_same_batches_without_drawing_again(stop, packed):
    cut = Cut(2, packed, 12)
    everything = [b.to_state() for b in stream(ScriptedMethod(), cut=cut)]
    first = stream(ScriptedMethod(), cut=cut)
    iterator = iter(first)
    for _ in range(stop):
        next(iterator)
    method = ScriptedMethod()
    second = stream(method, cut=cut)
    second.load_state_dict(first.state_dict())
    rest = [b.to_state() for b in second]
    assert len(rest) == len(everything) - stop
    for left, right in zip(rest, everything[stop:], strict=True):
        assert all(torch.equal(left[k], right[k]) for k in right)
    begun = -(-stop // 8)
    assert [e[1] for e in method.events if e != "restart"] == list(range(begun, 3))


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"count": 0}, {"problems": 0}, {"steps": 0}, {"batch_sequences": 0}):
        with pytest.raises(InputError, match="at least 1"):
            Rounds(**wrong)
    with pytest.raises(InputError, match="'start' or 'current'"):
        Rounds(begin="end")
    with pytest.raises(InputError, match="samples is 0"):
        Drawing(DigitCount(), samples=0)


def data(*, drawing=DRAWING, **rounds):
    settings = {
        "count": 3,
        "problems": 6,
        "steps": 2,
        "batch_sequences": 4,
        "keep": [MinimumReward(1.0), AtMost(2)],
    }
    return ExpertIterationData(Numbers(), drawing, Rounds(**(settings | rounds)))


def module():
    return SFTModule(tiny(), TEXT, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))


def weights(of):
    return {name: p.detach().clone() for name, p in of.policy.named_parameters()}


def fit(of=None, *, ckpt_path=None, **settings):
    of = of or module()
    rounds = settings.pop("data", {})
    fitting = trainer(**({"max_steps": 2 * rounds.get("count", 3)} | settings))
    fitting.fit(of, datamodule=data(**rounds), ckpt_path=ckpt_path)
    return of, fitting


def test_a_run_resumed_within_round_2_is_the_same_run(tmp_path):
    whole, fitting = fit(accumulate_grad_batches=2)
    assert fitting.global_step == 6
    for steps in (2, 3, 4, 5):
        _, half = fit(accumulate_grad_batches=2, max_steps=steps)
        half.save_checkpoint(tmp_path / f"{steps}.ckpt")
        resumed, _ = fit(accumulate_grad_batches=2, ckpt_path=tmp_path / f"{steps}.ckpt")
        for name, value in weights(whole).items():
            assert torch.equal(weights(resumed)[name], value), (steps, name)


def test_a_restart_gives_weights_and_optimiser_of_the_beginning():
    one, fitting = fit()
    started = weights(module_configured())
    assert any(not torch.equal(value, started[name]) for name, value in weights(one).items())
    one.restart()
    assert all(torch.equal(value, started[name]) for name, value in weights(one).items())
    assert not fitting.optimizers[0].state


def module_configured():
    fresh = module()
    fresh.configure_model()
    return fresh


def test_beginning_with_the_start_or_with_the_current_policy_differs():
    start, current = fit(data={"begin": "start"})[0], fit(data={"begin": "current"})[0]
    assert any(not torch.equal(v, weights(current)[n]) for n, v in weights(start).items())
    once = fit(data={"count": 1})[0], fit(data={"count": 1, "begin": "current"})[0]
    assert all(torch.equal(v, weights(once[1])[n]) for n, v in weights(once[0]).items())


def test_all_candidates_are_written_down_where_asked_for(tmp_path):
    drawing = Drawing(DigitCount(), Sampling(max_new_tokens=6), 4, pool=str(tmp_path / "rounds.parquet"))
    fit(data={"drawing": drawing})
    pool = read_pool(tmp_path / "rounds.parquet")
    assert len(pool) == 3 * 6 * 4
    assert [c.origin.step for c in pool[::24]] == [0, 2, 4]
    assert len({c.origin.policy for c in pool}) == 3
    assert sum(c.cost.flops for c in pool) > 0


def test_the_policy_draws_alike_in_eval_mode_and_books_it():
    one, fitting = fit(data={"count": 1})
    assert one.policy.training
    assert one.ledger.spent["rollout"].generated_tokens > 0
    assert {"rollout/kept_fraction", "rollout/length_mean_tokens", "reward/mean"} <= set(
        fitting.callback_metrics
    )


@pytest.mark.filterwarnings(
    "ignore:You passed in a `val_dataloader`", "ignore:You defined a `validation_step`"
)
def test_a_method_that_draws_otherwise_is_refused():
    with pytest.raises(InputError, match="GRPOModule draws no completions for supervised training"):
        trainer(max_steps=1).fit(grpo(), datamodule=data())
    with pytest.raises(InputError, match="GRPOModule"):
        trainer(max_steps=1).fit(module(), datamodule=prompt_data())


def test_prompts_leave_room_for_what_is_drawn():
    drawing = Drawing(DigitCount(), Sampling(max_new_tokens=60), 4)
    with pytest.raises(InputError, match=r"more than 4 tokens"):
        trainer(max_steps=1).fit(module(), datamodule=data(drawing=drawing, keep=[OnlyCorrect()]))
