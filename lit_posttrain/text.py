"""Chat messages ⇄ tokens: the one place that knows tokenizers and chat templates, in training and in use."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from lit_posttrain.chat_template import ChatTemplate, Messages, Tools, check_tools, with_arguments
from lit_posttrain.encoder import Encoder
from lit_posttrain.errors import InputError
from lit_posttrain.loss_mask import LossOn, Piece, TokenizedExample, one_weight, pieces, spread
from lit_posttrain.turns import TurnFinder

PLAIN = "plain"
CHARACTER_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
PROBE = "probe-answer"
ON_COMPLETION = LossOn()


@dataclass(frozen=True)
class TextConfig:
    """Which tokenizer and chat template turn text into tokens. Exactly one of `path` and `characters` is set.

    Args:
        path: Hub name or local folder of a tokenizer.
        characters: The alphabet of a built-in tokenizer with one token per character, such as `0123456789+=`.
        template: Chat template as a Jinja string, or `plain`: the messages' contents one after the other, as
            base models want them. Without it, the tokenizer's own template, and `plain` where it has none.
        template_arguments: What the template is told beside the messages, such as `{enable_thinking: false}`. It
            becomes part of the saved template, so that it holds wherever the network is used.
    """

    path: str | None = None
    characters: str | None = None
    template: str | None = None
    template_arguments: dict[str, Any] | None = None


class ChatText:
    """A tokenizer with its chat template.

    The join rule: an answer is tokenised apart from its prompt and the ids are concatenated. So training sees
    exactly what sampling produces, prompt ids followed by completion ids, and no token spans the join. Where
    several answers count, it holds for each of them: every answer is what sampling would have produced behind
    its header, and the whole is what a conversation that keeps its ids, as a cache does, would hold. It differs
    from `prompt_ids` of the same messages, which reads earlier answers as text, only where the tokenizer reads
    a header's last characters otherwise once the answer follows them in one text (a merge, or a rule that looks
    ahead, as GPT-2's does at line breaks).

    Where a tokenizer puts a BOS before plain text and the template writes none, the template gets one; it is
    part of the saved template, so that `apply_chat_template` elsewhere gives the same ids.

    Args:
        tokenizer: A transformers tokenizer.
        template: Jinja string or `plain`; the tokenizer's own (or else `plain`) when None.
        end_ids: End tokens beside the tokenizer's own and the template's, as a generation config lists them.
        arguments: What the template is told beside the messages; plain JSON values by name.

    Raises:
        InputError: if the tokenizer has no end token, the template cannot render a user message, or it has no use
            for an argument.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        end_ids: Sequence[int] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self._encoder = tokenizer, Encoder(tokenizer)
        own = tokenizer.get_chat_template() if tokenizer.chat_template else None
        self.template: str | None = with_arguments(
            None if template == PLAIN else template or own, arguments or {}
        )
        self._adds_bos = self._tokenizer_adds_bos()
        self._chat = ChatTemplate(self.template, tokenizer.special_tokens_map)
        if self.template is not None and self._adds_bos and not self._template_writes_bos():
            self.template = "{{ bos_token }}" + self.template
            self._chat = ChatTemplate(self.template, tokenizer.special_tokens_map)
        tokenizer.chat_template = self.template
        own_end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ends = [*self._end_of_turn(), *own_end, *end_ids]
        if not ends:
            raise InputError("the tokenizer has no end token, so no answer could end; set its eos_token")
        self.end_id: int = ends[0]
        self.eos_ids: frozenset[int] = frozenset(ends)
        self._text_end: int = [*own_end, self.end_id][0]
        added = tokenizer.added_tokens_decoder
        self._turns = TurnFinder(
            self._chat, tuple(added[i].content for i in sorted(self.eos_ids) if i in added)
        )
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.end_id if pad is None else pad

    @property
    def highest_id(self) -> int:
        """The highest token id; a network's embedding needs at least one row more than this."""
        return max(self.tokenizer.get_vocab().values())

    def prompt_ids(self, messages: Messages, tools: Tools | None = None) -> list[int]:
        """The ids of a prompt, up to where the assistant's answer begins.

        Raises:
            InputError: if it has no tokens or unknown characters, or the template refuses it.
        """
        text = self._chat.render(messages, tools, answer_next=True)
        check_tools(tools, text)
        ids = self._first_ids(text)
        if not ids:
            raise InputError(f"the prompt {list(messages)} has no tokens; a completion needs one before it")
        return ids

    def example(
        self,
        messages: Messages,
        *,
        tools: Tools | None = None,
        loss: LossOn = ON_COMPLETION,
        weights: Sequence[float | None] | None = None,
    ) -> TokenizedExample:
        """A conversation as ids, with the tokens that `loss` counts; each answer among them ends in one end token.

        Args:
            messages: Role, content and whatever else the template reads; an own `weight` is a factor on its tokens.
            tools: JSON schemas that the template shows to the model.
            loss: What counts.
            weights: A factor on the tokens of each message, as a row may bring beside its messages.

        Raises:
            InputError: if nothing counts, an answer that counts is empty, the template drops or rewrites a part,
                the text has unknown characters, or an answer holds an end token before its end.
        """
        factors = loss.weights(messages, weights)
        if loss.what == "text":
            text = ChatTemplate(None, {}).render(messages)
            check_tools(tools, text)
            return self.text_example(text, weight=one_weight(factors))
        parts: list[tuple[list[int], float]] = []
        before: Piece | None = None
        for piece in pieces(messages, tools, loss, factors, self._turns):
            parts.append((self._piece_ids(piece, before), piece.weight))
            before = piece
        if not parts[0][0] and not parts[0][1]:
            raise InputError(
                f"the prompt of {list(messages)} has no tokens; a completion needs one before it"
            )
        return spread(parts, skip_first=loss.what == "all")

    def text_example(self, text: str, *, weight: float = 1.0) -> TokenizedExample:
        """Plain text: a BOS where the tokenizer puts one, then one EOS; every token but the first counts.

        Raises:
            InputError: if it is empty, has unknown characters, or holds an end token before its end.
        """
        if not text.strip() or weight <= 0:
            raise InputError(
                f"the text {text[:60]!r} with weight {weight} has nothing to learn; remove the row"
            )
        ids = self._encoder.ids(text)
        bos = [self.tokenizer.bos_token_id] if self._adds_bos else []
        whole = self._ended(ids if ids[:1] == bos else bos + ids, self._text_end)
        return spread([(whole, weight)], skip_first=True)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` as a continuation; an end token as the last is left out, other specials show."""
        ids = [int(i) for i in ids]
        if ids and ids[-1] in self.eos_ids:
            ids = ids[:-1]
        return self._encoder.continued(ids)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the vocabulary, the template or the end tokens."""
        if isinstance(self.tokenizer, PreTrainedTokenizerFast):
            core = json.loads(self.tokenizer.backend_tokenizer.to_str())
            core.update(truncation=None, padding=None)  # set by calls, not part of the tokenizer
        else:
            core = self.tokenizer.get_vocab()
        parts = [core, self.template, sorted(self.eos_ids), self.end_id, self.pad_id, self._adds_bos]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer and template as a folder that `load_text` and transformers read."""
        (Path(folder) / "chat_template.jinja").unlink(missing_ok=True)  # an older one would outlive `plain`
        self.tokenizer.save_pretrained(str(folder))

    def _piece_ids(self, piece: Piece, before: Piece | None) -> list[int]:
        """The ids of a piece that stands behind another."""
        if piece.answer:
            ids = self._encoder.continuation(piece.text) if before else self._first_ids(piece.text)
            return self._ended(ids, self.end_id)
        if before is None:
            return self._first_ids(piece.text)
        if before.end:  # some end tokens take the blanks behind them
            return self._encoder.ids(before.end + piece.text)[1:]
        return self._encoder.continuation(piece.text)

    def _first_ids(self, text: str) -> list[int]:
        """The ids of the beginning; the template `plain` leaves the BOS to the tokenizer."""
        ids = self._encoder.ids(text)
        if self.template is None and self._adds_bos and ids[:1] != [self.tokenizer.bos_token_id]:
            return [self.tokenizer.bos_token_id, *ids]
        return ids

    def _ended(self, ids: list[int], end: int) -> list[int]:
        """`ids` with one end token: what it closes with, else `end`."""
        if not self.eos_ids.isdisjoint(ids[:-1]):
            first = next(token for token in ids if token in self.eos_ids)
            raise InputError(
                f"the text {self._encoder.text(ids)[:80]!r} holds the end token "
                f"{self.tokenizer.convert_ids_to_tokens(first)!r} before its end; remove it from the data"
            )
        return ids if ids and ids[-1] in self.eos_ids else [*ids, end]

    def _tokenizer_adds_bos(self) -> bool:
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]

    def _template_writes_bos(self) -> bool:
        probe = self._chat.render([{"role": "user", "content": "a"}], answer_next=True)
        return self._encoder.raw_ids(probe)[:1] == [self.tokenizer.bos_token_id]

    def _end_of_turn(self) -> list[int]:
        """The special token that the template writes after an answer, if there is one."""
        if self.template is None:
            return []
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}
        whole = self._chat.render([question, answer])
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return [token for token in self._encoder.raw_ids(whole.rpartition(PROBE)[2]) if token in special][:1]


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character of `alphabet`, after `<pad>`, `<eos>` and `<unk>`.

    Its chat template writes the contents one after the other and ends an assistant message with `<eos>`.

    Raises:
        InputError: if the alphabet is empty or names a character twice.
    """
    twice = sorted({c for c in alphabet if alphabet.count(c) > 1})
    if twice or not alphabet:
        raise InputError(f"the alphabet {alphabet!r} must name characters once each; twice there: {twice}")
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *alphabet])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **special)
    tokenizer.chat_template = CHARACTER_TEMPLATE
    return tokenizer


def load_text(source: TextConfig | str | Path) -> ChatText:
    """The tokenizer and template that `source` names: a config, a local folder or a hub name.

    Raises:
        InputError: if there is no tokenizer at that place, or the config names none or two.
    """
    config = source if isinstance(source, TextConfig) else TextConfig(path=str(source))
    if config.characters is not None and config.path is None:
        return ChatText(
            character_tokenizer(config.characters), config.template, arguments=config.template_arguments
        )
    if config.path is None or config.characters is not None:
        raise InputError(f"a text config needs either a path or characters, and not both; got {config}")
    path = str(Path(config.path).expanduser()) if config.path.startswith("~") else config.path
    return ChatText(
        _load_tokenizer(path), config.template, _generation_end_ids(path), config.template_arguments
    )


def _load_tokenizer(path: str) -> Any:
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise InputError(f"the folder {path} is not a tokenizer: it has none of {', '.join(TOKENIZER_FILES)}")
    if not folder.is_dir() and (path.startswith((".", "/")) or path.count("/") > 1):
        raise InputError(f"there is no tokenizer folder {path}; give an existing folder or a hub name")
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:  # whatever a broken file makes of it
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"no tokenizer could be loaded from {path!r} ({reason}); give a local folder to work offline"
        ) from error


def _generation_end_ids(path: str) -> list[int]:
    """The end tokens of the folder's generation_config.json; none where there is no such file."""
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(path, "generation_config.json", **quiet)
    ids = json.loads(Path(file).read_text()).get("eos_token_id") if file else None
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
