"""Conversations by the templates of well-known networks, against texts written by hand."""

from dataclasses import replace

import pytest
from vocabularies import trained

from wlab.pretrained import text
from wlab.pretrained.text.tokenizer import wrapped

CHATML = """\
{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|begin|>system\\nHelp.<|end|>\\n' }}
    {%- endif %}
    {{- '<|begin|>' + message['role'] + '\\n' + message['content'] + '<|end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
    {# what is drawn goes on from here #}
    {{- '<|begin|>assistant\\n' }}
{%- endif %}"""
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 is even) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
HELLO = {"role": "user", "content": "Größe <b> & 1984?"}
ANSWER = {"role": "assistant", "content": " I've two. "}


@pytest.fixture(scope="module")
def words() -> text.Tokenizer:
    return wrapped(trained("smollm", size=400), bos=0, eos=1)


def tokens(words: text.Tokenizer, template: str, *messages: object, **options: object) -> list[int]:
    return text.apply_chat_template(replace(words, chat_template=template), messages, **options)


CASES = {
    "a system's words where there are none": (
        CHATML,
        [HELLO],
        "<|begin|>system\nHelp.<|end|>\n<|begin|>user\nGröße <b> & 1984?<|end|>\n"
        "<|begin|>assistant\n",
    ),
    "a system's own words": (
        CHATML,
        [{"role": "system", "content": "Be brief."}, HELLO],
        "<|begin|>system\nBe brief.<|end|>\n<|begin|>user\nGröße <b> & 1984?<|end|>\n"
        "<|begin|>assistant\n",
    ),
    "turns": (
        INSTRUCT,
        [HELLO, ANSWER, HELLO],
        "<|begin|>[INST] Größe <b> & 1984? [/INST] I've two.<|end|>"
        "[INST] Größe <b> & 1984? [/INST]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_conversation_is_what_its_network_was_taught(words, case):
    template, messages, written = CASES[case]
    found = tokens(words, template, *messages)
    assert words.inner.decode(found, skip_special_tokens=False) == written
    assert found == words.inner.encode(written).ids
    assert found.count(0) == written.count("<|begin|>")  # one token each, and none before them


def test_without_the_answers_beginning_it_ends_with_what_was_said(words):
    found = tokens(words, CHATML, HELLO, add_generation_prompt=False)
    whole = tokens(words, CHATML, HELLO)
    assert whole[: len(found)] == found and len(found) < len(whole)


def test_json_is_not_written_for_web_pages_and_variables_reach_the_template(words):
    template = "{{ tools | tojson(indent=2) }}{% if mood is defined %}{{ mood }}{% endif %}"
    found = tokens(words, template, tools=[{"ö<&'": 1}], mood="glad")
    assert words.decode(found) == '[\n  {\n    "ö<&\'": 1\n  }\n]glad'


def test_the_date_is_todays(words):
    assert words.decode(tokens(words, "{{ strftime_now('%Y') }}")).startswith("20")


REFUSED = {
    "its own complaint": (INSTRUCT, "Roles must alternate"),
    "no Jinja": ("{% for m in messages %}", "endfor"),
    "a tag of its own": ("{% generation %}", "generation"),
    "what is not there": ("{{ nothing.at_all }}", "'nothing' is undefined"),
    "Python's insides": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "a change of what it is given": ("{{ messages.append(1) }}", "unsafe|attribute"),
    "a range without end": ("{% for i in range(10**9) %}{% endfor %}", "[Rr]ange"),
    "a number and a word": ("{{ 1 + 'a' }}", "unsupported operand"),
    "nothing as a divisor": ("{{ 1 / 0 }}", "division by zero"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_template_cannot_do_is_said(words, case):
    template, said = REFUSED[case]
    with pytest.raises(ValueError, match=f"refuses the conversation: .*({said})"):
        tokens(words, template, ANSWER)


def test_a_vocabulary_without_a_template_says_so(words):
    with pytest.raises(ValueError, match="no chat template came"):
        text.apply_chat_template(words, [HELLO])
