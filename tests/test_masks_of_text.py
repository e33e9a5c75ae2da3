"""Which tokens count, worked out by hand under the template styles of the common model families.

In an expected text the tokens that count stand between [[ and ]].
"""

from collections.abc import Mapping
from typing import Any

import pytest
from chat_families import (
    BAR,
    BLANK,
    CHATML,
    FAMILIES,
    INVITED,
    MARKED,
    QWEN,
    ROLES,
    THINKING,
    TWO_TURNS,
    answer,
    source,
    user,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from lit_posttrain.encoder import Encoder
from lit_posttrain.errors import InputError
from lit_posttrain.loss_mask import LossOn, TokenizedExample
from lit_posttrain.text import ChatText

ASSISTANT, ALL, TEXT = LossOn("assistant"), LossOn("all"), LossOn("text")
Chat = list[dict[str, Any]]
TEXTS = {name: family.text() for name, family in FAMILIES.items()}
MARKED_TEXT, QWEN_TEXT = MARKED.text(), QWEN.text()
each_family = pytest.mark.parametrize("name", FAMILIES)


def shown(text: ChatText, example: TokenizedExample) -> str:
    """The tokens as text, those that count between double brackets; DeepSeek's signs as plain ones."""
    specials = {token.content for token in text.tokenizer.added_tokens_decoder.values()}
    out, inside = [], False
    for token, counts in zip(text.tokenizer.convert_ids_to_tokens(example.ids), example.mask, strict=True):
        out.append(("[[" if counts else "]]") if counts != inside else "")
        inside = counts
        plain = token if token in specials else token.replace("Ġ", " ").replace("Ċ", "\n").replace(BLANK, " ")
        out.append(plain.replace(BAR, "|").replace(BLANK, "_"))
    return "".join([*out, "]]" if inside else ""])


def ends(text: ChatText, example: TokenizedExample) -> list[int]:
    """Where the end tokens that count stand, counted from the end of their run."""
    runs, at = [], 0
    mask = [*example.mask, False]
    while at < len(mask):
        if mask[at]:
            stop = mask.index(False, at)
            runs += [stop - 1 - i for i in range(at, stop) if example.ids[i] in text.eos_ids]
            at = stop
        at += 1
    return runs


@each_family
def test_the_last_answer_counts(name: str) -> None:
    text, family = TEXTS[name], FAMILIES[name]
    example, prompt = text.example(TWO_TURNS), text.prompt_ids(TWO_TURNS[:-1])
    assert shown(text, example) == family.completion
    assert example.ids[: len(prompt)] == prompt
    assert example.mask.index(True) == len(prompt)
    assert ends(text, example) == [0]
    assert example.scale is None


@each_family
def test_every_answer_counts(name: str) -> None:
    text, family = TEXTS[name], FAMILIES[name]
    example = text.example(TWO_TURNS, loss=ASSISTANT)
    assert shown(text, example) == family.assistant
    assert ends(text, example) == [0, 0]
    assert example.ids == text.example(TWO_TURNS).ids
    for stop in (1, 3):
        prompt = text.prompt_ids(TWO_TURNS[:stop])
        assert example.ids[: len(prompt)] == prompt
        assert example.mask[len(prompt) - 1 : len(prompt) + 1] == [False, True]
    first = text.example(TWO_TURNS[:2])
    assert example.ids[: len(first.ids)] == first.ids
    assert text.example(TWO_TURNS[:2], loss=ASSISTANT) == first


@each_family
def test_the_ids_are_those_of_transformers_with_one_bos(name: str) -> None:
    text, family = TEXTS[name], FAMILIES[name]
    rendered = text.tokenizer.apply_chat_template(TWO_TURNS, return_dict=False)
    for loss in (LossOn(), ASSISTANT, ALL):
        ids = text.example(TWO_TURNS, loss=loss).ids
        assert ids == rendered[: len(ids)]
        assert not text.tokenizer.decode(rendered[len(ids) :]).strip()
        due = (
            0 if family.bos is None else 2 if name == "inst" else 1
        )  # [INST] styles begin each exchange anew
        assert ids.count(text.tokenizer.bos_token_id) == due
        assert ids[0] != ids[1]


@each_family
def test_everything_counts_but_the_first_token(name: str) -> None:
    text = TEXTS[name]
    example = text.example(TWO_TURNS, loss=ALL)
    assert example.ids == text.example(TWO_TURNS).ids
    assert example.mask == [False] + [True] * (len(example.ids) - 1)
    assert example.ids[-1] == text.end_id


@each_family
def test_a_conversation_may_go_on_behind_its_last_answer(name: str) -> None:
    text = TEXTS[name]
    example = text.example(TWO_TURNS[:3], loss=ASSISTANT)
    before = text.example(TWO_TURNS[:2])
    assert example.ids[: len(before.ids)] == before.ids
    assert example.mask == before.mask + [False] * (len(example.ids) - len(before.ids))
    assert "1 + 1" in text.tokenizer.decode(example.ids[len(before.ids) :])
    assert text.example(TWO_TURNS[:3], loss=ALL).ids == example.ids


@each_family
def test_plain_text_has_one_bos_where_due_and_one_end(name: str) -> None:
    text, tokenizer = TEXTS[name], TEXTS[name].tokenizer
    example = text.text_example("hi there")
    bos = [tokenizer.bos_token_id] if FAMILIES[name].added_bos else []
    body = tokenizer("hi there", add_special_tokens=False)["input_ids"]
    assert example.ids == [*bos, *body, tokenizer.eos_token_id]
    assert example.mask == [False] + [True] * (len(example.ids) - 1)
    written = f"{tokenizer.bos_token or ''}hi there{tokenizer.eos_token}"
    again = text.text_example(written).ids
    assert [again[0], again[-1]] == [example.ids[0], example.ids[-1]]
    assert again.count(tokenizer.eos_token_id) == 1
    assert again.count(tokenizer.bos_token_id) == len(bos)


@each_family
def test_pad_as_end_keeps_its_label(name: str) -> None:
    text = TEXTS[name]
    assert text.example(TWO_TURNS).mask[-1]
    if FAMILIES[name].pad == FAMILIES[name].eos:
        assert text.pad_id == text.tokenizer.eos_token_id
    if FAMILIES[name].pad is None:
        assert text.pad_id == text.end_id


@each_family
def test_a_system_message_is_written_or_refused(name: str) -> None:
    chat, text = [{"role": "system", "content": "hello there"}, user("hi"), answer("2")], TEXTS[name]
    if name == "turns":
        with pytest.raises(InputError, match=r"refuses the roles .*System role not supported"):
            text.example(chat)
        return
    example = text.example(chat)
    assert text.tokenizer.decode(example.ids).count("hello there") == 1
    assert ends(text, example) == [0]
    assert (
        text.decode([i for i, counts in zip(example.ids, example.mask, strict=True) if counts]).strip() == "2"
    )


def test_a_template_that_drops_the_system_message_is_refused() -> None:
    deaf = source("roles").replace("in messages", "in messages if message.role != 'system'")
    with pytest.raises(InputError, match="leaves out 'hello there' of the system message"):
        ROLES.text(deaf).example([{"role": "system", "content": "hello there"}, user("hi"), answer("2")])


def test_markers_count_as_turn_by_turn() -> None:
    marked = MARKED_TEXT.example(TWO_TURNS, loss=LossOn("assistant", markers="require"))
    assert shown(MARKED_TEXT, marked) == CHATML.assistant
    assert MARKED_TEXT.example(TWO_TURNS, loss=LossOn("assistant", markers="ignore")) == marked
    assert MARKED_TEXT.example(TWO_TURNS, loss=ASSISTANT) == marked
    assert MARKED_TEXT.example(TWO_TURNS) == TEXTS["chatml"].example(TWO_TURNS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("message.content + '<|im_end|>\\n' }}{% endgen", "message.content }}{% endgen"),
        ("+ '<|im_end|>\\n' }}{% endgen", "+ '<|im_end|>' }}{% endgen"),
    ],
    ids=["end outside", "line break outside"],
)
def test_the_end_token_counts_wherever_the_markers_close(old: str, new: str) -> None:
    outside = "<|im_end|>\\n" if "<|im_end|>" not in new else "\\n"
    template = (
        source("chatml_marked")
        .replace(old, new)
        .replace("{% endgeneration %}", "{% endgeneration %}{{- '" + outside + "' }}")
    )
    text = MARKED.text(template)
    assert shown(text, text.example(TWO_TURNS, loss=ASSISTANT)) == CHATML.assistant


def test_a_header_between_the_markers_does_not_count() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n"
        "{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    text = MARKED.text(template)
    assert shown(text, text.example(TWO_TURNS, loss=ASSISTANT)) == CHATML.assistant


def test_markers_that_are_required_must_be_there() -> None:
    with pytest.raises(InputError, match=r"markers is 'require', but .* no \{% generation %\} markers"):
        TEXTS["chatml"].example(TWO_TURNS, loss=LossOn("assistant", markers="require"))


@pytest.mark.parametrize(
    "inside",
    ["{% generation %}{% endgeneration %}{{ m.content }}", "{% if loop.last %}{% generation %}{{ m.content }}"
     "{% endgeneration %}{% else %}{{ m.content }}{% endif %}"],
    ids=["empty", "last only"],
)  # fmt: skip
def test_markers_must_give_every_answer(inside: str) -> None:
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        + inside
        + "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(InputError, match=r"give [01] answers for 2 assistant messages"):
        MARKED.text(template).example(TWO_TURNS, loss=ASSISTANT)


def test_markers_that_cover_a_part_only_are_refused() -> None:
    template = source("chatml_marked").replace(
        "{{- message.content + '<|im_end|>\\n' }}{% endgeneration %}",
        "{{- message.content[:2] }}{% endgeneration %}{{- message.content[2:] + '<|im_end|>\\n' }}",
    )
    assert template != source("chatml_marked")
    with pytest.raises(InputError, match="no end token after the earlier answer 'he'"):
        MARKED.text(template).example(TWO_TURNS, loss=ASSISTANT)


def test_a_marked_answer_follows_the_prompt_that_sampling_gets() -> None:
    invited = source("chatml_marked").replace(
        "'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\n<think>' }}"
    )
    assert invited != source("chatml_marked")
    with pytest.raises(InputError, match="ambiguous what the mask covers"):
        MARKED.text(invited).example(TWO_TURNS, loss=ASSISTANT)


def test_markers_need_no_offsets() -> None:
    tokenizer = ByT5Tokenizer(extra_ids=0)
    marked = (
        "{% for m in messages %}{{ m.role[0] }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    )
    text = ChatText(
        tokenizer,
        marked + "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}a{% endif %}",
    )
    example = text.example([user("x"), answer("yz"), user("x"), answer("z")], loss=ASSISTANT)
    letter = {c: ord(c) + 3 for c in "uaxyz"}  # after pad 0, end 1 and unknown 2
    assert example.ids == [*(letter[c] for c in "uxayz"), 1, *(letter[c] for c in "uxaz"), 1]
    assert [int(counts) for counts in example.mask] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]


def test_weights_of_messages_and_roles_multiply() -> None:
    text = TEXTS["chatml"]
    chat = [user("hi", weight=7), answer("hello", weight=0.5), user("1 + 1"), answer("2")]
    loss = LossOn("assistant", {"assistant": 2.0})
    example = text.example(chat, loss=loss, weights=[1, 0.5, 1, None])
    plain = text.example(TWO_TURNS, loss=ASSISTANT)
    assert (example.ids, example.mask) == (plain.ids, plain.mask)
    assert example.scale is not None
    first = [s for s, i in zip(example.scale, example.ids, strict=True) if s]
    assert first == [0.5] * text.example(TWO_TURNS[:2]).answer_tokens + [2.0] * 2
    assert [s > 0 for s in example.scale] == example.mask


def test_a_message_of_weight_0_is_context() -> None:
    text = TEXTS["chatml"]
    chat = [user("hi"), answer("hello", weight=0), user("1 + 1"), answer("2", weight=1)]
    assert text.example(chat, loss=ASSISTANT) == text.example(TWO_TURNS)
    silent = [user("hi"), answer("", weight=0), user("1 + 1"), answer("2")]
    assert shown(text, text.example(silent, loss=ASSISTANT)).endswith("assistant\n[[2<|im_end|>]]")
    last = text.example(TWO_TURNS, loss=ASSISTANT, weights=[1, 1, 1, 0])
    assert shown(text, last) == CHATML.assistant.replace("[[2<|im_end|>]]", "2<|im_end|>\n")


def test_roles_weigh_apart_under_all() -> None:
    text = TEXTS["chatml"]
    loss = LossOn("all", {"user": 0.25, "assistant": 1.0})
    example = text.example(TWO_TURNS, loss=loss)
    assert example.ids == text.example(TWO_TURNS).ids
    assert example.scale is not None
    start = text.tokenizer.convert_tokens_to_ids("<|im_start|>")
    heads = [i for i, token in enumerate(example.ids) if token == start]
    assert [example.scale[i] for i in heads] == [0.0, 1.0, 0.25, 1.0]  # the first token of all never counts
    assert example.scale[1 : heads[1]] == [0.25] * (heads[1] - 1)
    assert example.scale[heads[3] :] == [1.0] * (len(example.ids) - heads[3])
    without = text.example(TWO_TURNS, loss=LossOn("all", {"user": 0.0}))
    assert shown(text, without) == (
        "<|im_start|>user\nhi<|im_end|>\n[[<|im_start|>assistant\nhello<|im_end|>\n]]"
        "<|im_start|>user\n1 + 1<|im_end|>\n[[<|im_start|>assistant\n2<|im_end|>]]"
    )
    assert without.scale is None


def test_text_joins_contents_without_a_template() -> None:
    text = TEXTS["headers"]
    assert text.example([user("hi "), answer("there")], loss=TEXT) == text.text_example("hi there")
    weighed = text.example([user("hi "), answer("there")], loss=TEXT, weights=[0.5, 0.5])
    assert weighed.scale == [0.0] + [0.5] * (len(weighed.ids) - 1)
    with pytest.raises(InputError, match="all messages weigh the same"):
        text.example([user("hi "), answer("there")], loss=TEXT, weights=[0, 1])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"what": "answers"}, r"loss\.what must be one of completion, assistant, all, text; got 'answers'"),
        ({"markers": "yes"}, r"loss\.markers must be one of auto, require, ignore; got 'yes'"),
        (
            {"role_weights": {"user": 1.0}},
            "names user, whose tokens have no weight .* set loss.what to 'all'",
        ),
        ({"what": "all", "role_weights": {"user": -1.0}}, "finite number of at least 0; got -1.0"),
        ({"role_weights": {"assistant": float("nan")}}, "got nan"),
    ],
)
def test_settings_that_make_no_sense(settings: Mapping[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        LossOn(**settings)


@pytest.mark.parametrize(
    ("weights", "told"),
    [([1], "1 message weights for 4"), ([1, 1, 1, -1], "message 3 must be"), ([1, 1, 1, 0], "empty mask")],
)
def test_weights_that_make_no_sense(weights: list[float], told: str) -> None:
    with pytest.raises(InputError, match=told):
        TEXTS["chatml"].example(TWO_TURNS, weights=weights)


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = answer(None, tool_calls=[{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}])
WITH_TOOL = [user("1 + 1"), CALL, {"role": "tool", "content": "2", "name": None}, answer("two")]


def test_tools_and_calls_pass_through_the_template() -> None:
    text = TEXTS["chatml"]
    example = text.example(WITH_TOOL, tools=TOOLS, loss=ASSISTANT)
    assert shown(text, example) == (
        '<|im_start|>system\nTools:\n{"type": "function", "function": {"name": "add", "parameters": '
        '{"type": "object"}}}<|im_end|>\n<|im_start|>user\n1 + 1<|im_end|>\n<|im_start|>assistant\n'
        '[[<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n[[two<|im_end|>]]"
    )
    prompt = text.prompt_ids(WITH_TOOL[:3], TOOLS)
    assert example.ids[: len(prompt)] == prompt
    assert text.example(WITH_TOOL, tools=[], loss=ASSISTANT) == text.example(WITH_TOOL, loss=ASSISTANT)


@pytest.mark.parametrize("name", ["headers", "inst"])
def test_a_template_that_knows_no_tools_refuses_them(name: str) -> None:
    with pytest.raises(InputError, match="does not show the model the tool 'add'"):
        TEXTS[name].example(TWO_TURNS, tools=TOOLS)
    with pytest.raises(InputError, match="does not show the model the tool 'add'"):
        TEXTS[name].prompt_ids(TWO_TURNS[:1], TOOLS)
    with pytest.raises(InputError, match="a tool is a JSON schema with a name"):
        TEXTS[name].prompt_ids(TWO_TURNS[:1], [{"description": "adds"}])


def test_a_template_that_drops_a_call_is_refused() -> None:
    with pytest.raises(InputError, match="leaves out 'add' of the assistant message"):
        QWEN_TEXT.example([user("1 + 1"), answer("", tool_calls=CALL["tool_calls"])])
    with pytest.raises(InputError, match=r"'plain' writes contents that are texts, but .* has tool calls"):
        CHATML.text("plain").example([user("1 + 1"), CALL])


def test_reasoning_of_the_last_answer_counts() -> None:
    field = [user("1 + 1"), answer("2", reasoning_content="hi there")]
    inline = [user("1 + 1"), answer("<think>hi there</think>2")]
    head = "<|im_start|>user\n1 + 1<|im_end|>\n<|im_start|>assistant\n"
    expected = head + "[[<think>\nhi there\n</think>\n\n2<|im_end|>]]"
    for chat in (field, inline):
        for loss in (LossOn(), ASSISTANT):
            assert shown(QWEN_TEXT, QWEN_TEXT.example(chat, loss=loss)) == expected
    deepseek = TEXTS["thinking"].example([user("hi"), answer("<think>\nhello\n</think>\n2")])
    assert shown(TEXTS["thinking"], deepseek) == (
        "<|begin_of_sentence|><|User|>hi<|Assistant|>[[<think>\nhello\n</think>\n2<|end_of_sentence|>]]"
    )


THOUGHT = [
    user("hi"),
    answer("<think>\nhello\n</think>\nthere"),
    user("1 + 1"),
    answer("<think>\n1\n</think>\n2"),
]


def test_stripped_reasoning_of_earlier_turns_is_fine_for_the_last_answer() -> None:
    text = TEXTS["thinking"]
    example, prompt = text.example(THOUGHT), text.prompt_ids(THOUGHT[:3])
    assert example.ids[: len(prompt)] == prompt
    assert shown(text, example) == (
        "<|begin_of_sentence|><|User|>hi<|Assistant|>there<|end_of_sentence|>"
        "<|User|>1 + 1<|Assistant|>[[<think>\n1\n</think>\n2<|end_of_sentence|>]]"
    )


@pytest.mark.parametrize("text", [TEXTS["thinking"], QWEN_TEXT], ids=["strips", "empty reasoning at the end"])
def test_stripped_reasoning_is_ambiguous_when_every_answer_counts(text: ChatText) -> None:
    with pytest.raises(InputError, match=r"rewrites the .* message 1 .* set loss.what to 'completion'"):
        text.example(THOUGHT, loss=ASSISTANT)


def test_markers_do_not_hide_stripped_reasoning() -> None:
    template = source("thinking").replace(
        "' + content + '", "' }}{% generation %}{{- content }}{% endgeneration %}{{- '"
    )
    text = THINKING.text(template)
    assert text.example(TWO_TURNS, loss=ASSISTANT) == TEXTS["thinking"].example(TWO_TURNS, loss=ASSISTANT)
    with pytest.raises(InputError, match="leaves out '<think>"):
        text.example(THOUGHT, loss=ASSISTANT)


def test_reasoning_that_a_template_drops_is_refused() -> None:
    with pytest.raises(InputError, match="leaves out 'hi there' of the assistant message"):
        TEXTS["chatml"].example([user("1 + 1"), answer("2", reasoning_content="hi there")])
    silent = THINKING.text(source("thinking").replace("loop.last or ", ""))
    with pytest.raises(InputError, match="leaves out '<think>"):
        silent.example(THOUGHT)


def test_a_template_that_begins_the_reasoning_itself_is_ambiguous() -> None:
    with pytest.raises(InputError, match="ambiguous what the mask covers"):
        INVITED.text().example(THOUGHT)


def test_no_token_spans_a_join_of_any_turn() -> None:
    text = TEXTS["chatml"]
    double = text.tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    assert len(double) == 1  # the vocabulary would merge a header's line break with an answer's
    chat = [user("hi"), answer("\nhello"), user("1 + 1"), answer("\n2")]
    example = text.example(chat, loss=ASSISTANT)
    assert double[0] not in example.ids
    assert shown(text, example) == CHATML.assistant.replace("[[", "[[\n")
    assert double[0] in text.prompt_ids(chat[:3])  # which reads the earlier answer as text
    for stop in (2, 4):
        alone = text.example(chat[:stop])
        counted = [i for i, counts in zip(alone.ids, alone.mask, strict=True) if counts]
        assert text.decode(counted) == chat[stop - 1]["content"]
        runs = [example.ids[at : at + len(counted)] for at in range(len(example.ids)) if example.mask[at]]
        assert counted in runs


def test_each_turn_follows_its_header_as_sampling_saw_it() -> None:
    core = Tokenizer(models.BPE({"<eos>": 0, "Ċ": 1, "ĊĊ": 2, "a": 3, "b": 4}, [("Ċ", "Ċ")]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content + eos_token }}"
        "{% else %}{{ '\n\n' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n\n' }}{% endif %}"
    )
    text = ChatText(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>"), template)
    chat = [user("a"), answer("b"), user("a"), answer("b")]
    # GPT-2's rule reads a word's preceding line break apart: in one text the header before b is 1 1, before nothing 2
    assert text.prompt_ids(chat[:1]) == [3, 0, 2]
    assert text.prompt_ids(chat[:3]) == [3, 0, 1, 1, 4, 0, 3, 0, 2]
    assert text.example(chat, loss=ASSISTANT).ids == [3, 0, 2, 4, 0, 3, 0, 2, 4, 0]


WORDS = st.text("ab \n", min_size=1, max_size=6).filter(lambda words: words.strip())


@settings(max_examples=25, deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=6).filter(lambda chat: len(chat) % 2 == 0))
def test_any_conversation_comes_back(contents: list[str]) -> None:
    chat = [(answer if i % 2 else user)(content) for i, content in enumerate(contents)]
    for text in TEXTS.values():
        example = text.example(chat, loss=ASSISTANT)
        said, at = [], 0
        while True in example.mask[at:]:
            start = example.mask.index(True, at)
            at = [*example.mask, False].index(False, start)
            said.append(text.decode(example.ids[start:at]))
        trims = text in (TEXTS["headers"], TEXTS["inst"], TEXTS["turns"])
        expected = [content.strip() if trims else content for content in contents[1::2]]
        if text is TEXTS["roles"]:  # a blank before its end token belongs to neither
            said, expected = [s.strip() for s in said], [e.strip() for e in expected]
        assert [s.strip(" ") if text is TEXTS["inst"] else s for s in said] == expected
        assert ends(text, example) == [0] * len(said)
        last = text.example(chat)
        prompt = text.prompt_ids(chat[:-1])
        assert last.ids[: len(prompt)] == prompt
        assert example.ids[len(example.ids) - last.answer_tokens :] == last.ids[len(prompt) :]


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_an_empty_answer_is_refused(empty: str | None) -> None:
    with pytest.raises(InputError, match="the answer in message 1 is empty"):
        TEXTS["chatml"].example([user("hi"), answer(empty)])
    with pytest.raises(InputError, match="the answer in message 1 is empty"):
        TEXTS["chatml"].example([user("hi"), answer(empty), *TWO_TURNS], loss=ASSISTANT)


@pytest.mark.parametrize("loss", [ASSISTANT, ALL])
def test_a_conversation_where_nothing_counts_is_refused(loss: LossOn) -> None:
    weights = [0] if loss is ALL else None
    with pytest.raises(InputError, match=r"no token counts: .*\['user'\]"):
        TEXTS["chatml"].example([user("hi")], loss=loss, weights=weights)
    with pytest.raises(InputError, match="nothing to learn"):
        TEXTS["chatml"].text_example(" ")


def test_roles_that_a_template_refuses() -> None:
    with pytest.raises(InputError, match=r"refuses the roles \['user', 'judge', .*unknown role judge"):
        TEXTS["chatml"].example([user("hi"), {"role": "judge", "content": "hi"}, answer("2")])
    with pytest.raises(InputError, match=r"refuses the roles .* must alternate"):
        TEXTS["inst"].example([user("hi"), user("hi"), answer("2")])


@pytest.mark.parametrize("chat", [[user("a\0b"), answer("2")], [user("hi"), answer("a\0b")]])
def test_nul_bytes_are_refused(chat: Chat) -> None:
    for text in (TEXTS["chatml"], TEXTS["inst"]):
        with pytest.raises(InputError, match="NUL byte at character"):
            text.example(chat)
    with pytest.raises(InputError, match="NUL byte at character 1 of a text, after 'a'"):
        TEXTS["chatml"].text_example("a\0b")


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="the tokenizer cannot read"):
        TEXTS["chatml"].example([user("hi"), answer("a\ud800")])


def test_a_tokenizer_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match=r"does not know 'ß', 'é' of the text .* tokenizer of the network"):
        TEXTS["inst"].example([user("hi"), answer("éß")])
    silent = Tokenizer(models.BPE({c: i for i, c in enumerate(["<eos>", *"hi 2"])}, []))
    text = ChatText(PreTrainedTokenizerFast(tokenizer_object=silent, eos_token="<eos>"))
    assert text.example([user("hi"), answer("2<eos>")]).ids == [1, 2, 4, 0]
    with pytest.raises(InputError, match="does not know 'x', 'y' of the text 'yx2'"):  # it would drop them
        text.example([user("hi"), answer("yx2")])
    no_unknown = Tokenizer(models.WordLevel({"<eos>": 0, "hi": 1}, unk_token="<unk>"))
    with pytest.raises(InputError, match="the tokenizer cannot read"):
        ChatText(PreTrainedTokenizerFast(tokenizer_object=no_unknown, eos_token="<eos>"))


def test_a_template_without_end_tokens_learns_the_last_answer_only() -> None:
    text = CHATML.text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                       "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    assert shown(text, text.example(TWO_TURNS)).endswith("assistant: [[2\n<|endoftext|>]]")
    with pytest.raises(InputError, match="no end token after the earlier answer"):
        text.example(TWO_TURNS, loss=ASSISTANT)


def test_an_end_token_inside_an_earlier_answer_is_ambiguous() -> None:
    for said in (
        "hel<|im_end|>lo",
        "hello<|im_end|>",
    ):  # the second one would leave two end tokens in the context
        chat = [user("hi"), answer(said), user("1 + 1"), answer("2")]
        for text in (TEXTS["chatml"], MARKED_TEXT):
            with pytest.raises(InputError, match=r"holds the end token '<\|im_end\|>' before its end"):
                text.example(chat, loss=ASSISTANT)


def test_what_calls_leave_in_a_tokenizer_cuts_nothing() -> None:
    for text in TEXTS.values():
        text.tokenizer(
            ["hi", "hello there"], padding=text.tokenizer.pad_token is not None, truncation=True, max_length=3
        )
        assert len(text.prompt_ids([user("hi " * 50)])) > 50


@each_family
def test_ids_are_those_of_a_call(name: str) -> None:
    text = TEXTS[name]
    for words in (FAMILIES[name].completion, "hi  there\n\n 1 + 1", "<s></s> hello"):
        assert (
            Encoder(text.tokenizer).ids(words) == text.tokenizer(words, add_special_tokens=False)["input_ids"]
        )
