"""A wish to stop reaches safe points, in this process and in others."""

import pytest

from lit_posttrain import interruption
from lit_posttrain.ranks import Ranks


class Store:
    """As a torch.distributed store: what one process sets the other finds."""

    def __init__(self):
        self.values = {}

    def set(self, key, value):
        self.values[key] = value.encode()

    def get(self, key):
        return self.values[key]

    def check(self, keys):
        return all(key in self.values for key in keys)


@pytest.fixture(autouse=True)
def _forgotten():
    interruption.clear()
    yield
    interruption.clear()


def test_nothing_happens_unasked():
    interruption.safe_point()
    interruption.joint_safe_point()
    assert interruption.requested() is None


def test_a_request_is_raised_at_the_next_safe_point_with_its_reason():
    interruption.request("SIGTERM")
    with pytest.raises(interruption.Interrupted, match="SIGTERM"):
        interruption.safe_point()
    with pytest.raises(interruption.Interrupted, match="SIGTERM"):
        interruption.joint_safe_point()


def test_another_process_learns_of_it_through_the_store():
    store = Store()
    interruption.clear(store)
    interruption.request("SIGTERM")
    assert interruption.requested() == "SIGTERM"
    interruption.clear(store)  # now as the other process, which got no signal
    assert interruption.requested() == "SIGTERM"


def test_work_that_is_interrupted_in_one_process_is_interrupted_in_all(monkeypatch):
    def done():
        return "done"

    monkeypatch.setattr(Ranks, "gather_all", lambda self, mine: [(0, mine), (1, (False, "SIGTERM"))])
    with pytest.raises(interruption.Interrupted, match="SIGTERM"):
        interruption.gather(done, Ranks(0, 2))
    monkeypatch.setattr(Ranks, "gather_all", lambda self, mine: [(0, mine), (1, (True, "theirs"))])
    assert interruption.gather(done, Ranks(0, 2)) == ["done", "theirs"]


def test_a_replica_that_is_interrupted_interrupts_the_others(monkeypatch):
    """Under tensor parallelism several processes have one index, and each may be told to stop."""
    stopped = [(0, (True, "mine")), (0, (False, "SIGTERM"))]
    monkeypatch.setattr(Ranks, "gather_all", lambda self, mine: stopped)
    with pytest.raises(interruption.Interrupted, match="SIGTERM"):
        interruption.gather(lambda: "mine", Ranks(0, 1, replicas=2))


def test_alone_the_interruption_passes_through():
    def stopped():
        interruption.safe_point()

    interruption.request("SIGINT")
    with pytest.raises(interruption.Interrupted):
        interruption.gather(stopped, Ranks())
