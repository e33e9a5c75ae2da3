"""The answers in a rendered conversation: where each begins and where it ends, by markers or turn by turn."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_posttrain.chat_template import ChatTemplate, Messages, Tools, check_tools, check_written
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class Turn:
    """An answer in a rendered conversation: `text` from `start`, up to and with its end token.

    `end` is that token's text, empty where the template wrote none behind a last answer.
    """

    message: int
    start: int
    text: str
    end: str

    @property
    def stop(self) -> int:
        """Where what follows begins."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class TurnFinder:
    """Finds what sampling would have produced in a rendered conversation.

    Args:
        template: What renders.
        ends: The texts of the special tokens that end an answer.
    """

    template: ChatTemplate
    ends: tuple[str, ...]

    def turn_by_turn(
        self, messages: Messages, tools: Tools | None, answers: Sequence[int]
    ) -> tuple[str, list[Turn]]:
        """The whole text, and the turns of the messages `answers`: what rendering adds to each one's prompt.

        Raises:
            InputError: if the template writes a prompt or an answer differently once more follows, ends an
                earlier answer with no token, or leaves out what a message says.
        """
        whole, turns = self.template.render(messages, tools), []
        for number in answers:
            prompt = self.template.render(messages[:number], tools, answer_next=True)
            last = number == len(messages) - 1
            so_far = whole if last else self.template.render(messages[: number + 1], tools)
            check_prefix(prompt, so_far)
            text, end = self._closed(so_far[len(prompt) :], last=last)
            if not last and not (whole.startswith(prompt) and whole.startswith(text, len(prompt))):
                raise InputError(_rewritten(number, so_far, whole))
            turns.append(Turn(number, len(prompt), text, end))
        return self._checked(messages, tools, whole, turns)

    def by_markers(
        self, messages: Messages, tools: Tools | None, answers: Sequence[int]
    ) -> tuple[str, list[Turn]]:
        """The same by the template's generation markers.

        The end token behind a marked part belongs to the turn, a header at its beginning does not. The last
        turn must follow its prompt as `turn_by_turn` demands; of earlier ones the markers are believed.

        Raises:
            InputError: also if the markers do not give each assistant message one answer.
        """
        whole, spans = self.template.marked(messages, tools)
        assistants = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        if len(spans) != len(assistants) or any(start >= stop for start, stop in spans):
            raise InputError(
                f"the generation markers of the chat template give {sum(a < b for a, b in spans)} answers for "
                f"{len(assistants)} assistant messages; repair template, or set loss.markers to 'ignore'"
            )
        prompt = self.template.render(messages[: answers[-1]], tools, answer_next=True)
        check_prefix(prompt, whole)
        turns = []
        for number, (start, stop) in zip(assistants, spans, strict=True):
            if number not in answers:
                continue
            begin = max(start, len(prompt)) if number == answers[-1] else self._behind_header(whole, start)
            last = number == len(messages) - 1
            stop = len(whole) if last else self._with_end(whole, begin, stop)
            turns.append(Turn(number, begin, *self._closed(whole[begin:stop], last=last)))
        return self._checked(messages, tools, whole, turns)

    def _behind_header(self, whole: str, start: int) -> int:
        header = self.template.header
        found = whole.find(header, max(start - len(header), 0), start + len(header)) if header else -1
        return start if found < 0 else max(start, found + len(header))

    def _with_end(self, whole: str, start: int, stop: int) -> int:
        """Where a marked turn stops: behind the end token that follows it, if none stands in it."""
        if any(end in whole[start:stop] for end in self.ends):
            return stop
        follows = re.compile(r"\s*(?:" + "|".join(map(re.escape, self.ends)) + ")").match(whole, stop)
        return follows.end() if follows else stop

    def _closed(self, text: str, *, last: bool) -> tuple[str, str]:
        """An answer up to and with its end token, and that token's text; behind it only blanks may stand."""
        found = [(at, end) for end in self.ends if (at := text.find(end)) >= 0]
        if not found and last:
            return text, ""
        if not found:
            raise InputError(
                f"the chat template writes no end token after the earlier answer {text[:60]!r}, so a model that "
                "learns it would not learn to stop there; set loss.what to 'completion', or set template to one that "
                "ends each answer with a token that the tokenizer or the generation config names as an end"
            )
        at, end = min(found)
        rest = text[at + len(end) :]
        for one in self.ends if last else ():  # of an answer that brings its own end
            rest = rest.replace(one, "")
        if rest.strip():
            raise InputError(
                f"the answer {text[:80]!r} holds the end token {end!r} before its end; remove it from the data"
            )
        return text[: at + len(end)], end

    @staticmethod
    def _checked(
        messages: Messages, tools: Tools | None, whole: str, turns: list[Turn]
    ) -> tuple[str, list[Turn]]:
        """The same, once each message is seen to be written: a turn that counts with its reasoning."""
        check_tools(tools, whole)
        texts = {turn.message: turn.text for turn in turns}
        for number, message in enumerate(messages):
            check_written(message, texts.get(number, whole), fully=number in texts)
        return whole, turns


def check_prefix(prompt: str, whole: str) -> None:
    """That a text goes on from `prompt`.

    Raises:
        InputError: with the place where it does not.
    """
    if whole.startswith(prompt):
        return
    at = _first_difference(prompt, whole)
    context = slice(max(at - 20, 0), at + 40)
    raise InputError(
        "the chat template writes the prompt differently once the answer is there, so it is "
        f"ambiguous what the mask covers: {prompt[context]!r} became {whole[context]!r}; "
        "set template to one whose prompt is a prefix of the whole"
    )


def _rewritten(number: int, before: str, after: str) -> str:
    at = _first_difference(before, after)
    context = slice(max(at - 20, 0), at + 40)
    return (
        f"the chat template rewrites the conversation up to message {number} once later messages follow, as templates "
        f"do that strip earlier reasoning: {before[context]!r} became {after[context]!r}; no one sequence holds "
        "every turn as it would be sampled, so set loss.what to 'completion' (the last answer alone; a row for each "
        "turn learns them all), or set template to one that keeps earlier turns"
    )


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
