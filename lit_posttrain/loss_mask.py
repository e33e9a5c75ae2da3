"""Which tokens the loss speaks of, and how much each counts: a conversation, cut into pieces with a weight each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from lit_posttrain.chat_template import Messages, Tools, is_empty
from lit_posttrain.errors import InputError
from lit_posttrain.turns import Turn, TurnFinder, check_prefix

What = Literal["completion", "assistant", "all", "text"]
Markers = Literal["auto", "require", "ignore"]
ANSWERS_ONLY = {"completion": {"assistant"}, "assistant": {"assistant"}, "text": set()}


@dataclass(frozen=True)
class LossOn:
    """Which tokens the loss speaks of, and how much each counts.

    Args:
        what: `completion`: the last message, which must be the assistant's, and its end token. `assistant`:
            every assistant message, each with its end token, never its header. `all`: everything that the
            template writes but the first token. `text`: the contents one after the other without any template,
            as base models want them, but the first token.
        role_weights: Factor on the tokens of a role; 1 for those not named, 0 leaves a role out.
        markers: For `assistant`, where its turns are read off. `auto`: from the template's `{% generation %}`
            markers where it has them, otherwise by rendering the conversation turn by turn. `require`: an
            error without markers. `ignore`: always turn by turn.

    Raises:
        InputError: if a setting is not known, a weight is negative or not finite, or names a role that does
            not count.
    """

    what: What = "completion"
    role_weights: dict[str, float] = field(default_factory=dict)
    markers: Markers = "auto"

    def __post_init__(self) -> None:
        for name, known in (("what", What), ("markers", Markers)):
            if (value := getattr(self, name)) not in known.__args__:
                raise InputError(f"loss.{name} must be one of {', '.join(known.__args__)}; got {value!r}")
        idle = sorted(set(self.role_weights) - ANSWERS_ONLY.get(self.what, set(self.role_weights)))
        if idle:
            raise InputError(
                f"loss.role_weights names {', '.join(idle)}, whose tokens have no weight of their own under "
                f"loss.what {self.what!r}; remove it, or set loss.what to 'all'"
            )
        for role, weight in self.role_weights.items():
            _check_weight(weight, f"loss.role_weights of {role}")

    def weights(self, messages: Messages, row_weights: Sequence[float | None] | None = None) -> list[float]:
        """The factor of each message: its role's, its own `weight` and the row's, multiplied.

        Raises:
            InputError: if a weight is negative or not finite, or there is not one for each message.
        """
        given = [None] * len(messages) if row_weights is None else row_weights
        if len(given) != len(messages):
            raise InputError(f"{len(given)} message weights for {len(messages)} messages; give one for each")
        weights = []
        for number, (message, factor) in enumerate(zip(messages, given, strict=True)):
            weight = self.role_weights.get(str(message.get("role")), 1.0)
            for one in (factor, message.get("weight")):
                if one is not None:
                    weight *= _check_weight(one, f"the weight of message {number}")
            weights.append(float(weight))
        return weights


@dataclass(frozen=True)
class TokenizedExample:
    """One text as token ids.

    `mask` is true on the tokens that the objective speaks of. `scale` is a factor on each token's weight in the
    loss, 0 where the mask is false; None means 1 for every token under the mask.
    """

    ids: list[int]
    mask: list[bool]
    scale: list[float] | None = None

    @property
    def answer_tokens(self) -> int:
        """How many tokens the objective speaks of."""
        return sum(self.mask)


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation that is tokenised apart from what stands before it.

    `weight` is 0 for context. `answer` says that it ends in an end token, whose text is `end` if the template
    wrote it.
    """

    text: str
    weight: float = 0.0
    answer: bool = False
    end: str = ""


def pieces(
    messages: Messages, tools: Tools | None, loss: LossOn, weights: Sequence[float], finder: TurnFinder
) -> list[Piece]:
    """A conversation in pieces; the blanks that a template writes behind a last answer are left out.

    Raises:
        InputError: if nothing counts, an answer that counts is empty, or `finder` finds none.
    """
    answers = _answers(messages, loss, weights)
    if loss.what == "all":
        return _everything(messages, tools, weights, finder)
    if loss.what == "assistant" and loss.markers == "require" and not finder.template.has_markers:
        raise InputError(
            "loss.markers is 'require', but the chat template has no {% generation %} markers; put the "
            "assistant's part between {% generation %} and {% endgeneration %} in template, or set "
            "loss.markers to 'auto', which renders the conversation turn by turn"
        )
    marked = loss.what == "assistant" and loss.markers != "ignore" and finder.template.has_markers
    whole, turns = (finder.by_markers if marked else finder.turn_by_turn)(messages, tools, answers)
    parts, at = [], 0
    for turn in turns:
        parts += [Piece(whole[at : turn.start]), _answer(turn, weights)]
        at = turn.stop
    return parts if answers[-1] == len(messages) - 1 else [*parts, Piece(whole[at:])]


def _answers(messages: Messages, loss: LossOn, weights: Sequence[float]) -> list[int]:
    """The assistant messages that count, none of them empty."""
    roles = [message.get("role") for message in messages]
    if loss.what == "completion" and roles[-1:] != ["assistant"]:
        raise InputError(f"the last message must be the assistant's answer, but the roles are {roles}")
    numbers = range(len(roles))[-1:] if loss.what == "completion" else range(len(roles))
    counted = [i for i in numbers if weights[i] > 0 and (loss.what == "all" or roles[i] == "assistant")]
    if not counted:
        raise InputError(
            f"no token counts: under loss.what {loss.what!r} the roles {roles} with the weights {list(weights)} "
            "give an empty mask; remove the row, or change loss.what or the weights"
        )
    answers = [i for i in counted if roles[i] == "assistant"]
    for number in answers:
        if is_empty(messages[number]):
            raise InputError(f"the answer in message {number} is empty; remove the row, or give it weight 0")
    return answers


def _answer(turn: Turn, weights: Sequence[float]) -> Piece:
    return Piece(turn.text, weights[turn.message], True, turn.end)


def _everything(
    messages: Messages, tools: Tools | None, weights: Sequence[float], finder: TurnFinder
) -> list[Piece]:
    """The whole text, cut where the weight changes and where the last answer begins."""
    last = len(messages) - 1
    ends_in_answer = messages[last].get("role") == "assistant" and not is_empty(messages[last])
    whole, turns = finder.turn_by_turn(messages, tools, [last] if ends_in_answer else [])
    cuts = {0: weights[0]}
    for number in range(1, len(messages)):
        if weights[number] != weights[number - 1]:
            before = finder.template.render(messages[:number], tools)
            check_prefix(before, whole)
            cuts[len(before)] = weights[number]
    stop = turns[0].start if turns else len(whole)
    places = [*sorted(place for place in cuts if place < stop), stop]
    parts = [Piece(whole[a:b], cuts[a]) for a, b in pairwise(places)]
    return [*parts, *(_answer(turn, weights) for turn in turns)]


def spread(parts: Sequence[tuple[Sequence[int], float]], *, skip_first: bool) -> TokenizedExample:
    """One example from the ids and the weight of each part; with `skip_first` the first token never counts."""
    ids: list[int] = []
    scale: list[float] = []
    for part, weight in parts:
        ids += part
        scale += [weight] * len(part)
    if skip_first:
        scale[:1] = [0.0]
    return TokenizedExample(ids, list(map(bool, scale)), None if set(scale) <= {0.0, 1.0} else scale)


def one_weight(weights: Sequence[float]) -> float:
    """The weight that all messages share.

    Raises:
        InputError: if they differ.
    """
    if len(set(weights)) != 1:
        raise InputError(
            f"under loss.what 'text' all messages weigh the same, but the weights are {list(weights)}; "
            "set loss.what to 'all'"
        )
    return weights[0]


def _check_weight(weight: float, name: str) -> float:
    if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
        raise InputError(f"{name} must be a finite number of at least 0; got {weight!r}")
    return weight
