"""llama2.c files are read by their header alone, and only if it describes them to the byte."""

import struct

import numpy as np
import pytest

from wlab.checkpoint import open_llama2c, read_llama2c_tokenizer

SIZES = (8, 6, 3, 4, 2, 5, 7)  # dim, hidden, layers, heads, shared heads, vocabulary, context
SHAPES = {
    "token_embedding_table": (5, 8),
    "rms_att_weight": (3, 8),
    "wq": (3, 8, 8),
    "wk": (3, 4, 8),
    "wv": (3, 4, 8),
    "wo": (3, 8, 8),
    "rms_ffn_weight": (3, 8),
    "w1": (3, 6, 8),
    "w2": (3, 8, 6),
    "w3": (3, 6, 8),
    "rms_final_weight": (8,),
    "freq_cis_real": (7, 1),
    "freq_cis_imag": (7, 1),
}


def model(shapes=SHAPES, sizes=SIZES):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype("<f4") for name, shape in shapes.items()}
    return arrays, struct.pack("<7i", *sizes) + b"".join(a.tobytes() for a in arrays.values())


@pytest.fixture
def file(tmp_path):
    def write(content: bytes):
        path = tmp_path / "model.bin"
        path.write_bytes(content)
        return path

    return write


def check(source, arrays):
    assert list(source.arrays) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(source.arrays[name].read(), array, strict=True)


def test_every_weight_stands_where_run_c_expects_it(file):
    arrays, content = model()
    source = open_llama2c(file(content))
    check(source, arrays)
    assert source.metadata == {
        "dim": 8,
        "hidden_dim": 6,
        "n_layers": 3,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": 5,
        "seq_len": 7,
        "shared_classifier": True,
        "trailing": 0,
    }


def test_a_negative_vocabulary_means_a_classifier_of_its_own(file):
    sizes = (*SIZES[:5], -5, 7)
    arrays, content = model(SHAPES | {"wcls": (5, 8)}, sizes)
    source = open_llama2c(file(content))
    check(source, arrays)
    assert (source.metadata["vocab_size"], source.metadata["shared_classifier"]) == (5, False)


def test_data_that_follow_are_read_only_if_the_caller_knows_of_them(file):
    arrays, content = model()
    path = file(content + b"more")
    with pytest.raises(ValueError, match=rf"model.bin: .* open it with end={len(content)}\.$"):
        open_llama2c(path)
    source = open_llama2c(path, end=len(content))
    check(source, arrays)
    assert source.metadata["trailing"] == 4
    with pytest.raises(ValueError, match="said to end at 100"):
        open_llama2c(path, end=100)
    with pytest.raises(ValueError, match="describes"):
        open_llama2c(file(content[:-4]), end=len(content))


def header(**changed):
    names = ("dim", "hidden", "layers", "heads", "kv_heads", "vocab", "context")
    return struct.pack("<7i", *(dict(zip(names, SIZES, strict=True)) | changed).values())


BODY = model()[1][28:]
HOSTILE = {
    "an empty file": (b"", "the header needs 28 bytes where 0"),
    "part of a header": (header()[:27], "the header needs 28 bytes where 27"),
    "one number too few": (header() + BODY[:-4], "describes .* the file has"),
    "one byte too many": (header() + BODY + b"x", "describes .* the file has"),
    "one layer more": (header(layers=4) + BODY, "describes .* the file has"),
    "huge sizes": (
        header(dim=2**30, layers=2**31 - 1, heads=2**28) + BODY,
        "describes 19,807,040,",
    ),
    "a negative size": (header(dim=-8) + BODY, "not a llama2.c model of .*'dim': -8"),
    "no layers": (header(layers=0) + BODY, "'n_layers': 0"),
    "no vocabulary": (header(vocab=0) + BODY, "'vocab_size': 0"),
    "heads of odd size": (header(heads=8) + BODY, "dim to be heads of even size"),
    "heads that are not shared evenly": (header(kv_heads=3) + BODY, "share n_kv_heads evenly"),
    "a later version": (b"24ka" + struct.pack("<i", 2) + BODY, "is llama2.c version 2; export it"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_model_is_refused(file, content, message):
    path = file(content)
    with pytest.raises(ValueError, match=message) as error:
        open_llama2c(path)
    assert str(path) in str(error.value)


TOKENS = [(0.0, b"<unk>"), (-1.5, b""), (-2.0, b"\xff\n"), (np.inf, b" the")]


def tokenizer(tokens=TOKENS, longest=5):
    return struct.pack("<i", longest) + b"".join(
        struct.pack("<fi", score, len(text)) + text for score, text in tokens
    )


@pytest.mark.parametrize("offset", [0, 9])
def test_a_tokenizer_is_read_where_it_stands(file, offset):
    path = file(bytes(offset) + tokenizer())
    found = read_llama2c_tokenizer(path, offset, vocab_size=4)
    assert found.texts == [text for _, text in TOKENS]
    np.testing.assert_array_equal(found.scores, np.float32([score for score, _ in TOKENS]))
    assert found.longest == 5


HOSTILE_TOKENS = {
    "nothing": (b"", "the tokenizer's header needs 4 bytes"),
    "part of a token": (tokenizer()[:-5], "token 3 needs"),
    "part of a text": (tokenizer()[:-1], "token 3 needs 4 bytes where 3"),
    "a negative length": (tokenizer([]) + struct.pack("<fi", 0, -1), "token 0 has -1 bytes"),
    "a text longer than announced": (tokenizer(longest=4), "token 0 has 5 bytes .* at most 4"),
    "a length beyond the file": (
        tokenizer([], 2**31 - 1) + struct.pack("<fi", 0, 2**30),
        "token 0 needs 1,073,741,824 bytes where 0",
    ),
    "a score that is NaN": (tokenizer([(np.nan, b"a")]), "token 0 has .* the score nan"),
    "too few tokens": (tokenizer(TOKENS[:3]), "has 3 tokens, not 4"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE_TOKENS.values(), ids=HOSTILE_TOKENS.keys())
def test_a_hostile_tokenizer_is_refused(file, content, message):
    path = file(content)
    with pytest.raises(ValueError, match=message) as error:
        read_llama2c_tokenizer(path, vocab_size=4)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("offset", [-1, 1000])
def test_an_offset_out_of_the_file_is_refused(file, offset):
    with pytest.raises(ValueError, match=r"has \d+ bytes, none at"):
        read_llama2c_tokenizer(file(tokenizer()), offset)
