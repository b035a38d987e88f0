"""Text to tokens to windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab.data import byte_tokens, char_text, char_tokens, vocabulary, windows


def test_bytes_are_the_utf8_of_a_text():
    np.testing.assert_array_equal(byte_tokens("aé"), [0x61, 0xC3, 0xA9])
    np.testing.assert_array_equal(byte_tokens(b"\x00\xff"), [0, 255])


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_characters_survive_the_round_trip(text: str):
    vocab = vocabulary(text)
    tokens = char_tokens(text, vocab)
    assert char_text(tokens, vocab) == text
    assert [vocab[token] for token in tokens] == list(text)


def test_an_unknown_character_is_named():
    with pytest.raises(ValueError, match=r"'z' is not in the vocabulary of 2"):
        char_tokens("abz", "ab")


def test_a_vocabulary_out_of_order_is_refused():
    with pytest.raises(ValueError, match="distinct characters in order"):
        char_tokens("ab", "ba")


def test_windows_share_one_token_so_that_every_token_is_predicted_once():
    np.testing.assert_array_equal(windows(np.arange(8), 3), [[0, 1, 2, 3], [3, 4, 5, 6]])


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 60))
def test_windows_start_at_every_stride_and_are_whole(context: int, stride: int, more: int):
    tokens = np.arange(context + 1 + more)
    expected = [
        tokens[start : start + context + 1] for start in range(0, len(tokens) - context, stride)
    ]
    np.testing.assert_array_equal(windows(tokens, context, stride=stride), expected)


def test_windows_take_no_memory():
    tokens = np.arange(100)
    assert np.shares_memory(windows(tokens, 10), tokens)


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="8 tokens are too few for one window of 8"):
        windows(np.arange(8), 8)


@pytest.mark.parametrize(("context", "stride"), [(0, 1), (4, 0)])
def test_a_context_or_stride_below_one_is_refused(context: int, stride: int):
    with pytest.raises(ValueError, match="at least 1"):
        windows(np.arange(8), context, stride=stride)
