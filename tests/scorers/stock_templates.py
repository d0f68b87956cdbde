"""Chat templates of model families, in our own words: what they render, quirks included, and nothing more.

Each family also says how its tokenizer treats the beginning of a text, which is where borders go wrong.
"""

# ruff: noqa: E501 - templates keep their own lines

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        template: Its chat template.
        special: Its special tokens.
        bos: Token that opens a conversation, None where the family has none.
        eos: Token that the tokenizer calls the end.
        kind: "bytes" for byte-level BPE; SentencePiece that puts a blank before a text "first" (of the text
            only), "always" (after each special token too) or "never".
        expected: What a system turn, a question and an answer are rendered as; "" where it is refused.
        end: What closes the answer.
        rewrites: Whether earlier answers are rendered otherwise once turns follow.
    """

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    kind: str
    expected: str
    end: str
    rewrites: bool = False


def _chatml(opening: str = "", answer: str = "m.content") -> str:
    return (
        opening
        + "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        + f"{{{{ {answer} if m.role == 'assistant' else m.content }}}}<|im_end|>\n"
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


_DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
_CHATML_TEXT = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
    "<|im_start|>assistant\nIt is 4.<|im_end|>\n"
)
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

FAMILIES = {
    "chatml": Family(
        _chatml(), _CHATML_TOKENS, None, "<|im_end|>", "bytes", _CHATML_TEXT, "<|im_end|>\n"
    ),
    "qwen2.5": Family(
        _chatml(_DEFAULT_SYSTEM), _CHATML_TOKENS, None, "<|im_end|>", "bytes", _CHATML_TEXT, "<|im_end|>\n"
    ),
    "smollm2": Family(
        _chatml(_DEFAULT_SYSTEM), _CHATML_TOKENS, "<|im_start|>", "<|im_end|>", "bytes", _CHATML_TEXT,
        "<|im_end|>\n",
    ),
    "qwen3": Family(
        _chatml(answer="('<think>\n\n</think>\n\n' if loop.last else '') + m.content"),
        (*_CHATML_TOKENS, "<think>", "</think>"), None, "<|im_end|>", "bytes",
        _CHATML_TEXT.replace("It is", "<think>\n\n</think>\n\nIt is"), "<|im_end|>\n", rewrites=True,
    ),
    "llama3": Family(
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|eot_id|>", "bytes",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIt is 4.<|eot_id|>",
        "<|eot_id|>",
    ),
    "llama3.1": Family(
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: {{ strftime_now('%d %b %Y') }}\n\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<|eot_id|>"
        "{% for m in messages if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|eot_id|>", "bytes",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIt is 4.<|eot_id|>",
        "<|eot_id|>",
    ),
    "gemma2": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "never", "", "<end_of_turn>\n",
    ),
    "gemma3": Family(
        "{{ bos_token }}{% set first = '' %}{% if messages[0].role == 'system' %}"
        "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ first if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "never",
        "<bos><start_of_turn>user\nBe brief.\n\nWhat is 2+2?<end_of_turn>\n"
        "<start_of_turn>model\nIt is 4.<end_of_turn>\n",
        "<end_of_turn>\n",
    ),
    "mistral": Family(  # the system turn goes before the last question, wherever that is
        "{{ bos_token }}{% set ns = namespace(system='', last=0) %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
        "{% elif m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'user' %}"
        "[INST] {{ ns.system if loop.index0 == ns.last else '' }}{{ m.content }}[/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", "first",
        "<s>[INST] Be brief.\n\nWhat is 2+2?[/INST] It is 4.</s>", "</s>", rewrites=True,
    ),
    "llama2": Family(
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.system = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}{% elif m.role == 'user' %}"
        "{{ bos_token }}[INST] {{ ns.system }}{{ m.content | trim }} [/INST]{% set ns.system = '' %}"
        "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>"), "<s>", "</s>", "always",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is 2+2? [/INST] It is 4. </s>", " </s>",
    ),
    "zephyr": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ("<s>", "</s>"), "<s>", "</s>", "first",
        "<|system|>\nBe brief.</s>\n<|user|>\nWhat is 2+2?</s>\n<|assistant|>\nIt is 4.</s>\n", "</s>\n",
    ),
    "phi3": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}",
        ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<s>", "<|endoftext|>",
        "never",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nWhat is 2+2?<|end|>\n<|assistant|>\nIt is 4.<|end|>\n"
        "<|endoftext|>",
        "<|end|>\n<|endoftext|>", rewrites=True,  # the end of the text follows the last answer only
    ),
    "phi4": Family(
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        (*_CHATML_TOKENS, "<|im_sep|>"), None, "<|im_end|>", "bytes",
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>What is 2+2?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>It is 4.<|im_end|>",
        "<|im_end|>",
    ),
    "deepseek-r1": Family(  # of earlier answers, and of the last, only what follows the thinking
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}{% else %}"
        "<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|>{% endif %}",
        ("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"), "<|begin|>", "<|end|>", "bytes",
        "<|begin|>Be brief.<|User|>What is 2+2?<|Assistant|>It is 4.<|end|>", "<|end|>",
    ),
}  # fmt: skip

_TEXTS = [
    "What is 2+2? It is 4. Be brief.\n\nAnd 3+3? It is 6.\n", "user\nassistant\nsystem\nmodel\n [INST] hello [/INST] ",
    "You are a helpful assistant.\n", "<|user|>\n<|assistant|>\n", " It", " is", "\n\n", "\n\n\n",
] * 20  # fmt: skip


_UNKNOWN = "<unk>"
# Line breaks stay together whatever follows, as with Llama 3, Qwen and Phi-4.
_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


@lru_cache
def tokenizer_of(name: str) -> Any:  # noqa: ANN401 - transformers is untyped
    """A tokenizer of the family's kind, trained on a few lines."""
    family = FAMILIES[name]
    special = [AddedToken(text, special=True, normalized=False) for text in family.special]
    if family.kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    else:
        backend = Tokenizer(models.BPE(unk_token=_UNKNOWN, byte_fallback=True, fuse_unk=True))
        if family.kind == "always":
            backend.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=family.kind, split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        letters = sorted(
            {letter for text in _TEXTS for letter in text} | {"▁", *"abcdefghijklmnopqrstuvwxyz"}
        )
        trainer = trainers.BpeTrainer(
            vocab_size=400, show_progress=False, special_tokens=[_UNKNOWN], initial_alphabet=letters
        )
    backend.train_from_iterator(_TEXTS, trainer)
    backend.add_special_tokens(special)
    named = {"eos_token": family.eos} | ({"bos_token": family.bos} if family.bos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    fast.chat_template = family.template
    return fast
