"""Chat messages ⇄ tokens: the one place that knows tokenizers and chat templates, in training and in use."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from lit_posttrain.batches import Message
from lit_posttrain.errors import InputError

PLAIN = "plain"
CHARACTER_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
PROBE = "probe-answer"


@dataclass(frozen=True)
class TextConfig:
    """Which tokenizer and chat template turn text into tokens. Exactly one of `path` and `characters` is set.

    Args:
        path: Hub name or local folder of a tokenizer.
        characters: The alphabet of a built-in tokenizer with one token per character, such as `0123456789+=`.
        template: Chat template as a Jinja string, or `plain`: the messages' contents one after the other, as
            base models want them. Without it, the tokenizer's own template, and `plain` where it has none.
    """

    path: str | None = None
    characters: str | None = None
    template: str | None = None


@dataclass(frozen=True)
class TokenizedExample:
    """One conversation as token ids; `mask` is true on the tokens of the answer, its end token included."""

    ids: list[int]
    mask: list[bool]

    @property
    def answer_tokens(self) -> int:
        """How many tokens the objective speaks of."""
        return sum(self.mask)


class ChatText:
    """A tokenizer with its chat template.

    The join rule: an answer is tokenised apart from its prompt and the ids are concatenated. So training sees
    exactly what sampling produces, prompt ids followed by completion ids, and no token spans the join.

    Where a tokenizer puts a BOS before plain text and the template writes none, the template gets one; it is
    part of the saved template, so that `apply_chat_template` elsewhere gives the same ids.

    Args:
        tokenizer: A transformers tokenizer.
        template: Jinja string or `plain`; the tokenizer's own (or else `plain`) when None.
        end_ids: End tokens beside the tokenizer's own and the template's, as a generation config lists them.

    Raises:
        InputError: if the tokenizer has no end token, or the template cannot render a user message.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, end_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        own = tokenizer.get_chat_template() if tokenizer.chat_template else None
        self.template: str | None = None if template == PLAIN else template or own
        self._adds_bos = self._tokenizer_adds_bos()
        if self.template is not None and self._adds_bos and not self._template_writes_bos():
            self.template = "{{ bos_token }}" + self.template
        tokenizer.chat_template = self.template
        self._anchor = self._find_anchor()
        own_end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ends = [*self._end_of_turn(), *own_end, *end_ids]
        if not ends:
            raise InputError("the tokenizer has no end token, so no answer could end; set its eos_token")
        self.end_id: int = ends[0]
        self.eos_ids: frozenset[int] = frozenset(ends)
        pad = tokenizer.pad_token_id
        self.pad_id: int = self.end_id if pad is None else pad

    @property
    def highest_id(self) -> int:
        """The highest token id; a network's embedding needs at least one row more than this."""
        return max(self.tokenizer.get_vocab().values())

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a prompt, up to where the assistant's answer begins.

        Raises:
            InputError: if it has no tokens or unknown characters, or the template refuses it.
        """
        if self.template is not None:
            ids = self._encode(self._render(messages, add_generation_prompt=True))
        else:
            bos = [self.tokenizer.bos_token_id] if self._adds_bos else []
            ids = bos + self._encode("".join(message["content"] for message in messages))
        if not ids:
            raise InputError(f"the prompt {list(messages)} has no tokens; a completion needs one before it")
        return ids

    def example(self, messages: Sequence[Message]) -> TokenizedExample:
        """A conversation whose last message is the answer: prompt ids, answer ids and exactly one end token.

        Raises:
            InputError: if the last message is not the assistant's, the template rewrites the prompt once the
                answer is there, or the answer holds an end token before its end: the mask is ambiguous.
        """
        if not messages or messages[-1]["role"] != "assistant":
            roles = [message["role"] for message in messages]
            raise InputError(f"the last message must be the assistant's answer, but the roles are {roles}")
        prompt = self.prompt_ids(messages[:-1])
        answer = self._ended(self._encode_continuation(self._answer_text(messages)))
        return TokenizedExample(prompt + answer, [False] * len(prompt) + [True] * len(answer))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` as a continuation; an end token as the last is left out, other specials show."""
        ids = [int(i) for i in ids]
        if ids and ids[-1] in self.eos_ids:
            ids = ids[:-1]
        return self._decode([*self._anchor_ids, *ids])[len(self._anchor) :]

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

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except TemplateError as error:
            raise InputError(
                f"the chat template refuses the roles {[m['role'] for m in messages]}: {error}; "
                "change the messages, or set template to another Jinja string or 'plain'"
            ) from error

    def _answer_text(self, messages: Sequence[Message]) -> str:
        """What the template adds for the last message: its content, mostly followed by an end of turn."""
        if self.template is None:
            return messages[-1]["content"]
        prompt = self._render(messages[:-1], add_generation_prompt=True)
        whole = self._render(messages, add_generation_prompt=False)
        if not whole.startswith(prompt):
            same = next(i for i in range(len(prompt)) if prompt[i] != whole[i : i + 1])
            context = slice(max(same - 20, 0), same + 40)
            raise InputError(
                "the chat template writes the prompt differently once the answer is there, so it is "
                f"ambiguous what the mask covers: {prompt[context]!r} became {whole[context]!r}; "
                "set template to one whose prompt is a prefix of the whole"
            )
        return whole[len(prompt) :]

    def _ended(self, ids: list[int]) -> list[int]:
        """`ids` with one end token, the template's own if it wrote one; blanks after that are dropped."""
        first = next((i for i, token in enumerate(ids) if token in self.eos_ids), None)
        if first is None:
            return [*ids, self.end_id]
        if self._decode([token for token in ids[first:] if token not in self.eos_ids]).strip():
            end = self.tokenizer.convert_ids_to_tokens(ids[first])
            raise InputError(
                f"the answer {self._decode(ids)[:80]!r} holds the end token {end!r} before its end; "
                "remove it from the data"
            )
        return ids[: first + 1]

    def _encode(self, text: str) -> list[int]:
        ids = self._raw_ids(text)
        unknown = self.tokenizer.unk_token_id
        specials = {self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id}
        if unknown in ids and unknown not in specials:
            names = ", ".join(repr(c) for c in sorted(set(text)) if unknown in self._raw_ids(c))
            raise InputError(
                f"the tokenizer does not know {names or 'a part'} of the text {text[:60]!r}; "
                "extend its alphabet or clean the data"
            )
        return ids

    def _encode_continuation(self, text: str) -> list[int]:
        """The ids of text that goes on from other text, without the blank that some tokenizers add."""
        ids, anchor = self._encode(self._anchor + text), self._anchor_ids
        if ids[: len(anchor)] != anchor:
            raise InputError(f"the tokenizer merges the beginning of {text[:40]!r} with what precedes it")
        return ids[len(anchor) :]

    def _raw_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @cached_property
    def _anchor_ids(self) -> list[int]:
        return self._raw_ids(self._anchor)

    def _find_anchor(self) -> str:
        """A line break where the tokenizer puts a blank before text: the anchor gets it, not the answer."""
        line, letter = self._raw_ids("\n"), self._raw_ids("a")
        return "" if self._raw_ids("\na")[len(line) :] == letter else "\n"

    def _tokenizer_adds_bos(self) -> bool:
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]

    def _template_writes_bos(self) -> bool:
        probe = self._render([{"role": "user", "content": "a"}], add_generation_prompt=True)
        return self._raw_ids(probe)[:1] == [self.tokenizer.bos_token_id]

    def _end_of_turn(self) -> list[int]:
        """The special token that the template writes after an answer, if there is one."""
        if self.template is None:
            return []
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}
        whole = self._render([question, answer], add_generation_prompt=False)
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return [token for token in self._raw_ids(whole.rpartition(PROBE)[2]) if token in special][:1]


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
        return ChatText(character_tokenizer(config.characters), config.template)
    if config.path is None or config.characters is not None:
        raise InputError(f"a text config needs either a path or characters, and not both; got {config}")
    path = str(Path(config.path).expanduser()) if config.path.startswith("~") else config.path
    return ChatText(_load_tokenizer(path), config.template, _generation_end_ids(path))


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
