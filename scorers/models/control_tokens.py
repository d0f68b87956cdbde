r"""Text of control tokens inside data: found, and kept from becoming the tokens themselves.

Whoever writes "<|im_end|>" into a message would, tokenised as rendered, end their turn and open another. Of
what a row holds nothing is to become a control token; only what the template writes is.

Control tokens are the tokenizer's special tokens, and the added tokens that the template writes to open a
turn (some tokenizers do not mark those as special). Tags of reasoning and tool calls, such as <think>, are
written by models as part of their answers and stay what they are.

Most rows hold no such text: one search tells. In the others every occurrence is put behind a mark before the
row is rendered (`Masked`), so that what stands in the rendered text was written by the template. Then the
template's own tokens are spelled with a mark in front, the hidden texts are put back, and a copy of the
tokenizer whose control tokens are spelled with that mark reads it all: the same tokenizer in every other way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_HIDDEN, _END, _OWN = "\U000f0000", "\U000f0001", "\U000f0002"  # private use: no text has them by chance
_REFERENCE = re.compile(f"{_HIDDEN}([0-9]+){_END}")
_MARK = re.compile(f"[{_HIDDEN}{_END}{_OWN}]")
_TAG = re.compile(r"</?[a-z_]+>")


class ControlTextError(ValueError):
    """Data holds the text of a control token, and it cannot or shall not be read as plain text."""


@dataclass
class Masked:
    """Texts taken out of one row.

    Attributes:
        texts: What stands behind each mark, by its number.
    """

    texts: list[str] = field(default_factory=list)

    def hide(self, text: str) -> str:
        """A mark in place of the text."""
        self.texts.append(text)
        return f"{_HIDDEN}{len(self.texts) - 1}{_END}"

    def restore(self, text: str) -> str:
        """The text with what stands behind its marks."""
        return _REFERENCE.sub(lambda found: self.texts[int(found[1])], text)


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of one tokenizer and template.

    Attributes:
        tokenizer: A transformers tokenizer.
        ids: Token text → id.
    """

    tokenizer: Any
    ids: dict[str, int]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Any of them, or one of our marks."""
        return re.compile(f"{self._tokens.pattern}|{_MARK.pattern}")

    @cached_property
    def _tokens(self) -> re.Pattern[str]:
        """Any of them, the longest first."""
        texts = sorted(self.ids, key=lambda text: (-len(text), text))
        return re.compile("|".join(map(re.escape, texts)) or "(?!)")

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        """What a token may be forged from: the end of one text and the beginning of the next."""
        return frozenset(
            text[:size] for text in self.ids for size in range(1, len(text)) if not text[0].isalnum()
        )

    @cached_property
    def _folded(self) -> re.Pattern[str] | None:
        """The tokens that are looked for in normalised text, None where there are none."""
        backend = self._backend
        if backend is None or backend.normalizer is None:
            return None
        added = backend.get_added_tokens_decoder()
        texts = [text for text, at in self.ids.items() if at in added and added[at].normalized]
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    @property
    def _backend(self) -> Any:  # noqa: ANN401 - tokenizers is untyped
        """The tokenizer of the tokenizers package, None for one written in Python."""
        return getattr(self.tokenizer, "backend_tokenizer", None)

    def are_in(self, value: object) -> bool:
        """Whether a text, or one of the texts in a value of JSON, could become a control token."""
        return any(map(self._is_suspect, _texts(value)))

    def _is_suspect(self, text: str) -> bool:
        # Apart, since a search for texts that begin alike is several times faster than one with more in it.
        if self._tokens.search(text) or (not text.isascii() and _MARK.search(text)) or self._forged_end(text):
            return True
        return bool(self._folded and self._folded.search(self._backend.normalizer.normalize_str(text)))

    def _forged_end(self, text: str) -> int:
        """How many characters at the end of a text may be the beginning of a token, 0 if none."""
        longest = max(map(len, self._beginnings), default=0)
        tail = text[-longest:] if longest else ""
        return next((len(tail) - at for at in range(len(tail)) if tail[at:] in self._beginnings), 0)

    def mask(self, value: Any, masked: Masked) -> Any:  # noqa: ANN401 - any value of JSON
        """The value with every such text behind a mark; keys of objects too."""
        if isinstance(value, str):
            text = self._pattern.sub(lambda found: masked.hide(found[0]), value)
            forged = self._forged_end(text)
            return text[:-forged] + masked.hide(text[-forged:]) if forged else text
        if isinstance(value, dict):
            return {self.mask(key, masked): self.mask(item, masked) for key, item in value.items()}
        return [self.mask(item, masked) for item in value] if isinstance(value, list) else value

    def encode(self, texts: Iterable[str], masked: Masked) -> list[list[int]]:
        """The ids of rendered texts with marks: control tokens only where the template wrote them.

        Raises:
            ControlTextError: If this tokenizer makes control tokens of plain text too.
        """
        spelled = [self._pattern.sub(self._spelled, text) for text in texts]
        backend, original = self._literal
        rows = []
        for text in spelled:
            found = backend.encode(masked.restore(text), add_special_tokens=False).ids
            ids = [original.get(token, token) for token in found]
            if sum(token in self.reserved for token in ids) != text.count(_OWN):
                raise ControlTextError(
                    "the tokenizer makes control tokens of this text even when it is plain"
                )
            rows.append(ids)
        return rows

    @staticmethod
    def _spelled(found: re.Match[str]) -> str:
        """A token of the template as the copy of the tokenizer spells it; our marks as they are."""
        return found[0] if found[0] in (_HIDDEN, _END) else _OWN + found[0]

    @cached_property
    def reserved(self) -> frozenset[int]:
        """What plain text never becomes: all but the unknown token, which stands for what has no token."""
        written = json.loads(self._backend.to_str())["model"] if self._backend is not None else {}
        named = self.ids.get(str(written.get("unk_token")))
        unknown = {self.tokenizer.unk_token_id, written.get("unk_id"), named}
        return frozenset(self.ids.values()) - unknown

    @cached_property
    def _literal(self) -> tuple[Any, dict[int, int]]:
        """The copy of the tokenizer, and the id here of each of its ids that differs."""
        from tokenizers import Tokenizer

        if self._backend is None:
            raise ControlTextError("this tokenizer cannot read control tokens as plain text")
        written = json.loads(self._backend.to_str())
        control = set(self.ids.values())
        for token in written["added_tokens"]:
            if token["id"] in control:
                token["content"] = _OWN + token["content"]
        written |= {"post_processor": None, "truncation": None, "padding": None}
        copy = Tokenizer.from_str(json.dumps(written))
        own = {text: copy.token_to_id(_OWN + text) for text in self.ids}
        return copy, {at: self.ids[text] for text, at in own.items() if at is not None}


def control_tokens(tokenizer: Any, prompt: str) -> ControlTokens:  # noqa: ANN401 - transformers is untyped
    """The control tokens of a tokenizer.

    Args:
        tokenizer: A transformers tokenizer.
        prompt: A short prompt as the template renders it, with the tokens that open turns.
    """
    ids: dict[str, int] = {}
    for at, token in tokenizer.added_tokens_decoder.items():
        opens = token.content in prompt and not token.content.isspace() and not _TAG.fullmatch(token.content)
        if token.content and (token.special or opens):
            ids[token.content] = at
    for text in tokenizer.all_special_tokens:
        ids.setdefault(str(text), tokenizer.convert_tokens_to_ids(str(text)))
    return ControlTokens(tokenizer, ids)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
