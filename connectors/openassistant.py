"""OpenAssistant message trees: one conversation for every answer in a tree.

Source: Köpf et al. 2023, https://arxiv.org/abs/2304.07327; the format of the `*_tree.jsonl` files.
Every assistant message becomes the response of one conversation, its path from the root the prompt,
so rival replies to one message are rival answers (rows with the same `group`). The message's rank,
labels and language are kept in `extra`. A deleted message is left out together with the replies below it.
Unanswered user messages are kept as `trailing_messages` of the answer they follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connectors.examples import BadRow, Conversation
from connectors.turns import conversation, kind_of, role_of, with_added

_READ_KEYS = ("text", "role", "replies")

Path = tuple[Any, ...]


def parse_tree(tree: object, extra: dict[str, Any]) -> list[Conversation | BadRow]:
    """Conversations of one tree, in the order of the file (depth first).

    Args:
        tree: The root message, with its replies.
        extra: The fields of the row beside the tree.

    Raises:
        BadRow: If the tree holds no answer at all.
    """
    results = [_answer(path, extra) for path in _answers(tree)]
    if not results:
        raise BadRow("no response", "no message of the tree is from the assistant")
    return results


def _answers(tree: object) -> Iterator[Path]:
    """The path from the root to every assistant message that is not deleted, depth first."""
    todo: list[Path] = [(tree,)]
    while todo:  # not recursive: a tree may be as deep as a conversation is long
        path = todo.pop()
        node = path[-1]
        if not isinstance(node, dict):
            raise BadRow(
                "wrong type", f"a message of the tree is {kind_of(node)}; wanted an object with text and role"
            )
        if node.get("deleted"):
            continue
        if role_of(node, "a message of the tree") == "assistant":
            yield path
        todo.extend((*path, reply) for reply in reversed(_replies(node)))


def _answer(path: Path, extra: dict[str, Any]) -> Conversation | BadRow:
    node = path[-1]
    unanswered = [reply for reply in _replies(node) if isinstance(reply, dict) and not reply.get("replies")]
    trailing = [reply for reply in unanswered if not reply.get("deleted") and reply.get("role") == "prompter"]
    own = {key: value for key, value in node.items() if key not in _READ_KEYS}
    turns = [{"role": turn.get("role"), "content": turn.get("text")} for turn in path]
    try:
        read = conversation(turns, "prompt", with_added(extra, own))
    except BadRow as bad:
        return bad
    identity = node.get("message_id")
    part = str(identity) if identity else ".".join(_position(path))
    unread = {"trailing_messages": trailing} if trailing else {}
    return Conversation(read.messages, None, with_added(read.extra, unread), part)


def _replies(node: dict[str, Any]) -> list[Any]:
    replies = node.get("replies") or []
    if not isinstance(replies, list):
        raise BadRow("wrong type", f"the replies of a message are {kind_of(replies)}; wanted a list")
    return replies


def _position(path: Path) -> list[str]:
    """Where a message stands: the number of the reply at every level, from 0."""
    return [
        str(next(i for i, reply in enumerate(_replies(parent)) if reply is child))
        for parent, child in zip(path, path[1:], strict=False)
    ]
