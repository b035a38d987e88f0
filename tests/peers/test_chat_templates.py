"""Conversations as the transformers package puts them, template by template."""

from dataclasses import replace

import pytest
import transformers
from vocabularies import trained

from wlab.pretrained import text
from wlab.pretrained.text.tokenizer import wrapped

INNER = trained("qwen2", size=400)
WORDS = wrapped(INNER, bos=0, eos=1)
TALK = [
    {"role": "system", "content": "  Be brief.\n"},
    {"role": "user", "content": "Größe of 'x' & <y>?\n\nNow!"},
    {"role": "assistant", "content": "I've  two, 1984.", "tool_calls": [{"ö": [1, None]}]},
    {"role": "user", "content": ""},
]
# Written in the ways that LLaMA's, Mistral's, Qwen's, SmolLM's and Gemma's are.
TEMPLATES = {
    "loops and dashes": (
        "{%- for m in messages -%}\n  <|begin|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n"
        "{%- endfor -%}\n\n{% if add_generation_prompt %}\n    <|begin|>assistant\n{% endif %}\n"
    ),
    "namespaces": (
        "{% set ns = namespace(last=-1) %}\n{% for m in messages %}\n"
        "    {% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}\n{% endfor %}\n"
        "{{ bos_token }}{{ messages[ns.last:] | length }} {{ messages[0].content | trim }}"
    ),
    "json": (
        "{% for m in messages if m.tool_calls is defined %}\n{{ m.tool_calls | tojson }}\n"
        "{{ m | tojson(indent=4) }}{% endfor %}"
    ),
    "breaks": (
        "{% for m in messages %}{% if loop.index0 == 0 %}{% continue %}{% endif %}"
        "{{ m.content.split('\\n')[-1] }}{% if m.role == 'assistant' %}{% break %}{% endif %}"
        "{{ eos_token }}{% endfor %}"
    ),
    "macros and slices": (
        "{% macro turn(m) %}<|begin|>{{ m.role | upper }}: {{ m.content }}{% endmacro %}\n"
        "{%- for m in messages[::-1] %}\n    {{- turn(m) + '\\n' -}}\n{% endfor %}"
    ),
    "what is not given": "{% if tools is none or not tools %}none{% endif %}{{ documents }}",
    "dates": "{{ strftime_now('%d %b %Y') }}",
}


@pytest.mark.parametrize("begun", [True, False], ids=["answer begun", "as said"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_tokens_are_those_of_transformers(template, begun):
    peer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=INNER, bos_token="<|begin|>", eos_token="<|end|>"
    )
    theirs = peer.apply_chat_template(
        TALK, chat_template=template, add_generation_prompt=begun, tokenize=False
    )
    ours = text.apply_chat_template(
        replace(WORDS, chat_template=template), TALK, add_generation_prompt=begun
    )
    assert theirs and ours == peer(theirs, add_special_tokens=False)["input_ids"]
