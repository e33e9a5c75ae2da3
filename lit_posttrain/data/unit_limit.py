"""What becomes of units of which a sequence is too long: an error, left out, or cut at a named end."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from lit_posttrain.data.report import LengthLimit
from lit_posttrain.data.units import Member, Unit

TooLong = Literal["error", "skip", "cut_prompt", "cut_completion", "cut_both"]


@dataclass(frozen=True)
class UnitLimit(LengthLimit):
    """The longest sequence allowed, and what becomes of units with longer ones.

    `skip` leaves them out. `cut_prompt` takes the beginning of the prompt away, the same of all sequences of the
    unit, `cut_completion` the end of the completions that are too long; where nothing of the prompt or a
    completion would be left, the unit is left out. `cut_both` does both: completions keep what half of the limit,
    or a shorter prompt, leaves room for; then the beginning of the prompt goes. A cut completion has no end token.
    Units that are the same on all sides once they are cut, or have no label left, are left out too.

    Args:
        max_tokens: 0 means no limit.
        policy: `error`, `skip`, `cut_prompt`, `cut_completion` or `cut_both`.
        name: What messages call the data.
        bos: The token that stays at the beginning of a prompt that is cut.
    """

    policies: ClassVar[tuple[str, ...]] = get_args(TooLong)

    bos: int | None = None

    def fitted_unit(self, unit: Unit) -> Unit | None:
        """The unit as it is kept, None where it is left out; under `error` it is kept until `check`."""
        longest = max(map(len, unit))
        if not self.max_tokens or longest <= self.max_tokens or self.policy == "error":
            return unit
        if self.policy == "skip":
            return None
        cut = [self._cut(member, unit) for member in unit]
        kept = [member for member in cut if member is not None]
        return kept if len(kept) == len(unit) and _teaches(kept, unit) else None

    def _cut(self, member: Member, unit: Unit) -> Member | None:
        prompt, completion = member.prompt_tokens, len(member) - member.prompt_tokens
        if self.policy == "cut_both":
            completion = min(completion, self.max_tokens - min(prompt, self.max_tokens // 2))
        if self.policy == "cut_completion":
            completion = min(completion, self.max_tokens - prompt)
        else:
            prompt = min(prompt, self.max_tokens - self._longest(unit))
        return member.cut(prompt, completion, self.bos) if min(prompt, completion) > 0 else None

    def _longest(self, unit: Unit) -> int:
        """Tokens of the longest completion of a unit, once completions are cut."""
        sizes = [len(member) - member.prompt_tokens for member in unit]
        if self.policy == "cut_prompt":
            return max(sizes)
        prompts = [min(member.prompt_tokens, self.max_tokens // 2) for member in unit]
        return max(min(size, self.max_tokens - p) for size, p in zip(sizes, prompts, strict=True))


def _teaches(cut: Unit, whole: Unit) -> bool:
    """Whether every sequence still has what counts, a label where it had some, and sides that differed still do."""
    counts = all(c.mask.any() and (c.labels or not w.labels) for c, w in zip(cut, whole, strict=True))
    return counts and len({member.ids.tobytes() for member in cut}) == len(cut)
