"""Parser of filters: the grammar of OPTIMADE 1.2, parsed from left to right in linear time.

Source: https://specification.optimade.org, "The Filter Language EBNF Grammar". The parser accepts the whole
grammar. Unsupported features are refused by name when the tree is compiled.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from crystalign.errors import QueryError

MAX_FILTER_LENGTH = 2000
MAX_FILTER_DEPTH = 32

_GRAMMAR = r"""
start: expression
expression: clause ("OR" clause)*
clause: _phrase ("AND" _phrase)*
_phrase: negation | _atom
negation: "NOT" _atom
_atom: _comparison | "(" expression ")"

_comparison: compare | constant_first | known | contains | starts | ends | has | zipped | length
compare: property OPERATOR value
constant_first: (string | number | bool) OPERATOR value
known: property "IS" (KNOWN | UNKNOWN)
contains: property "CONTAINS" value
starts: property "STARTS" "WITH"? value
ends: property "ENDS" "WITH"? value
has: property "HAS" (entry | (ALL | ANY | ONLY) entry ("," entry)*)
zipped: property (":" property)+ "HAS" (zip | (ALL | ANY | ONLY) zip ("," zip)*)
length: property "LENGTH" OPERATOR? value
entry: (OPERATOR | CONTAINS | STARTS WITH? | ENDS WITH?)? value
zip: entry (":" entry)+

value: string | number | bool | property
string: STRING
number: NUMBER
bool: TRUE | FALSE
property: IDENTIFIER ("." NESTED)*

KNOWN: "KNOWN"
UNKNOWN: "UNKNOWN"
CONTAINS: "CONTAINS"
STARTS: "STARTS"
ENDS: "ENDS"
WITH: "WITH"
ALL: "ALL"
ANY: "ANY"
ONLY: "ONLY"
TRUE: "TRUE"
FALSE: "FALSE"
OPERATOR: /<=|>=|!=|<|>|=/
IDENTIFIER: /[a-z_][a-z_0-9]*/
NESTED: /[a-z_][a-z_0-9+]*/
STRING: /"(?:[^"\\]|\\["\\])*"/
NUMBER: /[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?/
%ignore /[ \t\n\r\f\v]+/
"""


def parse(text: str) -> Any:
    """Parse a filter into a tree whose root is one `expression`.

    Raises:
        QueryError: the filter is too long, too deep, empty, or not in the grammar; the message shows the position.
    """
    from lark.exceptions import UnexpectedInput

    if len(text) > MAX_FILTER_LENGTH:
        raise QueryError(
            f"the filter has {len(text)} characters; the limit is {MAX_FILTER_LENGTH}",
            reason="filter-too-long",
        )
    bad = next((c for c in text if 0xD800 <= ord(c) <= 0xDFFF), None)
    if bad is not None:
        raise QueryError(
            f"the filter holds U+{ord(bad):04X}, half of a surrogate pair, which is not valid text", reason="bad-filter"
        )
    if not text.strip():
        raise QueryError("the filter is empty; leave it out instead", reason="bad-filter")
    if _depth(text) > MAX_FILTER_DEPTH:
        raise QueryError(f"the filter nests more than {MAX_FILTER_DEPTH} parentheses", reason="filter-too-deep")
    try:
        return _parser().parse(text).children[0]
    except UnexpectedInput as error:
        raise QueryError(_explain(text, error), reason="bad-filter") from error


def unquote(token: str) -> str:
    r"""The text of a string token, without quotes and with `\"` and `\\` unescaped."""
    return re.sub(r"\\(.)", r"\1", token[1:-1])


@functools.cache
def _parser() -> Any:
    from lark import Lark

    return Lark(_GRAMMAR, parser="lalr")


def _depth(text: str) -> int:
    """The deepest nesting of parentheses outside strings."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    depth = deepest = 0
    for character in bare:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def _explain(text: str, error: Any) -> str:
    """The error message: what is wrong, the line of the filter, and a caret at the position."""
    position = error.pos_in_stream
    ends = position is None or position < 0 or position >= len(text) or getattr(error, "token", None) in {"", None}
    at = len(text) if ends and not hasattr(error, "char") else position
    start = max(0, at - 40)
    line = re.sub(r"\s", " ", text[start : at + 40])
    expected = getattr(error, "accepts", None) or getattr(error, "allowed", None) or set()
    hint = ""
    if {"AND", "OR"} & set(expected):
        hint = "; a filter is one expression: join its conditions with AND or OR"
    elif "STRING" in expected:
        hint = "; its strings stand in double quotes"
    where = "it ends too early" if at >= len(text) else f"at character {at + 1}"
    return f"not an OPTIMADE filter, {where}{hint}:\n{line}\n{' ' * (at - start)}^"
