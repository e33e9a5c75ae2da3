import itertools
import pickle

import pytest
from math_cases.cases import read

from lit_posttrain.errors import InputError
from lit_posttrain.graders import MathAnswer, NumericMatch
from lit_posttrain.graders.answer_key import MathKey, NumberKey, TextKey

SAME = [  # each line: spellings of one answer; no answer of one line is that of another
    ["1/2", "0.5", r"50\%", r"\frac12", r"\dfrac{2}{4}", "x=1/2", "$0.50$", r"\left(\frac{1}{2}\right)", r"2^{-1}"],
    [r"\sqrt{8}", r"2\sqrt2", r"2\sqrt{2}", r"\sqrt 8", r"8^{1/2}", r"\frac{4}{\sqrt{2}}", "x = 2\\sqrt{2}"],
    ["3", "x=3", "3.0", r"\log_2 8", r"\sqrt{9}", "03", r"\frac{6}{2}", r"3.", "$3$", "2x=6", r"\$3", "3=x"],
    ["7/2", r"3\frac{1}{2}", "3.5", "3 1/2", r"350\%"],
    ["-4", br"\u22124".decode("unicode_escape"), "-4.0", r"\frac{-8}{2}", "-2^2"],
    ["1000", "1,000", "10^3", r"1\times 10^{3}", "1{,}000"],
    ["1/3", r"0.\overline{3}", r"\frac{1}{3}", r"\frac{2}{6}"],
    [r"1+\sqrt{2}", r"\sqrt{3+2\sqrt{2}}", r"\sqrt2+1", r"\frac{1}{\sqrt{2}-1}"],
    [r"\pi", "pi", r"\pi\cdot 1", r"\frac{2\pi}{2}"],
    ["3.1415926535"],
    [r"2\pi", r"\pi\cdot 2", r"\pi+\pi"],
    ["e", r"e^1", r"\exp(1)"],
    ["x^2-1", "(x-1)(x+1)", r"-1+x^2", "y=x^2-1", "f(x)=x^2-1"],
    ["(x-1)^2", "x^2-2x+1", "(1-x)^2"],
    ["y^2-1", "(y-1)(y+1)"],
    ["a+b", "b+a"],
    [r"\frac{1}{x}+\frac{1}{y}", r"\frac{x+y}{xy}"],
    [r"\sin 2x", r"2\sin x\cos x"],
    ["1", r"\sin^2 x+\cos^2 x", "x/x", "1.00", r"100\%", "-e^{i\\pi}"],
    ["|x|"],
    ["x+0", "z=x"],
    [r"\{1,2\}", r"\{2,1\}", "1,2", "2, 1", r"1 \text{ and } 2", r"x=1 \text{ or } x=2", r"\{1.0,\frac{4}{2}\}"],
    [r"\{1,2,3\}", "3,2,1"],
    ["(1,2)", "(1, 2)", r"\left(1,2\right)", r"(\frac22,2.0)"],
    ["(2,1)"],
    ["[1,2]", r"1\le x\le 2", r"x \in [1,2]"],
    ["[1,2)", r"1 \le x < 2"],
    [r"(2,\infty)", "x>2", "2<x", r"x \in (2,\infty)"],
    [r"[2,\infty)", r"x\ge 2", r"x \geq 2"],
    [r"(-\infty,0)\cup(1,\infty)", r"(1,\infty)\cup(-\infty,0)"],
    [r"\pm 5", "5,-5", r"\{-5,5\}"],
    [r"3\pm\sqrt{2}", r"3+\sqrt{2}, 3-\sqrt2"],
    ["2x+3y=6", "4x+6y=12", "3y+2x=6", "2x+3y-6=0"],
    ["2x+3y=7"],
    ["x^2+y^2=25", "y^2+x^2=25", "25=x^2+y^2"],
    ["x+y>2", "2<x+y", "2x+2y>4"],
    ["x+y<2", "-x-y>-2"],
    [r"x+y\ge 2", r"2\le y+x"],
    [r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 4/2 \end{bmatrix}"],
    [r"\begin{pmatrix}1&2\end{pmatrix}"],
    ["1+2i", "2i+1"],
    ["1-2i"],
    ["yes", r"\text{Yes}", "YES"],
    ["C", r"\text{(C)}", "(C)", "C.", "(C) 12"],
    [r"\text{Evelyn}", "Evelyn", "evelyn"],
    [r"12\text{ cm}", "12 cm", r"12\,\mathrm{cm}", "12 centimeters"],
    [r"12\text{ m}", "12 meters"],
    ["12", "12 apples", "12."],
    ["30", r"30^\circ", "30 degrees", r"\$30", "30 dollars"],
    [r"n!", r"n\cdot(n-1)!"],
    [r"\binom{n}{2}", r"\frac{n(n-1)}{2}"],
    [r"\frac{n(n+1)}{2}", "n(n+1)/2", r"\frac{n^2+n}{2}"],
    [r"\emptyset", r"\varnothing", r"\{\}"],
    ["9^{9^{9^9}}", "9^{9^{9^9}} "],
    [r"\text{no solution}", "no solution"],
]  # fmt: skip


def box(text: str) -> str:
    return rf"\boxed{{{text}}}"


@pytest.fixture(scope="module")
def rule():
    made = MathKey(deadline_s=10.0)
    yield made
    made.close()


@pytest.fixture
def keys(item, rule):
    return lambda texts: rule.key([item(box(text)) for text in texts])


def test_keys_are_equal_exactly_for_equal_answers(keys):
    """With equal texts as keys, sameness is reflexive, symmetric and transitive; here it is the right one too."""
    assert sum(map(len, SAME)) >= 180
    found = iter(keys(list(itertools.chain(*SAME))))
    by_line = [[next(found) for _ in line] for line in SAME]
    assert [(line, own) for line, own in zip(SAME, by_line, strict=True) if len(set(own)) > 1] == []
    firsts = [own[0] for own in by_line]
    assert [key for key in firsts if firsts.count(key) > 1] == []
    assert None not in firsts


def test_different_cases_of_the_suite_have_the_keys_of_a_relation(keys):
    """Answers that share a key are never told apart by the judged cases."""
    wrong = [case for case in [*read("suite.txt"), *read("adversarial.txt")] if not case.is_right]
    pairs = [(case.gold, case.answer) for case in wrong if case.text == box(case.answer)]
    found = keys([text for pair in pairs for text in pair])
    same = [pair for pair, mine, other in zip(pairs, found[::2], found[1::2], strict=True) if mine == other]
    assert same == [("x=5", "y=5")] * 2  # names are dropped, so that `x=5` and `5` are the same


def test_known_keys(keys):
    assert keys(["50%", r"\sqrt{9}", "2,1", r"12 \text{ cm}", "x>2", "Yes", r"\sqrt{8}"]) == [
        "1/2", "3", "{1,2}", "12 centimeter", "(2,oo)", "yes", "2.8284271247461900976",
    ]  # fmt: skip


def test_keys_of_completions(item, rule):
    texts = [
        "The answer is 0.5.",
        r"\boxed{1}, \boxed{2}",
        "no idea",
        "<think>7</think>",
        r"\boxed{1}\boxed{1.0}",
    ]
    assert rule.key([item(text) for text in texts]) == ["1/2", "{1,2}", None, None, "1"]
    assert rule.key([item("".join(rf"\boxed{{{i}}}" for i in range(9)))]) == [None]
    assert rule.key([]) == []


def test_the_grader_gives_the_same_keys(item, rule):
    grader = MathAnswer(deadline_s=10.0)
    texts = [r"\boxed{\sqrt{8}}", r"\boxed{x^2-1}", "The answer is 50%.", r"\boxed{(1,\sqrt{4})}", "nothing"]
    items = [item(text, "3") for text in texts]
    assert [grade.answer_key for grade in grader.grade(items)] == rule.key(items)
    grader.close()


def test_an_answer_over_the_limits_keeps_its_spelling(item):
    rule = MathKey(deadline_s=0.2)
    assert rule.key([item(r"\boxed{2^{9999^{99}} + 1}")]) == ["2^{9999^{99}}+1"]
    assert rule.key([item(r"\boxed{9^{9^{9^9}}}")]) == ["9^{9^{9^9}}"]
    rule.close()


def test_keys_of_numbers_and_texts(item):
    items = [item(text) for text in ("It is 0.5", "1/2", "none", " Paris ", "")]
    assert NumberKey().key(items) == ["1/2", "1/2", None, None, None]
    assert NumberKey(NumericMatch(take="whole")).key(items) == [None, "1/2", None, None, None]
    assert TextKey(ignore_case=True).key(items) == ["it is 0.5", "1/2", "none", "paris", None]


def test_a_rule_can_be_copied_and_says_what_is_wrong(rule):
    assert pickle.loads(pickle.dumps(rule)) == rule
    with pytest.raises(InputError, match="deadline_s=0"):
        MathKey(deadline_s=0)
