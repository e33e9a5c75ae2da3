"""Template styles of the common model families, each with a small tokenizer as its models have.

`completion` and `assistant` are the texts of `TWO_TURNS`, by hand, under the losses of these names: the tokens that
count stand between [[ and ]], DeepSeek's signs as plain ones.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from lit_posttrain.text import ChatText

TEMPLATES = Path(__file__).parent / "templates"
BAR, BLANK = "\uff5c", "\u2581"  # as DeepSeek's and sentencepiece's tokens write them
LINES = ["hi there, hello there", "user system assistant model", "1 + 1 = 2\n\n", "think INST SYS"]


def user(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def answer(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


TWO_TURNS = [user("hi"), answer("hello"), user("1 + 1"), answer("2")]


@dataclass(frozen=True)
class Family:
    """A template style with a tokenizer as its models have; `added_bos`: the tokenizer puts one before plain text."""

    template: str
    eos: str
    special: tuple[str, ...] = ()
    bos: str | None = None
    added_bos: bool = False
    pad: str | None = None
    spaced: bool = False
    swallows: tuple[str, ...] = ()
    completion: str = ""
    assistant: str = ""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        special = list(dict.fromkeys([t for t in (self.bos, self.eos, self.pad, *self.special) if t]))
        core = (spaced if self.spaced else byte_level)(special)
        core.add_special_tokens([AddedToken(t, rstrip=t in self.swallows, special=True) for t in special])
        if self.added_bos:
            pair = (self.bos, core.token_to_id(self.bos))
            core.post_processor = processors.TemplateProcessing(
                single=f"{self.bos} $A", special_tokens=[pair]
            )
        named = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        named = {name: token for name, token in named.items() if token}
        return PreTrainedTokenizerFast(tokenizer_object=core, **named)

    def text(self, template: str | None = None) -> ChatText:
        return ChatText(self.tokenizer(), template or source(self.template))


# As the tokenizers of Llama 3 and Qwen cut: line breaks stay together.
WORDS_AND_BREAKS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def source(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def byte_level(special: list[str]) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS_AND_BREAKS), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(LINES, trainer)
    return core


def spaced(special: list[str]) -> Tokenizer:
    """A blank before each text that follows nothing or a special token, as sentencepiece writes it."""
    core = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    core.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=120,
        special_tokens=["<unk>", *special],
        initial_alphabet=list("abc|<>[]/\n"),
        show_progress=False,
    )
    core.train_from_iterator(LINES, trainer)
    return core


CHATML = Family(
    "chatml",
    special=("<|im_start|>", "<|im_end|>"),
    eos="<|endoftext|>",
    pad="<|endoftext|>",
    completion="<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"
    "<|im_start|>user\n1 + 1<|im_end|>\n<|im_start|>assistant\n[[2<|im_end|>]]",
    assistant="<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[[hello<|im_end|>]]\n"
    "<|im_start|>user\n1 + 1<|im_end|>\n<|im_start|>assistant\n[[2<|im_end|>]]",
)
HEADERS = Family(
    "headers",
    special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    bos="<|begin_of_text|>",
    added_bos=True,
    eos="<|end_of_text|>",
    completion="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n1 + 1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[2<|eot_id|>]]",
    assistant="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[hello<|eot_id|>]]"
    "<|start_header_id|>user<|end_header_id|>\n\n1 + 1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[[2<|eot_id|>]]",
)
INST = Family(
    "inst",
    bos="<s>",
    added_bos=True,
    eos="</s>",
    pad="</s>",
    spaced=True,
    completion="<s> [INST] hi [/INST] hello </s><s> [INST] 1 + 1 [/INST][[ 2 </s>]]",
    assistant="<s> [INST] hi [/INST][[ hello </s>]]<s> [INST] 1 + 1 [/INST][[ 2 </s>]]",
)
TURNS = Family(
    "turns",
    special=("<start_of_turn>", "<end_of_turn>"),
    bos="<bos>",
    added_bos=True,
    eos="<eos>",
    pad="<pad>",
    completion="<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\nhello<end_of_turn>\n"
    "<start_of_turn>user\n1 + 1<end_of_turn>\n<start_of_turn>model\n[[2<end_of_turn>]]",
    assistant="<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n[[hello<end_of_turn>]]\n"
    "<start_of_turn>user\n1 + 1<end_of_turn>\n<start_of_turn>model\n[[2<end_of_turn>]]",
)
ROLES = Family(  # its special tokens take the line break behind them
    "roles",
    special=("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    swallows=("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    eos="<|endoftext|>",
    pad="<|endoftext|>",
    completion="<|user|>hi<|end|><|assistant|>hello<|end|><|user|>1 + 1<|end|><|assistant|>[[2<|end|>]]",
    assistant="<|user|>hi<|end|><|assistant|>[[hello<|end|>]]<|user|>1 + 1<|end|><|assistant|>[[2<|end|>]]",
)
THINKING = Family(
    "thinking",
    special=(f"<{BAR}User{BAR}>", f"<{BAR}Assistant{BAR}>"),
    bos=f"<{BAR}begin{BLANK}of{BLANK}sentence{BAR}>",
    eos=f"<{BAR}end{BLANK}of{BLANK}sentence{BAR}>",
    added_bos=True,
    completion="<|begin_of_sentence|><|User|>hi<|Assistant|>hello<|end_of_sentence|>"
    "<|User|>1 + 1<|Assistant|>[[2<|end_of_sentence|>]]",
    assistant="<|begin_of_sentence|><|User|>hi<|Assistant|>[[hello<|end_of_sentence|>]]"
    "<|User|>1 + 1<|Assistant|>[[2<|end_of_sentence|>]]",
)
BARS = Family(  # its headers are no tokens of their own, and it writes no BOS though the tokenizer does
    "bars",
    bos="<s>",
    added_bos=True,
    eos="</s>",
    pad="</s>",
    spaced=True,
    completion="<s> <|user|>\nhi</s> \n<|assistant|>\nhello</s> \n<|user|>\n1 + 1</s> \n<|assistant|>\n[[2</s>]]",
    assistant="<s> <|user|>\nhi</s> \n<|assistant|>\n[[hello</s>]] \n<|user|>\n1 + 1</s> \n<|assistant|>\n[[2</s>]]",
)
MARKED = Family("chatml_marked", CHATML.eos, CHATML.special, pad=CHATML.eos)
QWEN = Family("chatml_thinking", CHATML.eos, CHATML.special, pad=CHATML.eos)
INVITED = Family("thinking_invited", THINKING.eos, THINKING.special, bos=THINKING.bos, added_bos=True)
FAMILIES = {f.template: f for f in (CHATML, HEADERS, INST, TURNS, ROLES, THINKING, BARS)}
