"""What a recipe may hold as plain data: not too much, text that is Unicode, and no credentials."""

from __future__ import annotations

from typing import Any

from connectors.secrets import holds_secret, without_secrets

# Far above any recipe, and far below what would take a second or a gigabyte.
MAX_VALUES = 100_000
MAX_DEPTH = 50


def why_refused(value: Any) -> str | None:  # noqa: ANN401 - any YAML or JSON
    """What is wrong with a value or with what it holds, as a sentence; None for nothing.

    What aliases repeat counts as often as it is repeated.

    Example:
        >>> why_refused({"a": [chr(0xD800)]}).split("' ")[1]
        'holds half of a surrogate pair'
    """
    left, pending = MAX_VALUES, [(value, 0)]
    while pending:
        item, depth = pending.pop()
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            return (
                f"more than {MAX_VALUES:,} values or {MAX_DEPTH} levels once its "
                "aliases are unfolded; write the values out, or fewer of them"
            )
        fault = _fault_of_text(item) if isinstance(item, str) else None
        if fault:
            return fault
        inner = [*item, *item.values()] if isinstance(item, dict) else item
        if isinstance(inner, list | tuple | set):
            pending += [(part, depth + 1) for part in inner]
    return None


def _fault_of_text(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"the text {text[:60]!r} holds half of a surrogate pair"
    if not holds_secret(text):
        return None
    return (
        f"{without_secrets(text)[:200]!r} holds a credential (shown as ***), and a recipe "
        "is written into the manifest and the report. Give it in the environment, or in the file of the "
        "tool that uses it: AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN"
    )
