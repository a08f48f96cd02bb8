"""Templates that attack: the worst that each filter, test, global, operator and method in the sandbox can be asked."""

from __future__ import annotations

MANY = "range(99999)|list"
TREE = (
    "{% set n = namespace(a=[1], b=[1]) %}"
    "{% for i in range(64) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
)
"""Two lists that hold themselves over and over: small in memory, and 2 to the 64th to compare, count or write out."""

TUPLES = TREE.replace("[n.a, n.a]", "(n.a, n.a)").replace("[n.b, n.b]", "(n.b, n.b)").replace("[1]", "(1,)")
TEXT = "{% set n = namespace(a='a' * 1000000) %}{% for i in range(9) %}{% set n.a = n.a ~ n.a %}{% endfor %}"
"""Half a billion characters."""

DEEP = "{% set n = namespace(a=1) %}{% for i in range(99999) %}{% set n.a = [n.a] %}{% endfor %}"

NUMBER = "{% set n = namespace(a=999999999) %}{% for i in range(30) %}{% set n.a = n.a * n.a %}{% endfor %}"
"""As many digits."""

FILTERS: dict[str, str] = {
    "abs": f"{NUMBER}{{{{ n.a|abs }}}}",
    "attr": f"{TREE}{{{{ n|attr('a') == n.b }}}}",
    "batch": "{{ 'x'|batch(999999999999, 'y')|list|length }}",
    "capitalize": f"{TEXT}{{{{ n.a|capitalize|length }}}}",
    "center": "{{ 'x'|center(99999999999) }}",
    "count": f"{TREE}{{{{ n.a|string|count }}}}",
    "d": f"{TREE}{{{{ n.x|d(n.a) }}}}",
    "default": f"{TREE}{{{{ n.x|default(n.a) }}}}",
    "dictsort": f"{TUPLES}{{{{ {{1: n.a, 2: n.b}}|dictsort(by='value') }}}}",
    "e": f"{TEXT}{{{{ (n.a|replace('a', '<'))|e|length }}}}",
    "escape": f"{TREE}{{{{ n.a|escape }}}}",
    "filesizeformat": f"{NUMBER}{{{{ n.a|filesizeformat }}}}",
    "first": f"{TREE}{{{{ [n.a]|first }}}}",
    "float": f"{NUMBER}{{{{ n.a|float }}}}",
    "forceescape": f"{TREE}{{{{ n.a|forceescape }}}}",
    "format": "{{ '%999999999999d'|format(1) }}",
    "groupby": f"{TUPLES}{{{{ [{{'k': n.a}}, {{'k': n.b}}]|groupby('k') }}}}",
    "indent": "{{ ('\n' * 1000000)|indent(999999, true)|length }}",
    "int": "{{ ('9' * 5000000)|int }}{{ ('f' * 9000000)|int(0, 16) }}",
    "items": f"{TREE}{{{{ {{1: n.a}}|items|list == {{1: n.b}}|items|list }}}}",
    "join": "{{ range(99999)|join('x' * 999999) }}",
    "last": f"{TREE}{{{{ [n.a]|last }}}}",
    "length": f"{TREE}{{{{ n.a|string|length }}}}",
    "list": f"{TEXT}{{{{ n.a|list|length }}}}",
    "lower": f"{TEXT}{{{{ n.a|lower|length }}}}",
    "map": f"{{{{ {MANY}|map('round', -99999999)|list }}}}",
    "max": f"{TUPLES}{{{{ [n.a, n.b]|max }}}}",
    "min": f"{TUPLES}{{{{ [n.a, n.b]|min }}}}",
    "pprint": f"{TREE}{{{{ n.a|pprint }}}}",
    "random": f"{TREE}{{{{ [n.a]|random }}}}",
    "reject": f"{TREE}{{{{ [n.a]|reject('eq', n.b)|list }}}}",
    "rejectattr": f"{TREE}{{{{ [n]|rejectattr('a', 'eq', n.b)|list }}}}",
    "replace": "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
    "reverse": f"{TEXT}{{{{ n.a|reverse|length }}}}",
    "round": "{{ 1|round(-999999999) }}",
    "safe": f"{TREE}{{{{ n.a|safe }}}}",
    "select": f"{TREE}{{{{ [n.a]|select('eq', n.b)|list }}}}",
    "selectattr": f"{TREE}{{{{ [n]|selectattr('a', 'eq', n.b)|list }}}}",
    "slice": "{{ [1]|slice(99999999999)|list|length }}",
    "sort": f"{TUPLES}{{{{ [n.a, n.b]|sort }}}}",
    "string": f"{TREE}{{{{ n.a|string }}}}",
    "striptags": "{{ ('<!--' * 1000000)|striptags|length }}",
    "sum": "{{ ([[1] * 1000] * 20000)|sum(start=[])|length }}",
    "title": f"{TEXT}{{{{ n.a|title|length }}}}",
    "tojson": f"{TREE}{{{{ n.a|tojson }}}}",
    "trim": f"{TEXT}{{{{ n.a|trim('b')|length }}}}",
    "truncate": f"{TEXT}{{{{ (n.a ~ ' ')|truncate(400000000)|length }}}}",
    "unique": f"{TUPLES}{{{{ [n.a, n.b]|unique(true)|list }}}}",
    "upper": f"{TEXT}{{{{ n.a|upper|length }}}}",
    "urlencode": f"{TREE}{{{{ n.a|urlencode }}}}",
    "urlize": "{{ ('http://a.b(' * 200000)|urlize|length }}",
    "wordcount": "{{ ('a b' * 5000000)|wordcount }}",
    "wordwrap": "{{ ('a ' * 2000000)|wordwrap(1)|length }}",
    "xmlattr": f"{TREE}{{{{ {{'a': n.a}}|xmlattr }}}}",
}
"""The worst that each filter can be asked for."""

SAME = ("eq", "equalto", "ne", "in")
ORDER = ("gt", "greaterthan", "ge", "lt", "lessthan", "le")
SIGNS = ("==", "!=", ">", ">=", "<", "<=")
OF_NUMBERS = ("odd", "even", "number", "integer", "float", "boolean", "true", "false")
OF_ANYTHING = (
    "callable", "defined", "undefined", "escaped", "filter", "iterable", "mapping", "none", "sameas n.b", "sequence",
    "string", "test",
)  # fmt: skip

TESTS: dict[str, str] = {
    **{name: f"{TREE}{{{{ n.a is {name} {'[n.b]' if name == 'in' else 'n.b'} }}}}" for name in SAME},
    **{name: f"{TUPLES}{{{{ n.a is {name} n.b }}}}" for name in ORDER},
    # which only filters can name
    **{name: f"{TUPLES}{{{{ [n.a]|select('{name}', n.b)|list }}}}" for name in SIGNS},
    "divisibleby": f"{NUMBER}{{{{ n.a is divisibleby 7 }}}}",
    **{name: f"{NUMBER}{{{{ n.a is {name} }}}}" for name in OF_NUMBERS},
    **{name.split()[0]: f"{TREE}{{{{ n.a is {name} }}}}" for name in OF_ANYTHING},
    **{name: f"{TEXT}{{{{ n.a is {name} }}}}" for name in ("lower", "upper")},
}

GLOBALS: dict[str, str] = {
    "range": "{{ range(999999999999)|list|length }}",
    "dict": f"{TUPLES}{{{{ dict([[n.a, 1]]) }}}}",
    "lipsum": "{{ lipsum(999999, false)|length }}",
    "cycler": f"{TREE}{{{{ cycler(n.a).next() == n.b }}}}",
    "joiner": "{% set j = joiner('x' * 999999) %}{% for i in range(99999) %}{{ j() }}{% endfor %}",
    "namespace": f"{{% for i in {MANY} %}}{{% for j in {MANY} %}}{{{{ namespace() }}}}{{% endfor %}}{{% endfor %}}",
    "raise_exception": "{{ raise_exception('x' * 9999999) }}",
    "strftime_now": "{{ strftime_now('%Y' * 9999999)|length }}",
}

OPERATORS: dict[str, str] = {
    "+": "{% set n = namespace(a=[1] * 1000000) %}{% for i in range(20) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "-": f"{NUMBER}{{{{ n.a - 1 }}}}",
    "*": NUMBER,
    "* of text": "{{ 'x' * 99999999999 }}",
    "* of many": "{% set n = namespace(a=[0]) %}{% for i in range(9) %}{% set n.a = n.a * 1000 %}{% endfor %}",
    "/": f"{NUMBER}{{{{ n.a / 3 }}}}",
    "//": f"{NUMBER}{{{{ n.a // 3 }}}}",
    "% of numbers": f"{NUMBER}{{{{ n.a % 7 }}}}",
    "% of text": "{{ '%999999999999s' % 'x' }}",
    "**": "{{ 9 ** 99999999 }}",
    "** constant": "{{ 9 ** 9 ** 9 ** 9 }}",
    "~": f"{TEXT}{{{{ n.a ~ n.a ~ n.a ~ n.a }}}}",
    "==": f"{TREE}{{{{ n.a == n.b }}}}",
    "!=": f"{TREE}{{{{ n.a != n.b }}}}",
    "<": f"{TUPLES}{{{{ n.a < n.b }}}}",
    ">=": f"{TUPLES}{{{{ n.a >= n.b }}}}",
    "in": f"{TREE}{{{{ n.a in [n.b] }}}}",
    "not in": f"{TREE}{{{{ n.a not in [n.b] }}}}",
    "slice": "{{ ('x' * 9999999)[::-1]|length }}",
    "key": f"{TUPLES}{{{{ {{n.a: 1}} }}}}",
    "call": "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f(1) }}",
    "for": f"{{% for a in {MANY} %}}{{% for b in {MANY} %}}{{% endfor %}}{{% endfor %}}",
    "for recursive": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "chain": "{{ " + " + ".join(["1"] * 20000) + " }}",
    "length": "{{ 1 }}" * 200_000,
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as x %}",
    "extends": "{% extends 'x' %}",
}

METHODS: dict[str, str] = {
    "str.center": "{{ 'x'.center(99999999999) }}",
    "str.ljust": "{{ 'x'.ljust(99999999999) }}",
    "str.rjust": "{{ 'x'.rjust(99999999999) }}",
    "str.zfill": "{{ '1'.zfill(99999999999) }}",
    "str.expandtabs": "{{ ('\t' * 999999).expandtabs(999999) }}",
    "str.replace": "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
    "str.join": "{{ ('x' * 1000000).join('y' * 1000000) }}",
    "str.format": "{{ '{:>99999999999}'.format(1) }}",
    "str.format_map": "{{ '{a:>99999999999}'.format_map({'a': 1}) }}",
    "str.format digits": "{{ '{:.999999999f}'.format(1.0) }}",
    "str.format inside": "{{ '{0.__class__}'.format(1) }}",
    "str.translate": "{{ ('a' * 1000000).translate({97: 'b' * 1000000}) }}",
    "str.find": "{{ ('a' * 5000000).find('a' * 2500000 ~ 'b') }}",
    "str.count": "{{ ('ab' * 5000000).count('a' * 99999 ~ 'b') }}",
    "str.rsplit": f"{TEXT}{{{{ n.a.rsplit('a')|length }}}}",
    "str.encode": f"{TEXT}{{{{ n.a.encode('utf-32')|length }}}}",
    "str.encode idna": "{{ ('ä.' * 200000).encode('idna')|length }}",
    "bytes.decode": "{{ ('+' * 9999999).encode().decode('utf-7')|length }}",
    "str.casefold": f"{TEXT}{{{{ n.a.casefold()|length }}}}",
    "str.splitlines": f"{TEXT}{{{{ n.a.splitlines()|length }}}}",
    "list.append": "{% set a = [] %}{{ a.append(a) }}{{ a }}",
    "list.index": f"{TREE}{{{{ [n.a].index(n.b) }}}}",
    "list.count": f"{TREE}{{{{ [n.a].count(n.b) }}}}",
    "list.copy": f"{TREE}{{{{ n.a.copy() == n.b }}}}",
    "tuple.index": f"{TUPLES}{{{{ (n.a,).index(n.b) }}}}",
    "dict.get": f"{TUPLES}{{{{ {{1: 2}}.get(n.a) }}}}",
    "dict.fromkeys": f"{TUPLES}{{{{ {{1: 2}}.fromkeys([n.a]) }}}}",
    "dict.items": f"{TREE}{{{{ {{1: n.a}}.items() == {{1: n.b}}.items() }}}}",
    "dict.update": "{% set d = {} %}{{ d.update(d=d) }}",
    "int.to_bytes": "{{ (1).to_bytes(99999999999, 'big')|length }}",
    "int.from_bytes": "{{ (1).from_bytes(('x' * 5000000).encode(), 'big') }}",
    "int.bit_count": f"{NUMBER}{{{{ n.a.bit_count() }}}}",
    "float.as_integer_ratio": "{{ (1e308).as_integer_ratio() }}",
    "float.fromhex": "{{ (1.0).fromhex('0x' ~ '1' * 9999999) }}",
    "bytes.fromhex": "{{ 'x'.encode().fromhex('00' * 9999999)|length }}",
    "generator": f"{TREE}{{{{ ([n.a]|map('string')|list) }}}}",
    "cell": "{{ messages.__class__.__mro__ }}",
    "deep": f"{DEEP}{{{{ n.a == [n.a] }}}}",
    "deep string": f"{DEEP}{{{{ n.a }}}}",
    "deep tojson": f"{DEEP}{{{{ n.a|tojson }}}}",
}  # fmt: skip

ATTACKS = {
    **{f"filter {name}": source for name, source in FILTERS.items()},
    **{f"test {name}": source for name, source in TESTS.items()},
    **{f"global {name}": source for name, source in GLOBALS.items()},
    **{f"operator {name}": source for name, source in OPERATORS.items()},
    **{f"method {name}": source for name, source in METHODS.items()},
}
