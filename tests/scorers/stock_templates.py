"""Chat templates and tokenizers of well-known model families, rebuilt in small.

Each template is written anew and renders what the family's own does for the conversations of the tests,
quirks included; long texts are shortened. Each tokenizer has the real one's special tokens, how they treat
blanks beside them, and how it splits text (see stock_tokenizers.py).
"""

# ruff: noqa: ANN401 - transformers is untyped

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from scorers.models.rendering import Renderer
from tests.scorers.stock_tokenizers import trained_core

MAX_TOKENS = 4096


@dataclass(frozen=True)
class Family:
    """What a model family's tokenizer has; `template` is None for a base model.

    Attributes:
        core: How it splits text: "gpt2", "gpt4", "prepend", "first", "never" or "always" (see above).
        special: Its special tokens beside `bos` and `eos`.
        ordinary: Tokens that were added whole but are not special.
        strips: Sides on which the tokens of `special` swallow blanks and line breaks: "", "r" or "lr".
    """

    core: str
    bos: str | None
    eos: str
    template: str | None
    special: tuple[str, ...] = ()
    ordinary: tuple[str, ...] = ()
    strips: str = ""


def _assistant(header: str) -> str:
    return "{% if add_generation_prompt %}{{ '" + header + "' }}{% endif %}"


_CHATML_TURN = "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"
_CHATML_END = _assistant("<|im_start|>assistant\n")
CHATML = "{% for m in messages %}" + _CHATML_TURN + "{% endfor %}" + _CHATML_END
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nI am SmolLM.<|im_end|>\n' }}{% endif %}"
    + CHATML
)

_LLAMA3_TURN = (
    "{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ m.content | trim ~ '<|eot_id|>' }}"
)
_LLAMA3_END = _assistant("<|start_header_id|>assistant<|end_header_id|>\n\n")
LLAMA3 = "{{ bos_token }}{% for m in messages %}" + _LLAMA3_TURN + "{% endfor %}" + _LLAMA3_END
# The system turn is always there; the tools go into the first user turn.
LLAMA32 = (
    "{{- bos_token }}{% set today = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}"
    "{% set system = '' %}{% set turns = messages %}"
    "{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content | trim %}{% set turns = messages[1:] %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{% if tools is not none %}{{ 'Environment: ipython\n' }}{% endif %}"
    "{{ 'Cutting Knowledge Date: December 2023\nToday Date: ' + today + '\n\n' + system + '<|eot_id|>' }}"
    "{% for m in turns %}"
    "{% if loop.first and tools is not none %}"
    "{{ '<|start_header_id|>user<|end_header_id|>\n\nFunctions:\n\n' }}"
    "{% for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}"
    "{{ m.content | trim ~ '<|eot_id|>' }}"
    "{% elif 'tool_calls' in m %}{% set call = m.tool_calls[0].function %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one tool call at a time') }}{% endif %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    '{{ \'{"name": "\' ~ call.name ~ \'", "parameters": \' }}'
    "{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}"
    "{% elif m.role == 'tool' %}"
    "{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' ~ m.content | tojson ~ '<|eot_id|>' }}"
    "{% else %}" + _LLAMA3_TURN + "{% endif %}{% endfor %}" + _LLAMA3_END
)
# No header; BOS before each user turn; the system prompt inside the first.
LLAMA2 = (
    "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    "{% for m in turns %}{% set text = m.content %}"
    "{% if loop.first and messages[0].role == 'system' %}"
    "{% set text = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' ~ m.content %}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ text.strip() ~ ' [/INST]' }}"
    "{% else %}{{ ' ' ~ text.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"
)

_CALLS = (
    "{% for call in m.tool_calls or [] %}"
    '{{ separator ~ \'<tool_call>\n{"name": "\' ~ call.function.name ~ \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}"
)
_TOOL_RESULT = (
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' ~ m.content ~ '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
)


def _qwen_system(default: str) -> str:
    """The first turn of Qwen: the system prompt or its default, and the tools."""
    return (
        "{% set system = messages[0].content if messages[0].role == 'system' else '" + default + "' %}"
        "{% if tools %}{{ '<|im_start|>system\n' ~ system ~ '\n\n# Tools\n\n<tools>' }}"
        "{% for tool in tools %}{{ '\n' ~ tool | tojson }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}"
        "{% elif system %}{{ '<|im_start|>system\n' ~ system ~ '<|im_end|>\n' }}{% endif %}"
    )


QWEN25 = (
    _qwen_system("I am Qwen.") + "{% for m in messages %}"
    "{% if m.role == 'system' and loop.first %}"
    "{% elif m.role == 'tool' %}" + _TOOL_RESULT + "{% elif m.tool_calls %}"
    "{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\n' ~ m.content }}{% endif %}"
    "{% set separator = '\n' %}" + _CALLS + "{{ '<|im_end|>\n' }}"
    "{% else %}" + _CHATML_TURN + "{% endif %}{% endfor %}" + _CHATML_END
)


def _qwen3(header: str, shown: str) -> str:
    """Qwen 3 and later: only answers after the user's last question show their thoughts."""
    return (
        _qwen_system("") + "{% set seen = namespace(last=messages | length - 1) %}"
        "{% for m in messages %}"
        "{% if m.role == 'user' %}{% set seen.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}"
        "{% if m.role == 'system' and loop.first %}"
        "{% elif m.role == 'tool' %}" + _TOOL_RESULT + "{% elif m.role == 'assistant' %}"
        "{% set thoughts, content = '', m.content %}{% if '</think>' in content %}"
        "{% set thoughts = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{{ '<|im_start|>assistant\n' }}"
        "{% if loop.index0 > seen.last and (" + shown + ") %}"
        "{{ '<think>\n' ~ thoughts ~ '\n</think>\n\n' ~ content.lstrip('\n') }}"
        "{% else %}{{ content }}{% endif %}"
        "{% set separator = '\n' if content else '' %}" + _CALLS + "{{ '<|im_end|>\n' }}"
        "{% else %}" + _CHATML_TURN + "{% endif %}{% endfor %}" + _assistant(header)
    )


QWEN3 = _qwen3("<|im_start|>assistant\n", "loop.last or thoughts")
QWEN35 = _qwen3("<|im_start|>assistant\n<think>\n", "true")  # the header opens the thoughts

_SMOLLM3_SYSTEM = (
    "{% set system = messages[0].content if messages[0].role == 'system' else 'I am SmolLM.' %}"
    "{{ '<|im_start|>system\n## Metadata\n\nToday Date: ' ~ strftime_now('%d %B %Y') }}"
    "{{ '\nReasoning Mode: /think\n\n## Custom Instructions\n\n' ~ system ~ '\n\n<|im_end|>\n' }}"
)
SMOLLM3 = (
    _SMOLLM3_SYSTEM
    + "{% for m in messages %}{% if m.role == 'user' %}"
    + _CHATML_TURN
    + "{% elif m.role == 'assistant' %}"
    "{% generation %}{{ '<|im_start|>assistant\n' ~ m.content.lstrip('\n') ~ '<|im_end|>\n' }}"
    "{% endgeneration %}"
    "{% endif %}{% endfor %}" + _CHATML_END
)


def _gemma(system: str) -> str:
    return (
        "{{ bos_token }}{% set ns = namespace(before='', turns=messages) %}"
        "{% if messages[0].role == 'system' %}" + system + "{% endif %}{% for m in ns.turns %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' }}"
        "{{ (ns.before if loop.first else '') ~ m.content | trim ~ '<end_of_turn>\n' }}"
        "{% endfor %}" + _assistant("<start_of_turn>model\n")
    )


GEMMA2 = _gemma("{{ raise_exception('no system role') }}")
GEMMA3 = _gemma("{% set ns.before = messages[0].content ~ '\n\n' %}{% set ns.turns = messages[1:] %}")


def _mistral(opening: str, closing: str, answer: str, system: str, tools: str = "") -> str:
    """Mistral without a system role: the system prompt goes into the user turn where `system` is true."""
    return (
        "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
        "{% set turns = messages[1:] if system is not none else messages %}{{ bos_token }}"
        "{% set users = turns | selectattr('role', 'equalto', 'user') | list %}"
        "{% for m in turns %}{% if m.role == 'user' %}" + tools + "{{ '" + opening + "' }}"
        "{% if " + system + " and system is not none %}{{ system ~ '\n\n' }}{% endif %}"
        "{{ m.content ~ '" + closing + "' }}"
        "{% elif m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}"
        "{% if call.id is not defined or call.id | length != 9 %}"
        "{{ raise_exception('9 letters for a call id') }}{% endif %}"
        "{{ (call.function | tojson)[:-1] ~ ', \"id\": \"' ~ call.id ~ '\"}' }}"
        "{{ ', ' if not loop.last else ']' ~ eos_token }}{% endfor %}"
        "{% elif m.role == 'assistant' %}{{ " + answer + " ~ eos_token }}"
        "{% elif m.role == 'tool' and m.tool_call_id is not defined %}"
        "{{ raise_exception('9 letters for a call id') }}"
        "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
    )


_AVAILABLE_TOOLS = (
    "{% if tools is not none and m == users[-1] %}"
    "{{ '[AVAILABLE_TOOLS]' ~ tools | tojson ~ '[/AVAILABLE_TOOLS]' }}{% endif %}"
)
MISTRAL01 = _mistral(" [INST] ", " [/INST]", "' ' ~ m.content", "loop.first")
MISTRAL03 = _mistral("[INST] ", "[/INST]", "' ' ~ m.content | trim", "loop.last", _AVAILABLE_TOOLS)
MISTRAL_LAST_USER = _mistral("[INST] ", "[/INST]", "' ' ~ m.content", "m == users[-1]")  # as mistral-common
NEMO = _mistral("[INST]", "[/INST]", "m.content", "loop.last", _AVAILABLE_TOOLS)
# A version that many conversions of 7B still carry: no blank between "[/INST]" and the answer.
MISTRAL_TIGHT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' ~ m.content ~ ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content ~ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
MISTRAL7 = (
    "{% set day = strftime_now('%Y-%m-%d') %}{{ bos_token }}"
    "{% if messages[0].role != 'system' %}"
    "{{ '[SYSTEM_PROMPT]I am Mistral. It is ' ~ day ~ '.[/SYSTEM_PROMPT]' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' ~ m.content ~ '[/SYSTEM_PROMPT]' }}"
    "{% elif m.role == 'user' %}{{ '[INST]' ~ m.content ~ '[/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content ~ eos_token }}{% endif %}{% endfor %}"
)

PHI3 = (
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '<|im_sep|>' ~ m.content }}<|im_end|>{% endfor %}"
    + _assistant("<|im_start|>assistant<|im_sep|>")
)
ZEPHYR = (
    "{% for m in messages %}\n{% if m.role in ['user', 'system', 'assistant'] %}\n"
    "{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)


def _deepseek(header: str) -> str:
    """Text up to </think> is left out of every answer; calls are shown only where the content is none."""
    return (
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.system = m.content %}{% endif %}{% endfor %}{{ bos_token ~ ns.system }}"
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' ~ m.content }}"
        "{% elif m.role == 'assistant' and m.content is none %}"
        "{{ '<｜Assistant｜>' ~ m.tool_calls[0].function.name ~ '<｜end▁of▁sentence｜>' }}"
        "{% elif m.role == 'assistant' %}"
        "{{ '<｜Assistant｜>' ~ m.content.split('</think>')[-1] ~ '<｜end▁of▁sentence｜>' }}"
        "{% endif %}{% endfor %}" + _assistant(header)
    )


DEEPSEEK = _deepseek("<｜Assistant｜>")
DEEPSEEK_THINKING = _deepseek("<｜Assistant｜><think>\n")  # the header of later revisions

_IM = ("<|im_start|>",)
_TOOL_TAGS = ("<tool_call>", "</tool_call>")
_THINK_TAGS = (*_TOOL_TAGS, "<tool_response>", "</tool_response>", "<think>", "</think>")
_LLAMA3_TAGS = ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>")
_MISTRAL_TAGS = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
_SYSTEM_TAGS = ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
_PHI3_TAGS = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
_LLAMA3_TOKENS = ("gpt4", "<|begin_of_text|>", "<|eot_id|>")
_DEEPSEEK_TOKENS = ("gpt4", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
_DEEPSEEK_TAGS = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")

FAMILIES = {
    "chatml": Family("gpt4", None, "<|im_end|>", CHATML, _IM),
    "smollm2": Family("gpt2", "<|im_start|>", "<|im_end|>", SMOLLM2),
    "smollm3": Family("gpt4", None, "<|im_end|>", SMOLLM3, _IM, _THINK_TAGS),
    "llama2": Family("prepend", "<s>", "</s>", LLAMA2),
    "llama3": Family(*_LLAMA3_TOKENS, LLAMA3, _LLAMA3_TAGS),
    "llama32": Family(*_LLAMA3_TOKENS, LLAMA32, _LLAMA3_TAGS),
    "qwen25": Family("gpt4", None, "<|im_end|>", QWEN25, (*_IM, "<|endoftext|>"), _TOOL_TAGS),
    "qwen3": Family("gpt4", None, "<|im_end|>", QWEN3, (*_IM, "<|endoftext|>"), _THINK_TAGS),
    "qwen35": Family("gpt4", None, "<|im_end|>", QWEN35, (*_IM, "<|endoftext|>"), _THINK_TAGS),
    "gemma2": Family("never", "<bos>", "<eos>", GEMMA2, ("<start_of_turn>", "<end_of_turn>")),
    "gemma3": Family("never", "<bos>", "<eos>", GEMMA3, ("<start_of_turn>", "<end_of_turn>")),
    "mistral01": Family("prepend", "<s>", "</s>", MISTRAL01),
    "mistral_tight": Family("prepend", "<s>", "</s>", MISTRAL_TIGHT),
    "mistral03": Family("first", "<s>", "</s>", MISTRAL03, _MISTRAL_TAGS),
    "mistral_last_user": Family("first", "<s>", "</s>", MISTRAL_LAST_USER, _MISTRAL_TAGS),
    "nemo": Family("gpt4", "<s>", "</s>", NEMO, _MISTRAL_TAGS),
    "mistral7": Family("gpt4", "<s>", "</s>", MISTRAL7, (*_MISTRAL_TAGS, *_SYSTEM_TAGS)),
    "phi3": Family("prepend", "<s>", "<|endoftext|>", PHI3, _PHI3_TAGS, strips="r"),
    "phi4": Family("gpt4", "<|endoftext|>", "<|im_end|>", PHI4, (*_IM, "<|im_sep|>"), strips="lr"),
    "zephyr": Family("first", "<s>", "</s>", ZEPHYR),
    "tinyllama": Family("prepend", "<s>", "</s>", ZEPHYR),
    "deepseek": Family(*_DEEPSEEK_TOKENS, DEEPSEEK, (), _DEEPSEEK_TAGS),
    "deepseek_thinking": Family(*_DEEPSEEK_TOKENS, DEEPSEEK_THINKING, (), _DEEPSEEK_TAGS),
    "base_llama": Family("first", "<s>", "</s>", None),
    "base_qwen": Family("gpt4", None, "<|endoftext|>", None),
    "base_unigram": Family("always", None, "</s>", None),
}


@lru_cache
def family_tokenizer(name: str) -> Any:
    """The tokenizer of a family, with its template."""
    family = FAMILIES[name]
    tokenizer = Tokenizer.from_str(trained_core(family.core))
    edges = [token for token in (family.bos, family.eos) if token is not None]
    left, right = "l" in family.strips, "r" in family.strips
    chat = [AddedToken(token, lstrip=left, rstrip=right, normalized=False) for token in family.special]
    tokenizer.add_special_tokens([*(AddedToken(token, normalized=False) for token in edges), *chat])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in family.ordinary])
    if family.bos is not None:  # as the real ones: a second BOS before text that is not rendered text
        opening = [(family.bos, tokenizer.token_to_id(family.bos))]
        tokenizer.post_processor = processors.TemplateProcessing(f"{family.bos} $A", special_tokens=opening)
    names = {"eos_token": family.eos} | ({} if family.bos is None else {"bos_token": family.bos})
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, clean_up_tokenization_spaces=False, **names
    )
    fast.chat_template = family.template
    return fast


def family_renderer(name: str, **changes: Any) -> Renderer:
    """A renderer for a family: `changes` are fields of Renderer, `loss_on` and `score_end` above all."""
    tokenizer = family_tokenizer(name)
    template = "tokenizer" if FAMILIES[name].template else "plain"
    return Renderer(tokenizer, template, MAX_TOKENS, "drop", len(tokenizer), **changes)
