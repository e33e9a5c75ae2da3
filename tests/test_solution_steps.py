"""Solutions in steps: the same cut and the same tokens in training and in use."""

import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.solution_steps import StepFormat, StepReader, reader_of
from lit_posttrain.text import TextConfig, load_text

TEXT = load_text(TextConfig(characters="0123456789+=;\n "))
ASKED = [{"role": "user", "content": "1+2+3="}]


def test_a_text_is_cut_at_the_separator_and_joined_with_it():
    steps = StepFormat("\n")
    assert steps.split("1+2=3\n\n  3+3=6\n") == ["1+2=3", "3+3=6"]
    assert steps.join(["1+2=3", "3+3=6"]) == "1+2=3\n3+3=6\n"
    assert steps.split(" \n ") == []
    assert steps.split("6") == ["6"]


def test_a_text_is_cut_at_an_expression():
    steps = StepFormat("\n", split_at=r"\n(?=Step \d+:)")
    assert steps.split("Step 1: a\nb\nStep 2: c") == ["Step 1: a\nb", "Step 2: c"]
    assert steps.holds("x\nStep 2: y")
    assert not steps.holds("x\ny")


def test_a_dot_as_separator_is_a_dot():
    assert StepFormat(".").split("ab.c") == ["ab", "c"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"separator": ""}, "need a separator"),
        ({"split_at": "("}, "no regular expression"),
        ({"split_at": "x*"}, "matches the empty text"),
        ({"split_at": "(a)b"}, r"has groups; write \(\?:"),
    ],
)
def test_a_format_that_cannot_cut(settings, message):
    with pytest.raises(InputError, match=message):
        StepFormat(**settings)


def test_labels_belong_to_steps():
    steps = StepFormat(";")
    assert steps.labelled("1+2;3", [1.0, 0.0]) == ["1+2", "3"]
    with pytest.raises(InputError, match="no step separator ';' was found in '1=1', which has 2 labels"):
        steps.labelled("1=1", [1.0, 0.0])
    with pytest.raises(InputError, match=r"has 2 steps .* but 3 labels"):
        steps.labelled("1+2;3", [1.0, 0.0, 1.0])
    with pytest.raises(
        InputError, match=r"no step separator '\\n\\n' was found"
    ):  # as it is set, not escaped
        StepFormat("\n\n").labelled("1=1", [1.0, 0.0])


def test_a_step_ends_in_the_last_token_of_its_separator():
    solution = StepReader(TEXT, StepFormat("; "))(ASKED, ["1+2=3", "3+3=6"])
    prompt = TEXT.prompt_ids(ASKED)
    assert solution.prompt_tokens == len(prompt) == 6
    assert solution.ids[:6] == prompt
    assert TEXT.decode(solution.ids[6:]) == "1+2=3; 3+3=6; "
    assert solution.ends == [6 + 6, 6 + 13]  # the blank behind each ;
    assert [TEXT.decode([solution.ids[end]]) for end in solution.ends] == [" ", " "]


def test_the_ids_of_first_steps_are_the_beginning_of_the_ids_of_all():
    read = StepReader(TEXT, StepFormat("\n"))
    steps = ["1+2=3", "3+3=6", "6"]
    whole = read(ASKED, steps)
    for count in (1, 2, 3):
        part = read(ASKED, steps[:count])
        assert part.ids == whole.ids[: len(part.ids)]
        assert part.ends == whole.ends[:count]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "without steps"),
        (["1", " "], "step 1 is empty"),
        (["1", "2<eos>3"], "step 1, .* holds an end token"),
    ],
)
def test_solutions_that_cannot_be_read(steps, message):
    with pytest.raises(InputError, match=message):
        StepReader(TEXT, StepFormat("\n"))(ASKED, steps)


def test_the_format_travels_with_a_folder(tmp_path):
    steps = StepFormat("\n\n", split_at=r"\n+")
    steps.save(tmp_path)
    assert StepFormat.load(tmp_path) == steps
    with pytest.raises(InputError, match=r"no step separator found in .*nowhere"):
        StepFormat.load(tmp_path / "nowhere")
    (tmp_path / "steps.json").write_text("[1]")
    with pytest.raises(InputError, match="no step separator found"):
        StepFormat.load(tmp_path)


def test_a_reader_is_made_once():
    assert reader_of(TEXT, StepFormat("\n")) is reader_of(TEXT, StepFormat("\n"))
