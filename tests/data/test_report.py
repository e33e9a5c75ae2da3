"""Length report and the policies for what does not fit."""

from typing import Literal

import pytest

from lit_posttrain.batches import Problem
from lit_posttrain.data.report import check_lengths, fit_to_length, quantiles, report
from lit_posttrain.errors import InputError
from lit_posttrain.text import TokenizedExample


def example(prompt: int, answer: int) -> TokenizedExample:
    return TokenizedExample(list(range(prompt + answer)), [False] * prompt + [True] * answer)


EXAMPLES = [example(2, 1), example(2, 4), example(3, 7)]  # 3, 6 and 10 tokens


def test_without_a_limit_everything_is_kept() -> None:
    kept, told = fit_to_length(EXAMPLES, 0, "error", name="train")
    assert kept == EXAMPLES
    assert (told.rows, told.kept, told.tokens, told.answer_tokens, told.too_long) == (3, 3, 19, 12, 0)
    assert told.lengths == {"min": 3, "p50": 6, "p90": 10, "p99": 10, "max": 10}


def test_a_row_of_exactly_the_limit_fits() -> None:
    assert fit_to_length(EXAMPLES, 10, "error")[1].too_long == 0


def test_error_says_how_many_where_and_what_to_do() -> None:
    with pytest.raises(
        InputError, match=r"2 of 3 rows of 'train' .* 5 tokens; .*row 2 with 10.*'skip' or 'cut'"
    ):
        fit_to_length(EXAMPLES, 5, "error", name="train")


def test_skip_leaves_out_and_counts() -> None:
    kept, told = fit_to_length(EXAMPLES, 6, "skip")
    assert kept == EXAMPLES[:2]
    assert (told.rows, told.kept, told.tokens, told.answer_tokens, told.too_long) == (3, 2, 9, 5, 1)
    assert told.lengths["max"] == 10
    with pytest.raises(InputError, match="all 3 rows"):
        fit_to_length(EXAMPLES, 2, "skip")


def test_cut_keeps_the_beginning_and_counts() -> None:
    kept, told = fit_to_length(EXAMPLES, 5, "cut")
    assert [len(e.ids) for e in kept] == [3, 5, 5]
    assert kept[2] == TokenizedExample([0, 1, 2, 3, 4], [False, False, False, True, True])
    assert (told.rows, told.kept, told.tokens, told.answer_tokens, told.too_long) == (3, 3, 13, 6, 2)


def test_cut_never_empties_an_answer() -> None:
    with pytest.raises(InputError, match=r"cutting row 2 .* to 3 leaves nothing of its answer"):
        fit_to_length(EXAMPLES, 3, "cut")


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="there is no policy 'drop'"):
        fit_to_length(EXAMPLES, 3, "drop")  # type: ignore[arg-type]


PROBLEMS = tuple(Problem(({"role": "user", "content": "x" * n},), "", str(n)) for n in (1, 4, 2))


def tokens(problem: Problem) -> list[int]:
    return [0] * len(problem.messages[0]["content"])


def test_prompts_that_fit_come_back_as_they_are() -> None:
    kept, told = check_lengths(PROBLEMS, tokens, 4, "error")
    assert kept is PROBLEMS
    assert (told.rows, told.kept, told.tokens, told.answer_tokens) == (3, 3, 7, 0)


def test_long_prompts_are_skipped_or_refused_never_cut() -> None:
    kept, told = check_lengths(PROBLEMS, tokens, 3, "skip")
    assert [problem.uid for problem in kept] == ["1", "2"]
    assert (told.kept, told.tokens, told.too_long) == (2, 3, 1)
    refused: list[Literal["error", "cut"]] = ["error", "cut"]
    for policy in refused:
        with pytest.raises(InputError, match="1 of 3 rows" if policy == "error" else "cannot be cut"):
            check_lengths(PROBLEMS, tokens, 3, policy)


def test_quantiles_by_nearest_rank() -> None:
    assert quantiles(range(1, 101)) == {"min": 1, "p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert quantiles([7]) == dict.fromkeys(["min", "p50", "p90", "p99", "max"], 7)
    assert quantiles([]) == {}


def test_the_report_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    told = fit_to_length(EXAMPLES, 6, "skip", name="train")[1]
    report(told)
    assert capsys.readouterr().out == (
        "train: 3 rows, 2 kept, 9 tokens, 5 of them answers\n"
        "  length in tokens: min 3, p50 6, p90 10, p99 10, max 10; 1 over 6 (skip)\n"
    )
