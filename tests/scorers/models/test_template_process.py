"""Chat templates that attack: bounded in time, memory and size, away from files, and the next row goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scorers.models import template_process
from scorers.models.rendering import Renderer, check_template
from scorers.models.template_process import RenderError, render_texts
from scorers.models.tokenising import tokenise_rows
from tests.scorers.toy_models import CONTEXT, TEMPLATE, pair, tokenizer

TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def rendered(template: str, content: str = "q") -> str:
    [text] = render_texts(
        template, {"bos_token": "<s>"}, [{"role": "user", "content": content}], None, [(1, False)]
    )
    return text


def restart() -> None:
    helper = template_process._STATE["helper"]
    if helper is not None:
        helper.end()
    template_process._STATE.update(helper=None, kills=0)


@pytest.fixture(scope="module", autouse=True)
def impatient() -> Iterator[None]:
    """A helper with half a second for each conversation."""
    restart()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_process, "CPU_SECONDS", 0.5)
        patch.setattr(template_process, "_MAX_KILLS", 100)
        yield
    restart()


ATTACKS = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "cycler": "{{ cycler.__init__.__globals__.os.system('touch FILE') }}",
    "self": "{{ self._TemplateReference__context }}",
    "import": "{% import 'os' as os %}{{ os.system('touch FILE') }}",
    "include": "{% include '/etc/passwd' %}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "attr": "{{ messages|attr('__class__') }}",
    "namespace": "{% set ns = namespace(__class__=1) %}{{ ns }}",
    "append": "{{ messages.append(messages) }}",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_template_that_reaches_for_code_or_files_gets_nothing(name: str, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    text = ""
    with contextlib.suppress(RenderError):
        text = rendered(ATTACKS[name].replace("FILE", str(target)))
    assert not any(found in text for found in ("subclasses", "<module", "root:", "<class", "function"))
    assert not target.exists()


BOMBS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "long loop": "{% for a in range(10**9) %}{% endfor %}",
    "multiplication": "{{ 'a' * 10**11 }}",
    "width": "{{ '%100000000000d' % 1 }}",
    "centre": "{{ 'a'|center(10**11) }}",
    "doubling": "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}",
    "power": "{{ 9**(9**9) }}",
    "recursion": "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "replace": "{{ ('a' * 10**6)|replace('a', 'a' * 10**6) }}",
    "output": "{{ 'a' * 5000000 }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_loops_or_grows_is_ended_and_the_next_one_renders(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(RenderError):
        rendered(BOMBS[name])
    assert rendered("{{ messages[0].content }}") == "q"
    assert time.monotonic() - started < 60  # on a busy machine; alone it takes two seconds


def test_a_template_that_runs_away_is_refused_before_any_row() -> None:
    template = BOMBS["nested loops"] + TEMPLATE
    with pytest.raises(ValueError, match=r"model.chat_template: .*processor time"):
        check_template(Renderer(tokenizer(template), "tokenizer", CONTEXT, "drop", 400))


def test_a_template_that_runs_away_on_one_row_costs_that_row() -> None:
    template = "{% if messages[0].content == 'loop' %}" + BOMBS["nested loops"] + "{% endif %}" + TEMPLATE
    renderer = Renderer(tokenizer(template), "tokenizer", CONTEXT, "drop", 400)
    check_template(renderer)
    rows = tokenise_rows(
        renderer, [pair("a", "b"), pair("loop", "b"), pair("c", "d")], [None] * 3, with_direct=True
    )
    assert [row.status for row in rows] == ["ok", "template_error", "ok"]
    assert "processor time" in rows[1].message


def test_a_template_that_runs_away_often_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    restart()
    monkeypatch.setattr(template_process, "_MAX_KILLS", 1)
    with pytest.raises(RenderError):
        rendered(BOMBS["nested loops"])
    with pytest.raises(RuntimeError, match=r"ran away on 1 conversations .*model\.chat_template: plain"):
        rendered("x")
    restart()


def test_the_process_that_renders_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    restart()
    rendered("x")
    helper = template_process._STATE["helper"]
    environment = Path(f"/proc/{helper._process.pid}/environ")
    if not environment.exists():
        pytest.skip("this system does not show the environment of a process")
    assert b"hf_secret" not in environment.read_bytes()


def test_what_a_template_raises_is_the_message() -> None:
    with pytest.raises(RenderError, match="no system role"):
        rendered("{{ raise_exception('no system role') }}")
    with pytest.raises(RenderError, match="TemplateSyntaxError"):
        rendered("{% for %}")


def test_several_beginnings_are_rendered_at_once() -> None:
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ '>' if add_generation_prompt }}"
    assert render_texts(template, {}, TALK, None, [(2, False), (1, True), (1, False)]) == [
        "[q][a]",
        "[q]>",
        "[q]",
    ]


def test_long_texts_and_odd_characters_pass_unchanged() -> None:
    for content in ("x" * 3_000_000, "\u2028\n\r\0é\U0001f600", "\ud800", '"\\'):
        assert rendered("{{ messages[0].content }}", content) == content


def test_the_process_ends_with_its_owner() -> None:
    restart()
    rendered("x")
    process = template_process._STATE["helper"]._process
    restart()
    assert process.poll() is not None
