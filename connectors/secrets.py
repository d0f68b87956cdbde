"""Credentials in texts that are written down: found, and left out.

A recipe goes into the manifest, the report and the dataset card as it is, so it must hold none; messages of
other programs may, and are shown without them. Credentials belong into the environment, or a file of the tool
that uses them.
"""

from __future__ import annotations

import re

_HIDDEN = "***"
_PATTERNS = (
    # user:password@ and token@ of a URL
    re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://)(?P<secret>[^/\s@?#]+)(?=@)", re.IGNORECASE),
    # signed URLs, and options such as --s3_secret_access_key=...
    re.compile(
        r"(?P<before>(?:[?&;]|--)[\w.-]*(?:secret|token|signature|password|passwd|credential|api[_-]?key|access[_-]?key)"
        r"[\w.-]*[=\s])(?P<secret>[^\s&;#'\"]+)",
        re.IGNORECASE,
    ),
    # tokens that are known by their shape: Hugging Face, AWS, Google, GitHub, OpenAI
    re.compile(
        r"(?P<before>\b)(?P<secret>hf_[A-Za-z0-9]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}|gh[pousr]_\w{30,}"
        r"|sk-[\w-]{20,}|ya29\.[\w-]{20,})"
    ),
)


def holds_secret(text: str) -> bool:
    """Whether a text holds what looks like a credential.

    Example:
        >>> holds_secret("s3://key:word@bucket/a.jsonl"), holds_secret("s3://bucket/a@b.jsonl")
        (True, False)
    """
    return any(pattern.search(text) for pattern in _PATTERNS)


def without_secrets(text: str) -> str:
    """The text with stars in place of credentials.

    Example:
        >>> without_secrets("https://me:pass@host/x?token=abc&n=1 --s3_secret_access_key=abc")
        'https://***@host/x?token=***&n=1 --s3_secret_access_key=***'
    """
    for pattern in _PATTERNS:
        text = pattern.sub(lambda found: found["before"] + _HIDDEN, text)
    return text
