"""Text to token ids and back, exactly: what a tokenizer does not know is an error, and no blank is added."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerFast

from lit_posttrain.errors import InputError

RARE = (
    "\u16a0",
    "\u13a0",
)  # a rune and a Cherokee letter, to see what happens to characters that were never met
ANCHORS = ("\n", "a", "=")
WRAPPERS = ("__call__", "_encode_plus", "set_truncation_and_padding")


class Encoder:
    """The spelling of texts in a tokenizer's vocabulary, added tokens included, without a BOS or EOS of its own.

    Args:
        tokenizer: A transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        anchors = {anchor: self.raw_ids(anchor) for anchor in self._find_anchors()}
        self._anchor, self._anchor_ids = next(iter(anchors.items()))
        rare, other = (self._spelled(character) for character in RARE)
        self._drops = not rare
        self._unknown = self._find_unknown(rare if rare == other else [])
        self._anchors = {a: ids for a, ids in anchors.items() if self._unknown not in ids} or anchors
        self._anchor, self._anchor_ids = next(iter(self._anchors.items()))
        self._known: dict[str, bool] = {}

    def ids(self, text: str) -> list[int]:
        """The ids of `text`.

        Raises:
            InputError: for a NUL byte, half of a surrogate pair, or characters outside of the vocabulary.
        """
        if "\0" in text:
            at = text.index("\0")
            raise InputError(
                f"NUL byte at character {at} of a text, after {text[max(at - 40, 0) : at]!r}; clean the data"
            )
        ids = self.raw_ids(text)
        if self._drops or (self._unknown is not None and self._unknown in ids):
            self._check_known(text, certain=not self._drops)
        return ids

    def continuation(self, text: str) -> list[int]:
        """The ids of text that goes on from other text, without the blank that some tokenizers put before one.

        Raises:
            InputError: as `ids`.
        """
        for anchor, start in self._anchors.items():
            ids = self.ids(anchor + text)
            if ids[: len(start)] == start:
                return ids[len(start) :]
        raise InputError(f"the tokenizer merges the beginning of {text[:40]!r} with whatever precedes it")

    def text(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens and all."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def continued(self, ids: Sequence[int]) -> str:
        """The text of `ids` that go on from others."""
        return self.text([*self._anchor_ids, *ids])[len(self._anchor) :]

    def raw_ids(self, text: str) -> list[int]:
        """The ids of `text` with the unknown token, or nothing, for what is not in the vocabulary.

        Raises:
            InputError: if the tokenizer itself fails.
        """
        try:
            if not self._is_bare or self.tokenizer.split_special_tokens:
                return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            core = self.tokenizer.backend_tokenizer
            if core.padding is not None or core.truncation is not None:  # left behind by somebody's call
                core.no_padding()
                core.no_truncation()
            return core.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except Exception as error:  # tokenizers raises nothing narrower
            raise InputError(f"the tokenizer cannot read {text[:60]!r} ({error}); clean the data") from error

    @cached_property
    def _is_bare(self) -> bool:
        """Whether the Python around the tokenizer adds nothing but time, and its core may be asked directly."""
        kind = type(self.tokenizer)
        return isinstance(self.tokenizer, PreTrainedTokenizerFast) and all(
            getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in WRAPPERS
        )

    def _find_unknown(self, rare: list[int]) -> int | None:
        """The id of what is not in the vocabulary, which `rare` may hold though the tokenizer does not name it.

        None where another special token serves as it.
        """
        found = rare[0] if rare else self.tokenizer.unk_token_id
        others = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id)
        return None if found in others else found

    def _check_known(self, text: str, *, certain: bool) -> None:
        """Names what `text` holds outside of the vocabulary; `certain` says that there is something."""
        spelled = text
        for token in self.tokenizer.added_tokens_decoder.values():
            spelled = spelled.replace(token.content, "")
        names = ", ".join(repr(c) for c in sorted(set(spelled)) if not self._knows(c))
        if names or certain:
            raise InputError(
                f"the tokenizer does not know {names or 'a part'} of the text {text[:60]!r}; extend its alphabet, "
                "clean the data, or use the tokenizer of the network"
            )

    def _knows(self, character: str) -> bool:
        """Whether a character has a token; a blank may vanish, as some tokenizers split there."""
        if character not in self._known:
            ids = self._spelled(character)
            self._known[character] = (bool(ids) or character.isspace()) and self._unknown not in ids
        return self._known[character]

    def _spelled(self, character: str) -> list[int]:
        return self.raw_ids(self._anchor + character)[len(self._anchor_ids) :]

    def _find_anchors(self) -> list[str]:
        """Where the tokenizer puts a blank before text: what gets it in place of a continuation, by preference."""
        line, letter = self.raw_ids("\n"), self.raw_ids("a")
        if self.raw_ids("\na")[len(line) :] == letter:
            return [""]
        return list(ANCHORS)
