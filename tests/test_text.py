"""Chat messages to tokens and back: one BOS, one end token, the right mask, under three template styles."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lit_posttrain.errors import InputError
from lit_posttrain.text import ChatText, TextConfig, character_tokenizer, load_text

SPECIAL = ["<bos>", "<eos>", "<start>", "<stop>", "<end>"]
LINES = ["the cat sat on the mat", "user assistant system", "hello world, hello there", "1 + 1 = 2\n"]
CHATML = (
    "{% for m in messages %}<start>{{ m.role }}\n{{ m.content }}<stop>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "<start>{{ m.role }}<end>\n\n{{ m.content | trim }}<stop>{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant<end>\n\n{% endif %}"
)
CHAT = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hello world"},
]
RENDERED = {
    "chatml": (
        "<start>user\nthe cat<stop>\n<start>assistant\nsat<stop>\n"
        "<start>user\nhello<stop>\n<start>assistant\n"
    ),
    "headers": (
        "<bos><start>user<end>\n\nthe cat<stop><start>assistant<end>\n\nsat<stop>"
        "<start>user<end>\n\nhello<stop><start>assistant<end>\n\n"
    ),
    "plain": "the catsathello",
}


def byte_tokenizer(template: str | None = None, *, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose pad is its eos; with `bos` it puts one before plain text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(LINES, trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<eos>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    tokenizer.chat_template = template
    return tokenizer


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, with a space put before every text and taken off again."""
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(["<eos>", " ", "\n", *"abc"])}, []))
    core.normalizer = normalizers.Prepend(" ")
    core.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


STYLES = {
    "chatml": lambda: ChatText(byte_tokenizer(CHATML)),
    "headers": lambda: ChatText(byte_tokenizer(HEADERS, bos=True)),
    "plain": lambda: ChatText(byte_tokenizer()),
}


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("style", STYLES)
def test_a_conversation_is_prompt_then_answer_then_one_end(style: str) -> None:
    text = STYLES[style]()
    example, prompt = text.example(CHAT), text.prompt_ids(CHAT[:-1])
    answer = example.ids[len(prompt) :]
    assert example.ids[: len(prompt)] == prompt
    assert example.mask == [False] * len(prompt) + [True] * len(answer)
    assert text.tokenizer.decode(prompt) == RENDERED[style]
    assert text.decode(prompt) == RENDERED[style]
    assert text.decode(answer) == "hello world"
    assert text.decode(example.ids) == RENDERED[style] + "hello world"
    assert [token for token in answer if token in text.eos_ids] == [text.end_id]
    assert answer[-1] == text.end_id
    assert example.answer_tokens == len(answer)
    assert example.ids.count(SPECIAL.index("<bos>")) == (1 if style == "headers" else 0)


@pytest.mark.parametrize(("style", "end"), [("chatml", "<stop>"), ("headers", "<stop>"), ("plain", "<eos>")])
def test_end_tokens_are_those_of_template_and_tokenizer(style: str, end: str) -> None:
    text = STYLES[style]()
    assert text.end_id == SPECIAL.index(end)
    assert text.eos_ids == {SPECIAL.index(end), SPECIAL.index("<eos>")}
    assert text.pad_id == SPECIAL.index("<eos>")


def test_pad_is_the_end_token_where_there_is_none() -> None:
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.pad_token = None
    assert ChatText(tokenizer).pad_id == SPECIAL.index("<stop>")


def test_characters_by_hand() -> None:
    text = load_text(TextConfig(characters="0123456789+="))
    # <pad> 0, <eos> 1, <unk> 2, then '0' is 3 … '9' is 12, '+' 13, '=' 14
    example = text.example(chat("12+9=", "21"))
    assert example.ids == [4, 5, 13, 12, 14, 5, 4, 1]
    assert example.mask == [False] * 5 + [True] * 3
    assert (text.eos_ids, text.pad_id, text.highest_id) == ({1}, 0, 14)
    assert text.decode([5, 4, 1]) == "21"
    assert text.decode([5, 1, 4]) == "2<eos>1"


def test_unknown_characters_are_named() -> None:
    text = load_text(TextConfig(characters="01+="))
    with pytest.raises(InputError, match=r"does not know ' ', 'x' of the text '1x 0'"):
        text.prompt_ids([{"role": "user", "content": "1x 0"}])
    with pytest.raises(InputError, match="'7'"):
        text.example(chat("1+1=", "7"))


@pytest.mark.parametrize("alphabet", ["", "010"])
def test_an_alphabet_names_each_character_once(alphabet: str) -> None:
    with pytest.raises(InputError, match="once"):
        character_tokenizer(alphabet)


def test_no_token_spans_the_join() -> None:
    text = ChatText(byte_tokenizer())
    whole, parts = text.prompt_ids([{"role": "user", "content": "hello"}]), chat("hel", "lo")
    assert len(whole) == 1  # "hello" is one token of this vocabulary
    example = text.example(parts)
    assert example.ids[: example.mask.index(True)] == text.prompt_ids(parts[:1])
    assert text.decode(example.ids) == "hello"


@pytest.mark.parametrize("ending", ["<stop>", "<stop>\n", "<eos>"])
def test_an_answer_that_brings_its_end_gets_no_second_one(ending: str) -> None:
    example = ChatText(byte_tokenizer(CHATML)).example(chat("a", "b" + ending))
    answer = example.ids[example.mask.index(True) :]
    assert [token for token in answer if token < len(SPECIAL)] == [answer[-1]]


def test_an_end_token_inside_an_answer_is_ambiguous() -> None:
    with pytest.raises(InputError, match="'<stop>' before its end"):
        ChatText(byte_tokenizer(CHATML)).example(chat("a", "b<stop>c"))


def test_a_template_that_rewrites_the_prompt_is_ambiguous() -> None:
    thinking = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
    with pytest.raises(InputError, match="ambiguous what the mask covers"):
        ChatText(byte_tokenizer(thinking)).example(chat("a", "b"))


def test_a_template_that_refuses_roles_is_reported() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    with pytest.raises(InputError, match=r"refuses the roles \['system'\]: no system"):
        ChatText(byte_tokenizer(strict)).prompt_ids([{"role": "system", "content": "a"}])


def test_the_tokenizers_bos_is_written_once_and_kept_when_saved(tmp_path: Path) -> None:
    for template in (CHATML, HEADERS, None):
        text = ChatText(byte_tokenizer(template, bos=True))
        ids = text.prompt_ids(CHAT[:1])
        assert ids[0] == 0
        assert ids.count(0) == 1
        text.save(tmp_path / "text")
        elsewhere = AutoTokenizer.from_pretrained(tmp_path / "text")
        if template is not None:
            rendered = elsewhere.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=False)
            assert rendered == ids
        assert load_text(tmp_path / "text").prompt_ids(CHAT[:1]) == ids


def test_a_leading_space_belongs_to_the_prompt_alone() -> None:
    text = ChatText(spaced_tokenizer())
    # <eos> 0, space 1, newline 2, a 3, b 4, c 5
    assert text.example(chat("a", "bc")).ids == [1, 3, 4, 5, 0]
    assert text.example(chat("a", " bc")).ids == [1, 3, 1, 4, 5, 0]
    assert text.decode([1, 4, 5, 0]) == " bc"


CHATML_TEXT, PLAIN_TEXT = STYLES["chatml"](), STYLES["plain"]()


ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=40, deadline=None)
@given(ANY, ANY.filter(lambda answer: answer.strip()))
def test_any_text_comes_back(question: str, answer: str) -> None:
    for text in (CHATML_TEXT, PLAIN_TEXT):
        prompt = [{"role": "user", "content": "q" + question}]
        example = text.example([*prompt, {"role": "assistant", "content": answer}])
        start = len(text.prompt_ids(prompt))
        assert example.ids[:start] == text.prompt_ids(prompt)
        assert text.decode(example.ids[start:]) == answer
        assert example.ids[-1] == text.end_id


def test_saved_text_is_the_same_text(tmp_path: Path) -> None:
    for text in (load_text(TextConfig(characters="01+=")), STYLES["chatml"](), STYLES["plain"]()):
        text.save(tmp_path / "saved")
        again = load_text(tmp_path / "saved")
        assert again.fingerprint == text.fingerprint
        assert (again.eos_ids, again.end_id, again.pad_id) == (text.eos_ids, text.end_id, text.pad_id)
        assert again.template == text.template


def test_fingerprint_follows_alphabet_and_template_only() -> None:
    config = TextConfig(characters="01+=")
    text = load_text(config)
    before = text.fingerprint
    text.tokenizer(["0", "01"], padding=True, truncation=True, max_length=4)
    assert load_text(config).fingerprint == before == text.fingerprint
    changed = (replace(config, characters="01=+"), replace(config, template="plain"))
    other = {load_text(one).fingerprint for one in changed}
    assert before not in other
    assert len(other) == 2


def test_the_configured_template_wins(tmp_path: Path) -> None:
    byte_tokenizer(HEADERS, bos=True).save_pretrained(tmp_path)
    plain = load_text(TextConfig(path=str(tmp_path), template="plain"))
    assert plain.tokenizer.decode(plain.prompt_ids(CHAT[:3])) == "<bos>the catsathello"
    chatml = load_text(TextConfig(path=str(tmp_path), template=CHATML))
    assert chatml.tokenizer.decode(chatml.prompt_ids(CHAT[:1])).startswith(
        "<bos><start>user\nthe cat<stop>\n"
    )


THINKING = (
    "\n{%- for m in messages %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt and not thinks %}{{ levels[1].name }}{% endif %}"
)


def test_template_arguments_hold_in_training_in_use_and_after_saving(tmp_path: Path) -> None:
    byte_tokenizer(HEADERS).save_pretrained(tmp_path / "one")
    levels = [None, {"name": "%} \\u00e9'\""}]
    config = TextConfig(str(tmp_path / "one"), template=THINKING, template_arguments={"levels": levels})
    text = load_text(config)
    chat = [{"role": "user", "content": "hi"}]
    assert text.tokenizer.decode(text.prompt_ids(chat)) == "hi" + levels[1]["name"]
    text.tokenizer.save_pretrained(tmp_path / "two")
    saved = AutoTokenizer.from_pretrained(tmp_path / "two")
    assert saved.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == "hi%} \\u00e9'\""
    assert saved.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, thinks=True) == "hi"
    silent = load_text(replace(config, template_arguments={"thinks": True}))
    assert silent.tokenizer.decode(silent.prompt_ids(chat)) == "hi"
    assert silent.fingerprint != text.fingerprint


def test_template_arguments_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    byte_tokenizer(HEADERS).save_pretrained(tmp_path)
    config = TextConfig(str(tmp_path), template=THINKING)
    with pytest.raises(InputError, match="does not use 'enable_thinking'"):
        load_text(replace(config, template_arguments={"enable_thinking": False}))
    with pytest.raises(InputError, match="does not use 'thinks'"):
        load_text(replace(config, template="plain", template_arguments={"thinks": False}))
    with pytest.raises(InputError, match="plain JSON"):
        load_text(replace(config, template_arguments={"thinks": {1, 2}}))


@pytest.mark.parametrize(("listed", "expected"), [(4, {1, 4}), ([3, 4], {1, 3, 4}), (None, {1})])
def test_end_tokens_of_the_generation_config_count(
    tmp_path: Path, listed: object, expected: set[int]
) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
    assert load_text(tmp_path).eos_ids == expected


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="is not a tokenizer: it has none of"):
        load_text(tmp_path)
    with pytest.raises(InputError, match="no tokenizer folder"):
        load_text(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer could be loaded"):
        load_text(tmp_path)


@pytest.mark.parametrize("config", [TextConfig(), TextConfig(path="a", characters="b")])
def test_a_config_names_one_tokenizer(config: TextConfig) -> None:
    with pytest.raises(InputError, match="either a path or characters"):
        load_text(config)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        ChatText(tokenizer)


def test_an_example_ends_in_the_assistants_answer() -> None:
    text = STYLES["plain"]()
    with pytest.raises(InputError, match=r"the roles are \['user'\]"):
        text.example(CHAT[:1])
    with pytest.raises(InputError, match="no tokens"):
        text.example([{"role": "assistant", "content": "a"}])
