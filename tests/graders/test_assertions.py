import pytest

from lit_posttrain.graders.assertions import Call, NeedsJudge, rewritten, rewritten_check
from lit_posttrain.graders.sandbox.interface import Reference


def only(text, *names):
    found = rewritten(text, names or ["f"])
    assert found is not None
    (assertion,) = found
    return assertion


def test_calls_get_plain_data():
    assertion = only("assert f([1, (2, {3: 'x'})], -1, 3 * 19, k=int, m={1} ) == 'a' + 'b'")
    assert assertion.calls == (Call("f", ([1, (2, {3: "x"})], -1, 57), (("k", int), ("m", {1}))),)
    assert assertion.holds(["ab"])
    assert not assertion.holds(["a"])


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("assert f(1) == 2", 2, 3),
        ("assert f(1) == 2, 'message'", True + 1, None),
        ("assert 2 == f(1)", 2.0, "2"),
        ("assert f(1) != 2", 3, 2),
        ("assert f(1)", [0], []),
        ("assert not f(1)", 0, 1),
        ("assert f(1) is True", True, 1),
        ("assert f(1) is not None", 0, None),
        ("assert (f(1)) in [1, 2]", 2, 3),
        ("assert 1 < f(1) <= 3", 3, 1),
        ("assert abs(f(1.5) - 0.5) < 1e-6", 0.5000001, 0.6),
        ("assert math.isclose(f(2), 1.414, rel_tol=0.001)", 1.4142, 1.5),
        ("assert set(f(1)) == set((1, 2))", [2, 1, 1], [1]),
        ("assert sorted(f(1), reverse=True) == [2, 1]", (1, 2), (1,)),
        ("assert round(f(1), 2) == 0.33", 1 / 3, 0.34),
        ("assert len(f(1)) == 2 and f(1)[0] == 'a'", "ab", "bb"),
        ("assert f(1)['k'] == 1", {"k": 1}, [1]),
        ("assert int(f(1)) == 35", 35.0, "x"),
        ("assert f(1) == float('inf')", float("inf"), float("nan")),
        ("assert f(1) > 5", 6, None),
    ],
)
def test_what_must_hold(text, right, wrong):
    assertion = only(text)
    assert assertion.holds([right] * len(assertion.calls))
    assert not assertion.holds([wrong] * len(assertion.calls))


def test_two_calls_are_two_answers():
    assertion = only("assert f(1) + 1 == f(2)")
    assert [call.arguments for call in assertion.calls] == [(1,), (2,)]
    assert assertion.holds([1, 2])
    assert not assertion.holds([1, 1])


def test_the_entry_comes_before_a_builtin_of_its_name():
    assert only("assert sum([1], 2) == 3", "sum").calls == (Call("sum", ([1], 2)),)
    assert only("assert sum([1], 2) == 3", "f").calls == ()


def test_objects_equal_nothing():
    assert not only("assert f(1) == 2").holds([Reference(-1, "A")])
    assert not only("assert f(1) == f(2)").holds([Reference(-1, "A"), Reference(-1, "A")])
    assert not only("assert f(1) == [2]").holds([[Reference(-1, "A")]])
    for text in ("assert f(1)", "assert f(1) != 2", "assert list(f(1)) == [1]", "assert f(1) is not None"):
        with pytest.raises(NeedsJudge):
            only(text).holds([Reference(-1, "A")])


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\nassert f(x) == 1",
        "assert f(x) == 1",
        "assert f(f(1)) == 1",
        "assert all(f(n) == n for n in range(3))",
        "assert f(lambda: 1) == 1",
        "assert f(*[1]) == 1",
        "assert f(**{'a': 1}) == 1",
        "assert f(1) == 1 or f(2) == 2",
        "assert f(1) is 1",
        "assert f(1) == g(1)",
        "assert isinstance(f(1), list)",
        "assert f(1).value == 1",
        "assert sorted(f(1), key=len) == []",
        "assert math.factorial(f(1)) == 1",
        "assert f(10 ** 10 ** 10) == 1",
        "assert f('x' * 10 ** 9) == 1",
        "try:\n  f(1)\nexcept ValueError: pass",
        "for n in range(3): assert f(n) == n",
        "from math import isclose\nassert f(1) == 1",
    ],
)
def test_the_rest_needs_a_judge(text):
    assert rewritten(text, ["f"]) is None


def test_growth_is_bounded_when_it_is_evaluated():
    assert not only("assert abs(f(1) - 0.5) < 1e-6").holds([10**5000])
    assert not only("assert f(1) * f(2) == 1").holds([10**5000, 10**5000])
    assert not only("assert 2 ** f(1) == 1").holds([10**9])
    assert not only("assert f(1) * 5 == 1").holds(["x" * 1000])
    colliding = [n * (2**61 - 1) for n in range(1, 5000)]
    assert not only("assert len(set(f(1))) == 4999").holds([colliding])


def test_checks_in_the_style_of_humaneval():
    found = rewritten_check(
        "METADATA = {'author': 'x'}\nimport math\n\ndef check(candidate):\n    '''d'''\n"
        "    assert candidate(1) == 2\n    assert True, 'x'\n    assert f(1) == candidate(2)\n",
        "f",
    )
    assert found is not None
    assert [len(assertion.calls) for assertion in found] == [1, 0, 2]
    assert found[0].calls == (Call("f", (1,)),)
    assert found[1].holds([])


@pytest.mark.parametrize(
    "text",
    [
        "def check(candidate):\n    x = 1\n    assert candidate(x) == 2",
        "def check(candidate, other):\n    assert candidate(1) == 2",
        "def test(candidate):\n    assert candidate(1) == 2",
        "X = 1\ndef check(candidate):\n    assert candidate(1) == 2",
        "assert f(1) == 1",
    ],
)
def test_other_checks_need_a_judge(text):
    assert rewritten_check(text, "f") is None


def test_tests_that_are_no_python_say_so():
    with pytest.raises(SyntaxError):
        rewritten("assert f(", ["f"])
