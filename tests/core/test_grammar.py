"""GBNF is read before llama.cpp sees it: what would end the process, hang it, or never end an answer is refused."""

import pytest

from hanpaca.core.engines.grammar import check, parse
from hanpaca.core.errors import BadInput

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
    ],
)
def test_what_llama_cpp_could_not_bear_is_refused(grammar, why):
    with pytest.raises(BadInput, match=why):
        check(grammar)
