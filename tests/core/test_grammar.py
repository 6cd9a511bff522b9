"""GBNF is read before llama.cpp sees it: what would end the process, hang it, or never end an answer is refused."""

import pytest

from hanpaca.core.engines.grammar import check, parse
from hanpaca.core.engines.grammar_ways import Ways
from hanpaca.core.engines.json_schema import gbnf_of_schema
from hanpaca.core.errors import BadInput

JSON = r"""root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}"""
"""llama.cpp's own grammar of JSON."""
LEVELS = "\n".join(
    [
        "root ::= l0",
        *(f'l{n} ::= l{n + 1} (ws "{sign}" ws l{n + 1})*' for n, sign in enumerate("|&=<+*^")),
        'l7 ::= [0-9]+ | "(" ws l0 ws ")"',
        r"ws ::= [ \t\n]*",
    ]
)
"""Expressions of seven levels of precedence."""
NULLABLE = "\n".join(f"a{i} ::= a{i + 1}? a{i + 1}?" for i in range(60)) + '\na60 ::= "x"'


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= ("yes" | "no") "!"',
        'root ::= [^"\\\\]* # a comment (((((\nother ::= "unused"',
        'root ::= "(((" item{2,3} ")"\nitem ::= ("a" | "")+ .',
        'root ::= "a" (\n  "b" |\n  "c"\n)',
        "root ::= x | x x\nx ::= [a-z] y?\ny ::= x",
        'root ::= "' + "(" * 5000 + '"',
        # as conditions in conditions, whose `else` may wait at any level
        'root ::= if | [a-z]+ ";"\nif ::= "if (" [a-z]+ ")" root ("else" root)?',
        "root ::= " + "[a-z]? " * 20,
        'root ::= "' + "a" * 50 + '"? ' + "[0-9]{0,2000}",
        "root ::= word (" + "|".join(f'"word{number}"' for number in range(500)) + ")*\nword ::= [a-z]*",
        JSON,
        LEVELS,
        gbnf_of_schema({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(100)}}),
        gbnf_of_schema({"type": "array", "items": {"enum": [f"value {n}" for n in range(500)]}}),
    ],
)
def test_grammars_that_can_be_used_pass(grammar):
    check(grammar)
    assert "root" in parse(grammar)


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("", "empty"),
        (5, "no text"),
        ('root ::= "\0"', "empty or no text"),
        ("root ::= (", "not closed"),
        ("root ::= )", "not opened"),
        ("root ::= * ", "repeats nothing"),
        ('"a"', "before the first rule"),
        ('other ::= "a"', "no rule `root`"),
        ("root ::= other", "no rule `other`"),
        ('root ::= "a"{3,1}', "not possible"),
        ('root ::= "a"{5000}', "not possible"),
        ('root ::= "' + ")" * 20_000 + '" ' + "(" * 20_000 + '"a"' + ")" * 20_000, "levels"),
        ('root ::= "' + "a" * 100_000 + '"{2000}', "repeated 2,000 times"),
        ("root ::= a0\n" + NULLABLE, "begin in more than"),
        ('root ::= root "a" | "b"', "begins with itself"),
        ('root ::= ""* other\nother ::= "b"? root', "No text can ever match"),
        ('root ::= "a" root', "No text can ever match"),
        ('root ::= "\ud800"', "half a character"),
        ("root ::= " + "a" * 300_000, "characters"),
        ("root ::= " + "[a-z]?" * 80, "in more than 1,000,000 ways over 4 characters"),
        ("root ::= " + '"a"?' * 3000, "1,000,000 ways"),
        ("root ::= " + r'"\x61"? ' * 80, "1,000,000 ways"),
        ("root ::= " + '("a" | "b" | (""))' * 200, "1,000,000 ways"),
        ("root ::= (" + "[a-z]?" * 80 + ")*", "1,000,000 ways"),
        ("root ::= [a-z] root? [a-z]? [a-z]?", "1,000,000 ways"),
        ("root ::= [a]{" + "9" * 5000 + "}", "not possible"),
        ("root ::= [a]{٣}", "not understood"),
        (
            "root ::= a0\n" + "\n".join(f'a{n} ::= a{n + 1} "x"?' for n in range(4000)) + '\na4000 ::= "y"',
            "1,000,000 ways",
        ),
    ],
)
def test_what_llama_cpp_could_not_bear_is_refused(grammar, why):
    with pytest.raises(BadInput, match=why):
        check(grammar)


@pytest.mark.parametrize(
    ("grammar", "ways"),
    [
        ("root ::= [a-z]*", 5),  # an end after 1, 2, 3 or 4 characters, or none yet
        ('root ::= "abc"', 1),
        ("root ::= [a-z]? [a-z]? [a-z]?", 7),  # one, two or three of them
        ('root ::= "a" ("b" | "c")? [a-z]?', 6),
        ("root ::= [a-z] other\nother ::= [0-9] | [a-z]", 2),
        ("root ::= [a-z] root?", 5),
    ],
)
def test_ways_are_counted(grammar, ways):
    rules = parse(grammar)
    counted = Ways(rules, lambda item: item.least == 0)
    assert counted.exceed(ways - 1) and not counted.exceed(ways)
