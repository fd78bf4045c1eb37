"""A9 of the reliability plan: a hundred hostile templates. None runs anything, none takes a second or 64 MB."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from puna import template
from puna.errors import TemplateError
from puna.template import MAX_SOURCE, render_template

MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a\nb"}]
VARIABLES: dict[str, Any] = {"messages": MESSAGES, "bos_token": "<s>", "tools": None, "add_generation_prompt": True}
NOW = datetime(2026, 11, 22, 12, 0, 0)


def render(source: str) -> str:
    return render_template(source, VARIABLES, now=NOW)


# Reaching for Python's insides.
INJECTION = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}{{ ''['__class__']['__base__'] }}",
    "{{ ()|attr('__class__') }}",
    "{{ [].__class__.__base__.__subclasses__()[40]('/etc/passwd').read() }}",
    "{{ {}.__init__.__globals__ }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ messages.append.__self__.__class__ }}",
    "{{ range.__class__ }}",
    "{{ range.__globals__['__builtins__'] }}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ namespace.__base__.__init__.__globals__['sys'] }}",
    "{% set ns = namespace() %}{{ ns.__class__ }}",
    "{% set ns = namespace() %}{{ ns._Namespace__attrs }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__ }}",
    "{{ strftime_now.__globals__['os'].system('true') }}",
    "{{ strftime_now.__closure__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ lipsum.__globals__.__builtins__.eval('1') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{% for m in messages %}{{ loop.__class__ }}{% endfor %}",
    "{% for m in messages %}{{ loop._iterable.__class__ }}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._environment.filters }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0.__class__.__mro__}'.format_map({'0': 1}) }}",
    "{% set f = '{0.__class__.__init__.__globals__}'.format %}{{ f(messages) }}",
    "{{ ['{0.__class__}']|map('format', 1)|list }}{{ ''|attr('format') }}",
    "{{ messages|map(attribute='__class__')|list|attr('x') }}",
    "{{ messages|selectattr('__class__.__mro__')|first|attr('x') }}",
    "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "{{ (messages|select).gi_code }}{{ undefined_thing.__class__ }}",
    "{{ ''|safe|attr('__html__') }}{{ 'a'.encode().decode() }}",
    "{{ config }}{{ request.application.__globals__ }}",
    "{{ url_for.__globals__ }}",
    "{{ messages|map('counted!')|map('__import__')|list }}",
]

# Using up time and memory.
RESOURCES = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if b == -1 %}x{% endfor %}{% endfor %}",
    "{% for a in range(10**9) %}{% endfor %}",
    "{{ range(99999)|list|length }}{% for a in range(99999) %}{% set x = range(99999)|list %}{% endfor %}",
    "{{ 'a' * 500000000 }}",
    "{{ 500000000 * 'a' }}",
    "{{ [0] * 500000000 }}",
    "{{ (0,) * 500000000 }}",
    "{{ 2 ** 999999999 }}",
    "{{ 9 ** 9 ** 9 ** 9 }}",
    "{% set ns = namespace(x=3) %}{% for i in range(100) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% set ns = namespace(x='aa') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='aa') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x={}) %}{% for i in range(100) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x={}) %}{% for i in range(100) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x|tojson }}",
    "{% set ns = namespace() %}{% set ns.x = [ns, ns] %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(x='a') %}"
    "{% for i in range(60) %}{% set ns.x = m(ns.x) %}{% endfor %}",
    "{{ 'a'|center(500000000) }}",
    "{{ 'a'.center(500000000) }}{{ 'a'.ljust(500000000) }}{{ 'a'.zfill(500000000) }}",
    "{{ '\t'.expandtabs(500000000) }}",
    "{{ '%500000000d' % 1 }}",
    "{{ '%.500000000f' % 1 }}",
    "{{ '%*d' % (500000000, 1) }}",
    "{{ '%(a)500000000d' % {'a': 1} }}",
    "{{ '%500000000d'|format(1) }}",
    "{{ '{:>500000000}'.format(1) }}",
    "{% set a = 'a' * 900000 %}{{ ('%(a)s' * 90000) % {'a': a} }}",
    "{% set a = 'a' * 900000 %}{{ a.replace('a', a) }}",
    "{% set a = 'a' * 900000 %}{{ a|replace('a', a) }}{{ a|replace('', a) }}",
    "{% set a = 'a' * 900000 %}{{ a.join(range(90000)|map('string')) }}",
    "{% set a = 'a' * 900000 %}{{ range(90000)|join(a) }}",
    "{% set a = 'a\n' * 400000 %}{{ a|indent(100000) }}",
    "{% set a = 'a ' * 400000 %}{{ a.split() }}",
    "{% set a = 'a ' * 400000 %}{{ a|list }}",
    "{{ messages|tojson(indent=900000000) }}",
    "{{ 1.5|round(999999999, 'ceil') }}",
    "{{ strftime_now('%0900000000d') }}",
    "{% set a = 'a' * 900000 %}" + "{% set b = a[:-1] %}" * 2000,
    "{% set a = 'a' * 900000 %}" + "{{ 'b' in a }}" * 4000,
    "{% set a = 'a' * 900000 %}" + "{% set b = a|upper|lower|title %}" * 1000,
    "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
    "{% for i in range(99999) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}",
    "{{ lipsum(n=100000) }}",
    "{{ ('9' * 900000)|int }}{{ ('f' * 900000)|int(0, 16) ** 5000 }}",
    "{{ [1]|batch(900000000, 0)|list }}{{ [1]|slice(900000000)|list }}",
    "{{ 'a'|wordwrap(1)|urlize|pprint }}{{ 'a'|truncate(900000000) }}",
    "{{ " + "1+" * 20000 + "1 }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "{% if a %}" * 3000 + "{% endif %}" * 3000,
    "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "{{ " + "9" * 60000 + " }}",
    "x" * (MAX_SOURCE + 1),
    "{{ messages" + ".a" * 20000 + " }}",
    "{% set x = " + "{'a':" * 3000 + "1" + "}" * 3000 + " %}",
]

# Calling oneself.
RECURSION = [
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% macro m() %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m() %}" * 18 + "x" * 100 + "{% endcall %}" * 18,
    "{% macro m() %}{{ m(*varargs) }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m() %}{{ m(varargs, varargs) }}{% endmacro %}{{ m(1) }}",
    "{% macro m() %}{{ m(a=kwargs, b=kwargs) }}{% endmacro %}{{ m(a=1) }}",
    "{% for a in [messages] recursive %}{{ loop([messages]) }}{% endfor %}",
    "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{{ loop([1, 2]) }}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% block a %}{{ self.b() }}{% endblock %}{% block b %}{{ self.a() }}{% endblock %}",
    "{% set ns = namespace() %}{% macro m() %}{{ ns.m() }}{% endmacro %}{% set ns.m = m %}{{ m() }}",
    "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}",
    "{% macro m(x=m) %}{{ x() }}{{ m(m) }}{% endmacro %}{{ m(m) }}",
]

# Fetching other files, and changing what was given.
OTHERS = [
    "{% include '/etc/passwd' %}",
    "{% include ['a', 'b'] ignore missing %}",
    "{% import 'os' as os %}{{ os }}",
    "{% from 'os' import system %}{{ system }}",
    "{% extends 'base.html' %}",
    "{% extends messages %}",
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update(role='system') }}",
    "{{ messages[0].pop('role') }}{{ messages[0].setdefault('a', 1) }}",
    "{{ messages.sort() }}{{ messages.reverse() }}",
    "{% do messages.append(1) %}",
    "{% set messages[0].role = 'system' %}",
    "{% set messages.x = 1 %}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{% debug %}",
    "{% trans %}a{% endtrans %}",
]

_watched: list[str] | None = None
_WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.remove",
    "subprocess",
    "socket",
    "shutil",
    "ctypes",
    "import",
)


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if _watched is not None and event.startswith(_WATCHED):
        _watched.append(f"{event}{args}")


sys.addaudithook(_watch)


@contextmanager
def nothing_is_executed() -> Iterator[None]:
    global _watched
    _watched = []
    try:
        yield
        assert _watched == []
    finally:
        _watched = None


HOSTILE = {"injection": INJECTION, "resources": RESOURCES, "recursion": RECURSION, "others": OTHERS}


def outcome(source: str) -> str:
    template._compiled.cache_clear()
    try:
        with nothing_is_executed():
            return render(source)
    except TemplateError as error:
        return str(error)


@pytest.mark.parametrize(("kind", "number"), [(kind, i) for kind, sources in HOSTILE.items() for i in range(len(sources))])
def test_a_hostile_template_runs_nothing_and_ends_in_time(kind: str, number: int) -> None:
    source = HOSTILE[kind][number]
    render("warm")  # what is imported at first use is not the template's doing
    start = time.thread_time()
    text = outcome(source)
    spent = time.thread_time() - start
    assert spent <= 1, f"{spent:.2f} s"
    assert "<class" not in text
    assert "root:" not in text
    assert MESSAGES == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "a\nb"}]


@pytest.mark.parametrize("number", range(len(RESOURCES)))
def test_a_greedy_template_takes_less_than_64_mb(number: int) -> None:
    tracemalloc.start()
    outcome(RESOURCES[number])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 64e6, f"{peak / 1e6:.0f} MB"


def test_there_are_a_hundred_of_them() -> None:
    assert [len(HOSTILE[kind]) >= n for kind, n in {"injection": 40, "resources": 30, "recursion": 15, "others": 15}.items()]
    assert sum(map(len, HOSTILE.values())) >= 100


@pytest.mark.parametrize("source", RECURSION + OTHERS[:9])
def test_recursion_and_other_files_are_errors_with_a_way_out(source: str) -> None:
    with pytest.raises(TemplateError, match="chat template"):
        render(source)


# What real templates do must still work.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m['role'] + ': ' + m.content }}\n{% endfor %}", "user: hello\nassistant: a\nb\n"),
        ("{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ loop.length }} {% endfor %}", "0False2 1True2 "),
        ("{%- set ns = namespace(n=0) -%}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}", "assistant"),
        ("{{ messages[0]['content'] | trim }}{{ bos_token }}", "hello<s>"),
        ("{% set rest = messages[1:] %}{{ rest|length }}{{ messages[::-1][0].role }}", "1assistant"),
        ("{{ messages|map(attribute='role')|join(', ') }}", "user, assistant"),
        ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "1"),
        ("{{ (messages|last)['content'].split('\n')[-1].strip() }}", "b"),
        ("{% if tools is not none and tools %}x{% else %}none{% endif %}{{ 'user' in ['user'] }}", "noneTrue"),
        ("{{ {'a': [1, 'é', '<']}|tojson }}", '{"a": [1, "é", "<"]}'),
        ("{{ {'b': 1}|tojson(indent=2) }}", '{\n  "b": 1\n}'),
        ("{% macro m(x, y=2) %}[{{ x }}{{ y }}]{% endmacro %}{{ m(1) }}{{ m('a', y='b') }}", "[12][ab]"),
        ("{{ strftime_now('%d %b %Y') }}", "22 Nov 2026"),
        ("{{ '%02d' % 7 }}{{ '%s-%s'|format('a', 'b') }}{{ 'a' ~ 1 ~ none }}", "07a-ba1None"),
        ("{{ 'a,b'.replace(',', ';') }}{{ 'ab'|replace('b', 'c') }}{{ 'a\nb'|indent(2) }}", "a;baca\n  b"),
        (
            "{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}{% for k, v in {'y': 2}|items %}{{ k }}{% endfor %}",
            "x1y",
        ),
        ("{% generation %}{{ bos_token }}{% endgeneration %}", "<s>"),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{{ missing }}{{ missing is defined }}{{ messages[0].missing or 'd' }}", "Falsed"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x|upper }}", "A1"),
        ("{{ (0 == 0) != (1 % 2 == 1) }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ -3|abs }}", "False310243"),
    ],
)
def test_what_real_templates_do_works(source: str, expected: str) -> None:
    assert render(source) == expected


def test_a_template_can_refuse_the_messages() -> None:
    with pytest.raises(TemplateError, match="refuses these messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize("source", ["{% if %}", "{{ 1", "{% endfor %}", "{{ 1|nothing }}", "{{ 1 is nothing }}", "{{ 1 / 0 }}"])
def test_a_wrong_template_is_an_error_that_says_what(source: str) -> None:
    with pytest.raises(TemplateError, match=r"the chat template failed: .") as caught:
        render(source)
    assert "--raw" in caught.value.typed.hint and "`generate()`" in caught.value.hint


def test_a_long_conversation_is_within_the_limits() -> None:
    turns = [{"role": role, "content": "a b c " * 500} for _ in range(300) for role in ("user", "assistant")]
    source = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' }}{% endfor %}"
    assert len(render_template(source, {"messages": turns})) > 1_800_000
