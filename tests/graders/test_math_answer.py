import pickle

import pytest

from lit_posttrain.batches import Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders import MathAnswer
from lit_posttrain.graders.extraction import boxed
from lit_posttrain.graders.math_answer import _gold_text as gold_text
from lit_posttrain.graders.verdict_cache import NeedsWorker


def box(text: str) -> str:
    return rf"Thus \boxed{{{text}}}."


@pytest.fixture(scope="module")
def grader():
    made = MathAnswer()
    yield made
    made.close()


HERE = [  # decided without a worker
    ("18", "... so\n#### 18", True),
    ("18", "... so\nA: 18", True),
    ("18", "The answer is $18.", True),
    ("18", "and that makes 18.", True),
    (18, box("18"), True),
    ("1/2", box("0.5"), True),
    (r"\frac{1}{2}", box(r"\dfrac12"), True),
    ("3.5", box(r"3\frac{1}{2}"), True),
    ("1000", box("1,000"), True),
    ("300000000", box(r"3 \times 10^8"), True),
    ("-5", box("\u22125"), True),
    ("50", box(r"50\%"), True),
    ("0.5", box(r"50\%"), True),
    ("50%", box("5000%"), False),
    ("50", box("0.5"), False),
    ("30", box(r"30^\circ"), True),
    ("12", box(r"12\text{ cm}"), True),
    (r"12\text{ cm}", box(r"12\text{ m}"), False),
    (r"12\text{ meters}", box(r"12\text{ m}"), True),
    ("5", box("5.0000000000000001"), False),
    ("0.333333", box("1/3"), True),
    ("1/3", box("0.333333"), False),
    ("A", box("$A$"), True),
    ("A", box(r"\text{(A)}"), True),
    ("A", box("B"), False),
    (r"\text{Evelyn}", box("Evelyn"), True),
    ("Monday", "The answer is monday.", True),
    ("I don't know", box("I don't know"), True),
    ("7", "The answer is not 7, it is 8", False),
    ("8", "The answer is 8, not 7", True),
    ("5", "The answer is 5 or 6", False),
    ("1,2", box("2,1"), True),
    (r"\{1,2\}", box("1, 2"), True),
    ("(1,2)", box("(2,1)"), False),
    ("(1,2)", box("[1,2]"), False),
    ("[0,1)", box(r"\left[0,1\right)"), True),
    (r"x \in [1,2]", box("[1,2]"), True),
    ("2", box("1,2"), False),
    ("x=5", box("5"), True),
    ("5", box("x = 5"), True),
    (r"Worked: \boxed{4}", box("4"), True),
    ("16-9=<<16-9=7>>7\n#### 7", box("7"), True),
]
SYMBOLIC = [
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt 2}", True),
    (r"\frac{\sqrt{2}}{2}", "sqrt(2)/2", True),
    (r"\pi", "3.1415926535", False),
    ("x^2-1", "(x-1)(x+1)", True),
    ("x^2-1", "(x-1)^2", False),
    ("4", "2^2", True),
    ("1024", "2^10", True),
    ("5", "5x", False),
    ("5", "5 x", False),
    ("y=2x+1", "2x+1", True),
    ("x=5", "y=5", False),
    ("2<x", "x>2", True),
    (r"(1,\sqrt{2})", r"(1,\frac{2}{\sqrt{2}})", True),
    (r"1,\sqrt{2}", r"\frac{2}{\sqrt{2}},1", True),
    (r"3\pm\sqrt{2}", r"3+\sqrt2, 3-\sqrt2", True),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty, 2) \cup (3, \infty)", True),
    ("n(n+1)/2", r"\frac{n^2+n}{2}", True),
    (r"\log_2 8", "3", True),
    ("1+2i", "2i+1", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}", False),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}2-1&2\\3&4\end{pmatrix}", True),
]


@pytest.mark.parametrize(("gold", "text", "is_right"), HERE)
def test_exact_answers_need_no_worker(grader, gold, text, is_right):
    found = grader._grade_here(gold_text(gold), text)
    assert found.correct is is_right
    assert found.reward == float(is_right)


@pytest.mark.parametrize(("gold", "answer", "is_right"), SYMBOLIC)
def test_symbolic_answers(grade, grader, gold, answer, is_right):
    assert grade(grader, box(answer), gold).correct is is_right


@pytest.mark.parametrize(
    "form", ["7", "1/2", r"\sqrt{2}", "x^2+1", "(1,2)", "[0,1)", r"\{1,2\}", "yes", "C", "y=2x"]
)
def test_every_form_equals_itself(grade, grader, form):
    assert grade(grader, box(form), form).correct is True


def test_several_boxes_are_right_only_together(grade, grader):
    assert grade(grader, box("5") + box("6"), "6").correct is False
    assert grade(grader, box("6") + box("5"), "6").correct is False
    assert grade(grader, box("1/2") + box("0.5"), "0.5").correct is True
    assert grade(grader, box("1") + box("2"), "1,2").correct is True
    assert "9 different" in grade(grader, "".join(box(str(i)) for i in range(9)), "8").note


def test_only_what_follows_the_thought_counts(grade, grader):
    assert grade(grader, f"<think>{box('2')}</think> {box('3')}", "3").correct is True
    assert grade(grader, f"<think>{box('3')}</think> I do not know", "3").verdict is Verdict.NO_ANSWER
    assert grade(grader, f"<think>{box('3')}", "3").correct is True


def test_boxes_are_found_by_their_braces():
    assert boxed(r"\boxed{\frac{1}{2}} and \boxed{7") == [r"\frac{1}{2}"]
    assert boxed(r"\boxed{\{1,2\}} \fbox{b} \boxed {c}") == [r"\{1,2\}", "b", "c"]
    assert boxed(r"\boxed{a \boxed{b}} \boxed{\boxed{c}") == [r"a \boxed{b}", "c"]
    assert boxed("} no {") == []


def test_what_the_gold_answer_causes_is_not_the_models_fault(grade, grader):
    for gold in ("", None, ["7"], True, "1/0", r"\frac{", "9^{9^{9^9}}", "__import__('os')"):
        found = grade(grader, box("5"), gold)
        assert (found.reward, found.correct, found.verdict) == (None, None, Verdict.GOLD_UNPARSEABLE), gold


def test_what_the_text_causes_is_wrong(grade, grader):
    assert grade(grader, "I do not know", "5").verdict is Verdict.NO_ANSWER
    assert grade(grader, "", "5").verdict is Verdict.NO_ANSWER
    assert grade(grader, box(r"\frac{"), "x").verdict is Verdict.NO_ANSWER  # the box is not balanced
    assert grade(grader, box(r"\frac{}{}+"), "x").reward == 0.0


def test_answer_keys_are_equal_for_equal_answers(grade, grader):
    def key(text: str) -> str | None:
        return grade(grader, text, "7").answer_key

    assert key(box("0.5")) == key("The answer is 1/2") == "1/2"
    assert key(box("2, 1")) == key(box("1,2"))
    assert key(box("(2,1)")) != key(box("(1,2)"))
    assert key(box(r"\text{Yes}")) == key(box("yes")) == "yes"


def test_verdicts_are_remembered(grade, grader):
    grade(grader, box("(a+b)^2"), "a^2+2ab+b^2")
    assert grader.judge.verdicts.known("a^2+2ab+b^2", "(a+b)^2") is Verdict.CORRECT
    with pytest.raises(NeedsWorker):
        grader.judge.verdicts.known("a", "b")


def test_a_grader_can_be_copied(grader):
    assert pickle.loads(pickle.dumps(grader)) == grader


def test_configuration_errors():
    with pytest.raises(InputError, match="workers=0"):
        MathAnswer(workers=0)
