"""What keyword search compares: folded texts, their terms, their language."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanpaca.rag import keywords
from hanpaca.rag.terms import _to_simplified, fold, fold_all, language_of, terms


def test_languages() -> None:
    assert [language_of(text) for text in ("你好 world", "hello 世界 and all", "123")] == ["zh", "en", ""]


@given(st.text(max_size=60))
def test_folding_is_stable_and_terms_come_from_it(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert all(term and " " not in term and '"' not in term for term in terms(text))


@given(st.text(max_size=60))
def test_folding_is_nfkc_without_case_in_simplified_characters(text: str) -> None:
    """Character by character, with a look-up for each, is what normalising the whole text gives."""
    whole = unicodedata.normalize("NFKC", text).casefold()
    assert fold(text) == whole.translate(_to_simplified())


@given(st.lists(st.text(max_size=20), max_size=6))
def test_folding_many_texts_is_folding_each(texts: list[str]) -> None:
    assert fold_all(texts) == [fold(text) for text in texts]


@pytest.mark.parametrize("texts", [["", "ａ\0Ｂ", "Ｌ…ﬁ", "", "繁體"], ["e\u0301é각", "\ud800Ａ"], [""], []])
def test_folding_many_texts_with_what_is_not_one_character_alone(texts: list[str]) -> None:
    assert fold_all(texts) == [fold(text) for text in texts]


@given(
    st.sampled_from(["city", "cities", "fly", "flies", "ties", "glass", "cats", "y"]),
    st.text("citeslfyga -", max_size=30),
)
def test_words_are_counted_in_every_form(word: str, text: str) -> None:
    """The look at whether a text holds a word's beginning never hides one that the terms of the text have."""
    question = keywords.Question({term: 1.0 for term in terms(word)}, 1.0, ())
    wanted = {term: terms(text).count(term) for term in terms(word)}
    assert keywords.count(question, text) == {term: times for term, times in wanted.items() if times}
