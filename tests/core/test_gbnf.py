"""GBNF is read as llama.cpp reads it, and what would end the process, hang it, or never end an answer is refused."""

import ctypes
import random
import re
import threading
import time

import llama_cpp as L
import pytest
from constrained import END, constraint, matches

from hanpaca.core.engines.constraints import MOST_SECONDS
from hanpaca.core.engines.gbnf import lark_of
from hanpaca.core.engines.llama_native import NativeWeights
from hanpaca.core.errors import BadInput, UnsupportedFeature

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
CONDITIONS = 'root ::= if | [a-z]+ ";"\nif ::= "if (" [a-z]+ ")" root ("else" root)?'


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= ("yes" | "no") "!"', ["yes!", "no!"], ["yes", "noo!", ""]),
        ('root ::= [^"\\\\]* # a comment (((((\nother ::= "unused"', ["", "中文 a\n"], ['"', "\\"]),
        ('root ::= "(((" item{2,3} ")"\nitem ::= ("a" | "")+ .', ["(((ab中)", "(((xyz)"], ["(((a)", "((("]),
        ('root ::= "a" (\n  "b" |\n  "c"\n)', ["ab", "ac"], ["a", "abc"]),
        ("root ::= x | x x\nx ::= [a-z] y?\ny ::= x", ["a", "abcdef"], ["", "A"]),
        (r'root ::= "\x61\u4e2d\U0001F600\n\t\"\\" [\]a-c]', ['a中😀\n\t"\\]'], ['a中😀\n\t"\\d']),
        ("root ::= [-a] [a-] [+--]", ["-a-", "a-,"], ["b--", "--."]),
        ("root ::= [^a-y] .", ["z\n", "\u0000中"], ["aa", "z"]),
        ('root ::= "ab" "c" | [a-z] [a-z] "d"', ["abc", "abd"], ["ab"]),
        (r"root ::= [a\-c]{2}", ["a-", "-c"], ["ab"]),
        ('root ::= "a"{0} "b"{2} ("c"?)* ""', ["bb", "bbcc"], ["abb", "b"]),
        ("root ::= <[97]> !<[98]>", ["ac"], ["ab", "bc"]),
        (CONDITIONS, ["if (a)if (b)c;elsed;", "x;"], ["if (a)", "else d;"]),
        (JSON, ['{"a": [1, -2.5e3, true], "b": {"c": "\\u00e9\\n"}}'], ['{"a": 01}', "[]", '{"a"}']),
        (LEVELS, ["1+2*(3|4)^5", "12 = 3"], ["1+", "(1"]),
        ("root ::= " + "[a-z]? " * 80, ["", "abc", "a" * 80], ["a" * 81, "A"]),
        (
            "root ::= word (" + "|".join(f'"word{n}"' for n in range(500)) + ")*\nword ::= [a-z]*",
            ["word7word499"],
            ["7"],
        ),
    ],
)
def test_what_matches(grammar: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not matches(text, grammar=grammar)] == []
    assert [text for text in bad if matches(text, grammar=grammar)] == []


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("  ", "empty"),
        ('root ::= "\0"', "empty or no text"),
        ("root ::= (", "not closed"),
        ("root ::= )", "not opened"),
        ("root ::= * ", "repeats nothing"),
        ('"a"', "before the first rule"),
        ('other ::= "a"', "no rule `root`"),
        ("root ::= other", "no rule `other`"),
        ('root ::= "a"\nroot ::= "b"', "defined twice"),
        ('root ::= "a"{3,1}', "not possible"),
        ('root ::= "a"{5000}', "not possible"),
        ("root ::= [a]{" + "9" * 5000 + "}", "not possible"),
        ("root ::= [a]{٣}", "not understood"),
        ("root ::= [z-a]", "earlier"),
        ('root ::= "a"{}', "no number"),
        ('root ::= root "a" | "b"', "`root` begins with itself"),
        ('root ::= other\nother ::= [a-z]? (("b" | other) "c") | "d"', "`other` begins with itself"),
        ("root ::= x*\nx ::= y?\ny ::= x | [a-z]", "begins with itself"),
        ("root ::= []", "empty"),
        (r'root ::= "\q"', "no character"),
        (r'root ::= "\xZZ"', "no character"),
        (r'root ::= "\U00110000"', "no character"),
        ("root ::= <think>", "not one token"),
        ('root ::= ""* other\nother ::= "b"? root', "No text can ever match"),
        ('root ::= "a" root', "No text can ever match"),
        ('root ::= "\ud800"', "half a character"),
        (r'root ::= "\ud800"', "half a character"),
        ("root ::= " + "a" * 300_000, "characters"),
        ('root ::= "' + "a" * 100_000 + '"{2000}', "letters"),
    ],
)
def test_what_is_no_grammar_is_refused(grammar: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        constraint(grammar=grammar)


MANY_WAYS = f"root ::= {' | '.join(f'b{n}' for n in range(200))}\n" + "\n".join(
    f'b{n} ::= [a-z] c{n}\nc{n} ::= root | ""' for n in range(200)
)
NULLABLE = "root ::= a0\n" + "\n".join(f"a{i} ::= a{i + 1}? a{i + 1}?" for i in range(9000)) + '\na9000 ::= "x"'
CHAIN = (
    "root ::= a0\n" + "\n".join(f'a{i} ::= "x" b{i}\nb{i} ::= a{i + 1} | ""' for i in range(6000)) + '\na6000 ::= "y"'
)
RING = "root ::= a0\n" + "\n".join(f'a{i} ::= "x" a{i + 1}' for i in range(9000)) + '\na9000 ::= a0 | "y"'


@pytest.mark.parametrize(
    "grammar",
    [
        NULLABLE,
        CHAIN,
        RING,
        "root ::= " + "(" * 29_000 + '"a"' + ")" * 29_000,
        "root ::= " + "(" * 120_000 + '"a"' + ")" * 120_000,
        "root ::= " + "(" * 50 + '"a"' + "{0,2000})" * 50,
        "root ::= (" + "[a-z]?" * 1500 + ")*",
        "root ::= ([^x] | [^x] | [^x])+",
        "root ::= " + "|".join(f'"{n}"' for n in range(9000)),
    ],
)
def test_whatever_is_large_is_followed_or_refused_and_ends_nothing(grammar: str) -> None:
    try:
        held = constraint(grammar=grammar)
        for _ in range(30):
            held.accept(int(held.allowed().argmax()))
    except BadInput as error:
        assert any(why in str(error) for why in ("too complex", "too large", "takes too long"))


def test_an_end_is_no_token_of_any_kind_before_the_end() -> None:
    held = constraint(grammar="root ::= !<[98]>* <[98]>")
    for token in (97, 99, 98):
        assert held.allowed()[token] and not held.allowed()[END]
        held.accept(token)
    assert held.allowed()[END] and not held.allowed()[97]


@pytest.mark.parametrize("grammar", ["root ::= " + "(" * 3 + "[a-z]{0,2000}" + "){0,2000}" * 3, MANY_WAYS])
def test_what_takes_too_long_is_given_up(grammar: str) -> None:
    held, start = constraint(grammar=grammar), time.thread_time()
    with pytest.raises(UnsupportedFeature, match=r"takes too long|too complex"):
        for _ in range(2000):
            held.allowed()
            held.accept(97)
    assert held.spent < 10 * MOST_SECONDS and time.thread_time() - start < 60


def test_a_small_stack_is_enough() -> None:
    before, found = threading.stack_size(256 * 1024), list[bool]()
    try:
        thread = threading.Thread(
            target=lambda: found.append(matches("a", grammar="root ::= " + "(" * 900 + '"a"' + ")" * 900))
        )
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert found == [True]


def native_matches(weights: NativeWeights, grammar: str, text: str) -> bool:
    """Whether llama.cpp's own grammar lets a text pass, over a vocabulary with all bytes."""
    tokens = {weights.token_bytes(token): token for token in range(weights.size)}
    sampler = L.llama_sampler_init_grammar(weights.vocab, grammar.encode(), b"root")
    try:
        for token in [*(tokens[bytes([byte])] for byte in text.encode()), min(weights.vocabulary.ends)]:
            one = (L.llama_token_data * 1)(L.llama_token_data(token, 0, 0))
            array = L.llama_token_data_array(one, 1, -1, False)
            L.llama_sampler_apply(sampler, ctypes.byref(array))
            if one[0].logit == float("-inf"):
                return False
            L.llama_sampler_accept(sampler, token)
        return True
    finally:
        L.llama_sampler_free(sampler)


def drawn(random: random.Random, depth: int) -> str:
    """Some expression."""
    kind = random.random()
    if depth == 0 or kind < 0.3:
        return random.choice(
            ['"a"', '"ab"', '"b"', '"abc"', "[a-b]", "[^a]", "[b-c]", ".", '"aa"', '"中"', "[^a-b中]", "x"]
        )
    if kind < 0.5:
        return f"{drawn(random, depth - 1)} {drawn(random, depth - 1)}"
    if kind < 0.7:
        return f"({drawn(random, depth - 1)} | {drawn(random, depth - 1)})"
    return f"({drawn(random, depth - 1)}){random.choice(['*', '+', '?', '{2}', '{1,2}'])}"


def test_texts_match_exactly_where_they_match_for_llama_cpp(tiny_file) -> None:
    weights, chance, matched = NativeWeights(tiny_file, vocab_only=True), random.Random(5), 0
    for _ in range(150):
        grammar = f'root ::= {drawn(chance, 3)}\nx ::= "a" | "b" {drawn(chance, 1).replace("x", "[c]")}'
        for _ in range(12):
            text = "".join(chance.choice("aaabbcc中") for _ in range(chance.randint(0, 5)))
            ours = matches(text, grammar=grammar)
            assert ours == native_matches(weights, grammar, text), (grammar, text)
            matched += ours
    weights.free()
    assert matched > 100


def test_names_are_written_anew() -> None:
    assert re.fullmatch(r'start: r1 "b"\nr1: "a"', lark_of('root ::= A-1 "b"\nA-1 ::= "a"', lambda _: []))
