"""Rollouts that are drawn ahead: by how much, in which order, and going on with a queue."""

import io

import pytest
import torch
from scripted_rollouts import ScriptedMethod, learn, same, stream

from lit_posttrain.contracts import Reuse
from lit_posttrain.data.steps import Cut
from lit_posttrain.errors import InputError

REUSES = [Reuse(), Reuse(epochs=1, minibatches=2), Reuse(epochs=2, minibatches=3)]


@pytest.mark.parametrize("reuse", REUSES)
@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 8, 13])
def test_the_lag_at_first_use_is_the_setting_in_every_epoch(reuse, k):
    """Rollout j is begun at step j*m with the policy of step max(0, j*m - k), here over three epochs of four."""
    method = ScriptedMethod(reuse)
    one = stream(method, rollouts=4, staleness=k)
    for _ in range(3):
        learn(one, method)
    m = reuse.epochs * reuse.minibatches
    begun = [j * m for j in range(12)]
    assert method.recorded("rollout/policy_version") == [(s, max(0, s - k)) for s in begun]
    due = [j for j in range(99) if max(0, j * m - k) <= 12 * m - 1]
    assert [n for what, n in method.events if what == "collect"] == due
    queued = [sum(1 for i in range(j + 1, 99) if max(0, i * m - k) <= s) for j, s in enumerate(begun)]
    assert method.recorded("rollout/queued_rollouts") == list(zip(begun, queued, strict=True))


def test_by_hand_with_two_steps_a_rollout_and_three_of_staleness():
    """m = 2, k = 3: rollouts 0 and 1 are drawn at once, rollout 2 (begun at 4) after one step, 3 after three."""
    method = ScriptedMethod(Reuse(minibatches=2))
    one = stream(method, staleness=3, cut=Cut(2))
    drawn = []
    for _ in one:
        drawn.append(one.collector.drawn)
        method.step += one.position % 2 == 0
    assert drawn == [2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5]
    assert [v for _, v in method.recorded("rollout/policy_version")] == [0, 0, 1]


def test_without_staleness_it_is_the_synchronous_loop():
    """The oracle draws, and then yields all that the rollout gives."""
    reuse = Reuse(epochs=2, minibatches=2)
    method, oracle = ScriptedMethod(reuse), ScriptedMethod(reuse)
    seen = learn(stream(method, staleness=0), method)
    expected = []
    single = stream(oracle, rollouts=1)
    for _ in range(3):
        assert not single.queue
        expected += learn(single, oracle)
    assert same(seen, expected)
    assert method.events == [(what, n) for r in range(3) for what, n in (("collect", r), ("settle", 6))]


def stored(state):
    """Through a file that is read with `weights_only`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


@pytest.mark.parametrize("k", [0, 1, 5])
@pytest.mark.parametrize("reuse", [Reuse(epochs=2, minibatches=2), Reuse(minibatches=1)])
def test_going_on_anywhere_is_the_run_without_a_stop(reuse, k):
    def run(method):
        return stream(method, rollouts=2, staleness=k)

    whole = ScriptedMethod(reuse)
    one = run(whole)
    everything = learn(one, whole) + learn(one, whole)
    for stop in range(1, len(everything)):
        before, after = ScriptedMethod(reuse), ScriptedMethod(reuse)
        first, second = run(before), run(after)
        seen = learn(first, before, stop)
        while len(seen) < stop:
            seen += learn(first, before, stop - len(seen))
        second.load_state_dict(stored(first.state_dict()))
        after.step = before.step
        rest = learn(second, after)
        while len(seen) + len(rest) < len(everything):
            rest += learn(second, after)
        assert same(seen + rest, everything)
        assert before.events + after.events == whole.events
        assert before.records + after.records == whole.records


def test_what_was_drawn_ahead_is_used_before_the_end():
    method = ScriptedMethod(empty=range(3, 100))
    one = stream(method, rollouts=9, staleness=2, collector={"max_redraws": 3})
    assert len(learn(one, method)) == 3 * 2
    assert "nothing left" in method.stopped
    assert [n for what, n in method.events if what == "collect"] == list(range(7))


def test_the_end_is_in_the_checkpoint_while_rollouts_wait():
    method = ScriptedMethod(empty=range(3, 100))
    one = stream(method, rollouts=9, staleness=2, collector={"max_redraws": 3})
    learn(one, method, 3)
    later = ScriptedMethod(empty=range(3, 100))
    second = stream(later, rollouts=9, staleness=2, collector={"max_redraws": 3})
    second.load_state_dict(one.state_dict())
    assert len(learn(second, later)) == 3
    assert later.events == []
    assert "nothing left" in later.stopped


def test_another_staleness_is_refused():
    state = stream(ScriptedMethod(), staleness=4).state_dict()
    with pytest.raises(InputError, match=r"data\.staleness 4"):
        stream(ScriptedMethod(), staleness=0).load_state_dict(state)
