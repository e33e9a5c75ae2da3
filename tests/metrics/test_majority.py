import random
from collections import Counter
from itertools import combinations

import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.metrics import majority_at_k


def brute_force(keys, correct, k):
    """Vote in every k-subset; ties are shared, a win is worth the answer's share of correct samples."""
    worth = {}
    for key in set(keys) - {None}:
        grades = [right for name, right in zip(keys, correct, strict=True) if name == key]
        worth[key] = sum(grades) / len(grades)
    totals = []
    for subset in combinations(keys, k):
        votes = Counter(key for key in subset if key is not None)
        winners = [key for key, count in votes.items() if count == max(votes.values())]
        totals.append(sum(worth[key] for key in winners) / len(winners) if winners else 0.0)
    return sum(totals) / len(totals)


def test_hand_worked_values():
    # pairs of a, a, b: (a a) wins with a, (a b) twice is a tie: 1/3 + 2/3 * 1/2
    assert majority_at_k(["a", "a", "b"], [True, True, False], 2) == pytest.approx(2 / 3, abs=1e-12)
    assert majority_at_k(["a", "a", "b"], [True, True, False], 3) == 1.0
    assert majority_at_k([None, None], [False, False], 2) == 0.0


@pytest.mark.parametrize("seed", range(40))
def test_equals_voting_in_every_subset(seed):
    draw = random.Random(seed)
    n = draw.randint(1, 8)
    keys = [draw.choice(["a", "b", "c", "d", None]) for _ in range(n)]
    correct = [key in ("a", "d") and draw.random() < 0.8 for key in keys]
    for k in range(1, n + 1):
        assert majority_at_k(keys, correct, k) == pytest.approx(brute_force(keys, correct, k), abs=1e-12)


def test_order_of_the_samples_does_not_matter():
    keys, correct = ["a", "b", "b", None, "c", "a"], [True, False, False, False, False, True]
    order = [5, 2, 0, 3, 1, 4]
    shuffled = majority_at_k([keys[i] for i in order], [correct[i] for i in order], 4)
    assert majority_at_k(keys, correct, 4) == pytest.approx(shuffled, abs=1e-12)


def test_two_voters_are_no_better_than_one():
    keys, correct = ["a"] * 3 + ["b"] * 2 + ["c"], [True] * 3 + [False] * 3
    assert majority_at_k(keys, correct, 2) == pytest.approx(majority_at_k(keys, correct, 1), abs=1e-12)


def test_chances_of_all_answers_add_up_for_many_samples():
    keys = [f"answer{i % 7}" for i in range(64)] + ["answer0"] * 20
    total = sum(majority_at_k(keys, [key == f"answer{a}" for key in keys], 33) for a in range(7))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_refusals():
    with pytest.raises(InputError, match="k = 3 cannot be estimated"):
        majority_at_k(["a", "b"], [True, False], 3)
    with pytest.raises(InputError, match="2 answer keys and 1 grades"):
        majority_at_k(["a", "b"], [True], 1)
