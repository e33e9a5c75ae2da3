"""Layouts of preferences: two answers to a prompt, or one answer with a verdict."""

import re
from bisect import bisect_left

from lit_posttrain.data.formats.cells import Cells, as_number
from lit_posttrain.data.formats.messages import as_messages, as_tools, continuation, ending_in_question
from lit_posttrain.data.formats.row_types import BrokenRow, Chat, PreferenceRow, RankedRow, UnpairedRow, shown

BLANKS = re.compile(r"\s+")
TURN = re.compile(r"\n\n(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def explicit(cells: Cells) -> PreferenceRow:
    """`prompt`, `chosen`, `rejected`: texts or messages.

    Where chosen and rejected are whole conversations, the prompt is taken from them and must agree with
    `prompt`: be its beginning, or the last question as a text.
    """
    asked = as_messages(cells, "prompt", "user")
    chosen, rejected = _answers(cells)
    if chosen[0]["role"] == "assistant" and rejected[0]["role"] == "assistant":
        return _row(cells, asked, chosen, rejected)
    prompt, chosen, rejected = split_chats(chosen, rejected)
    if asked not in (prompt, prompt[-1:]):
        column = cells.column("prompt")
        raise BrokenRow(f"{column} is not what the conversations of chosen and rejected begin with")
    return _row(cells, prompt, chosen, rejected)


def implicit(cells: Cells) -> PreferenceRow:
    """`chosen`, `rejected`: whole conversations, or texts that begin alike; the prompt is what they share."""
    left, right = cells.said("chosen"), cells.said("rejected")
    if isinstance(left, str) and isinstance(right, str):
        prompt, chosen, rejected = split_texts(cells.text("chosen"), cells.text("rejected"))
        asked = [{"role": "user", "content": prompt}]
        return _row(cells, asked, _said(chosen), _said(rejected))
    return _row(cells, *split_chats(*_answers(cells)))


def dialogues(cells: Cells) -> PreferenceRow:
    r"""`chosen`, `rejected`: texts of turns that begin with "\n\nHuman:" and "\n\nAssistant:".

    The prompt is the turns that both share, so that it is the same whatever the answers begin with.

    Source: Bai et al. 2022, arXiv:2204.05862.
    """
    chosen, rejected = (_turns(cells.text(name), cells.column(name)) for name in ("chosen", "rejected"))
    return _row(cells, *split_chats(chosen, rejected))


def _turns(text: str, column: str) -> Chat:
    before, *parts = TURN.split(text)
    if before.strip() or not parts:
        raise BrokenRow(
            f"{column} must begin with 'Human:' behind a blank line, but begins with {shown(text[:40])}"
        )
    speakers, said = parts[::2], parts[1::2]
    pairs = zip(speakers, said, strict=True)
    return [{"role": SPEAKERS[speaker], "content": content.strip()} for speaker, content in pairs]


def unpaired(cells: Cells) -> UnpairedRow:
    """`prompt`, `completion`, `label`: whether the completion is wanted."""
    asked = ending_in_question(as_messages(cells, "prompt", "user"))
    answer = as_messages(cells, "completion", "assistant")
    answer = continuation(asked, answer, cells.column("completion"))
    return UnpairedRow(asked, answer, cells.flag("label"), as_tools(cells))


def ranked(cells: Cells) -> RankedRow:
    """`prompt`, `completions`: texts or lists of messages, and `scores`: a number for each, higher is better."""
    asked = ending_in_question(as_messages(cells, "prompt", "user"))
    answers, column = cells.list("completions"), cells.column("completions")
    scores = [as_number(score, f"score {i}") for i, score in enumerate(cells.list("scores"))]
    if len(answers) != len(scores) or len(answers) < 2:
        raise BrokenRow(
            f"there are {len(answers)} completions and {len(scores)} scores; two are needed, and as many of each"
        )
    chats = [
        as_messages(Cells({"completions": answer}, {}), "completions", "assistant") for answer in answers
    ]
    return RankedRow(asked, [continuation(asked, chat, column) for chat in chats], scores, as_tools(cells))


def split_chats(chosen: Chat, rejected: Chat) -> tuple[Chat, Chat, Chat]:
    """The messages that both share from the beginning, and the rest of each.

    Raises:
        BrokenRow: if they share nothing, or one has nothing more to say.
    """
    pairs = zip(chosen, rejected, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    if chosen == rejected:
        raise BrokenRow("chosen and rejected are the same")
    if not shared:
        raise BrokenRow(
            "chosen and rejected share no first message, so there is no prompt; add a column prompt"
        )
    if shared == min(len(chosen), len(rejected)):
        raise BrokenRow("one of chosen and rejected is the beginning of the other, so it answers nothing")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The longest common beginning, cut back to where a word or line begins in both, and the rest of each.

    Blanks before the first word that differs go with the answers, as in " blue"; a line break before it ends
    the prompt. So the three are pieces of the texts, and prompt + answer is the text again.

    Raises:
        BrokenRow: if that leaves no prompt or no answer.
    """
    if chosen == rejected:
        raise BrokenRow("chosen and rejected are the same")
    lengths = range(1, min(len(chosen), len(rejected)) + 1)
    common = chosen[: bisect_left(lengths, True, key=lambda n: chosen[:n] != rejected[:n])]
    for blanks in reversed(list(BLANKS.finditer(common))):
        cut = blanks.start() + blanks[0].rfind("\n") + 1
        if chosen[cut:].strip() and rejected[cut:].strip() and common[:cut].strip():
            return chosen[:cut], chosen[cut:], rejected[cut:]
    raise BrokenRow("chosen and rejected share no first word, so there is no prompt; add a column prompt")


def _row(cells: Cells, prompt: Chat, chosen: Chat, rejected: Chat) -> PreferenceRow:
    ending_in_question(prompt)
    chosen = continuation(prompt, chosen, cells.column("chosen"))
    rejected = continuation(prompt, rejected, cells.column("rejected"))
    if chosen == rejected:
        raise BrokenRow("chosen and rejected are the same")
    return PreferenceRow(prompt, chosen, rejected, _margin(cells), as_tools(cells), _weight(cells))


def _margin(cells: Cells) -> float | None:
    """`margin`, or else the difference of the scores."""
    if cells.has("margin"):
        return cells.number("margin")
    if cells.has("score_chosen") or cells.has("score_rejected"):
        return cells.number("score_chosen") - cells.number("score_rejected")
    return None


def _weight(cells: Cells) -> float:
    weight = cells.number("weight") if cells.has("weight") else 1.0
    if weight <= 0:
        raise BrokenRow(
            f"{cells.column('weight')} must be above 0, but is {weight:g}; leave the row out instead"
        )
    return weight


def _answers(cells: Cells) -> tuple[Chat, Chat]:
    return as_messages(cells, "chosen", "assistant"), as_messages(cells, "rejected", "assistant")


def _said(text: str) -> Chat:
    return [{"role": "assistant", "content": text}]
