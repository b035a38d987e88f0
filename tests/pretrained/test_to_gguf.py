"""LLaMA networks to GGUF: names, sizes and vocabulary as other people's file has them."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real
import tokenizers
from test_llama_networks import CONFIG, GGUF, HUB, TOKENS, config_json, expected, random_arrays
from vocabularies import WAYS, trained

from wlab import tree
from wlab.checkpoint import Lazy, open_source, save_gguf, save_safetensors
from wlab.models import LlamaConfig, TransformerConfig, llama
from wlab.pretrained import Plan, from_gguf, from_hub, maps, save_hub, text, to_gguf
from wlab.pretrained.networks.network import Network

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "▁ab"]
PAIRS = [("▁", "a"), ("▁a", "b")]
SENTENCE = "ab ba, é1 <s>a  b"


def pieces_json(**changes: object) -> str:
    """A `tokenizer.json` of SentencePiece's BPE, as the hub has LLaMA 2's."""
    model = {
        "type": "BPE",
        "vocab": {piece: i for i, piece in enumerate(PIECES)},
        "merges": [list(pair) for pair in PAIRS],
        "byte_fallback": True,
        "fuse_unk": True,
        "unk_token": "<unk>",
    }
    added = [
        {"id": i, "content": PIECES[i], "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for i in range(3)
    ]
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    ours = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "model": model,
    }
    return json.dumps(ours | changes)


def folder_of(tmp_path, arrays, tokenizer: str, **sizes: object):
    save_safetensors(tmp_path / "model.safetensors", arrays)
    (tmp_path / "config.json").write_text(config_json(**sizes))
    (tmp_path / "tokenizer.json").write_text(tokenizer)
    return tmp_path


def llama_arrays(*, vocab: int, tied: bool) -> dict[str, np.ndarray]:
    arrays = random_arrays(HUB, tied=tied)
    rng = np.random.default_rng(1)
    for role in ("embed",) if tied else ("embed", "head"):
        arrays[HUB[role]] = rng.normal(0.1, 0.4, (vocab, 24)).astype(np.float32)
    return arrays


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_becomes_a_file_that_computes_what_numpy_does(tmp_path, tied):
    arrays = llama_arrays(vocab=300, tied=tied)
    folder = folder_of(
        tmp_path, arrays, pieces_json(), vocab_size=300, tie_word_embeddings=tied, eos_token_id=2
    )
    network = from_hub(folder, lazy=True)
    assert all(isinstance(leaf, Lazy) for leaf in tree.leaves(network.params).values())
    there, metadata = to_gguf(network)
    save_gguf(tmp_path / "w.gguf", there, metadata=metadata)
    written = {name: a.read() for name, a in open_source(tmp_path / "w.gguf").arrays.items()}
    # In the file's own names and order of rows, by an independent forward pass.
    wanted = expected(arrays, HUB, tied=tied, interleaved=False)
    found = expected(written, GGUF, tied=tied, interleaved=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    again = from_gguf(tmp_path / "w.gguf")
    assert replace(again.config, epsilon=1e-5) == network.config
    assert again.config.epsilon == np.float32(1e-5)
    said = again.model.apply(again.params, jnp.array(TOKENS)[None])[0]
    np.testing.assert_allclose(said, wanted, rtol=2e-3, atol=2e-3)
    assert again.tokenizer.encode(SENTENCE) == network.tokenizer.encode(SENTENCE)
    assert (again.tokenizer.bos, again.tokenizer.eos) == (1, 2)
    assert [metadata["tokenizer.ggml.tokens"][i] for i in (262, 264)] == ["▁a", "[PAD264]"]
    kinds = metadata["tokenizer.ggml.token_type"]
    assert [kinds[i] for i in (0, 1, 2, 3, 262, 264)] == [2, 3, 3, 6, 1, 5]


def test_leaves_that_stay_in_the_file_are_what_loading_gives(tmp_path):
    folder = folder_of(tmp_path, llama_arrays(vocab=300, tied=True), pieces_json(), vocab_size=300)
    for dtype in (None, "bfloat16"):
        lazy, loaded = from_hub(folder, lazy=True, dtype=dtype), from_hub(folder, dtype=dtype)
        pairs = zip(
            tree.leaves(lazy.params).items(), tree.leaves(loaded.params).values(), strict=True
        )
        for (path, leaf), wanted in pairs:
            assert (leaf.shape, leaf.dtype, leaf.nbytes) == (
                wanted.shape,
                wanted.dtype.name,
                wanted.nbytes,
            ), path
            np.testing.assert_array_equal(np.asarray(leaf), wanted, err_msg=path)
    save_safetensors(folder / "model.safetensors", {"x": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="does not fit"):
        from_hub(folder, lazy=True)


def test_matrices_take_another_dtype_and_vectors_stay_float32(tmp_path):
    folder = folder_of(tmp_path, llama_arrays(vocab=300, tied=True), pieces_json(), vocab_size=300)
    arrays, metadata = to_gguf(from_hub(folder), dtype="float16")
    assert {len(a.shape): a.dtype for a in arrays.values()} == {1: "float32", 2: "float16"}
    assert metadata["general.file_type"] == 1


@pytest.mark.parametrize("name", list(WAYS))
def test_how_texts_are_cut_is_found_out_and_read_back(name):
    inner = trained(name, size=330)
    eos = inner.token_to_id("<|end|>")
    words = text.Tokenizer(lambda s: inner.encode(s).ids, inner.decode, 330, None, eos, inner)
    metadata = text.to_gguf(words, size=inner.get_vocab_size() + 2)
    assert metadata["tokenizer.ggml.pre"] == name
    again = text.from_gguf(metadata)
    for sentence in ("the 1984 they'LL  go\n\n<|end|>", "two 20011ths, said I've\t 3", ""):
        assert again.encode(sentence) == inner.encode(sentence).ids
        assert again.decode(again.encode(sentence)) == inner.decode(inner.encode(sentence).ids)
    assert "tokenizer.ggml.bos_token_id" not in metadata
    assert metadata["tokenizer.ggml.add_bos_token"] is False


def test_smollm2_s_own_metadata_and_weights_come_out_again():
    """Other people's file: what llama.cpp's converter has made of the hub's folder."""
    path = real.folder("smollm2-135m") / "model.gguf"
    arrays, metadata = to_gguf(from_gguf(path, lazy=True))
    theirs = open_source(path)
    differ = {key for key, value in metadata.items() if theirs.metadata.get(key) != value}
    assert differ == {"general.file_type"}  # 3, mostly Q4_1; here float32
    ours = {"add_space_prefix", "unknown_token_id", "padding_token_id"}
    absent = theirs.metadata.keys() - metadata.keys()
    assert {k for k in absent if k.startswith(("llama.", "tokenizer.ggml"))} == {
        f"tokenizer.ggml.{key}" for key in ours
    }
    assert arrays.keys() == theirs.arrays.keys()
    for name in ("token_embd.weight", "blk.7.attn_q.weight", "blk.29.ffn_down.weight"):
        np.testing.assert_array_equal(arrays[name].read(), theirs.arrays[name].read(), err_msg=name)


def test_stories15m_s_vocabulary_reads_texts_alike():
    words = real.network("stories15m").tokenizer
    again = text.from_gguf(text.to_gguf(words, size=32_000))
    for sentence in ("Once upon a time, there was 1 girl.", "naïve 🙂 世界\n\n  x", "</s> a"):
        assert again.encode(sentence) == words.encode(sentence)
        assert again.decode(again.encode(sentence)) == words.decode(words.encode(sentence))


def network(config: object, words: text.Tokenizer | None = None) -> Network:
    made = llama(CONFIG)
    params, name_map = made.init(jax.random.key(0)), maps.llama_hub(CONFIG.layers, tied=True)
    return Network(made, config, params, name_map, Plan(()), tokenizer=words)


def test_what_no_gguf_file_can_say_is_refused(tmp_path):
    (tmp_path / "t.json").write_text(pieces_json())
    words = text.from_hub(tmp_path / "t.json")
    with pytest.raises(ValueError, match="no name for a TransformerConfig"):
        to_gguf(network(TransformerConfig(layers=1, width=8, heads=2, vocab=9, context=4)))
    with pytest.raises(ValueError, match="rotary pairs as halves"):
        to_gguf(network(LlamaConfig(**{**vars(CONFIG), "rotary": "interleaved"})))
    with pytest.raises(ValueError, match="no tokenizer"):
        to_gguf(network(CONFIG))
    with pytest.raises(ValueError, match="token 263 of the vocabulary has no row"):
        to_gguf(network(CONFIG, words))
    odd = json.loads(pieces_json())
    odd["model"]["vocab"] |= {"ab": 264}  # "▁" and "ab" would join to "▁ab" too
    (tmp_path / "t.json").write_text(json.dumps(odd))
    with pytest.raises(ValueError, match="'▁' and 'ab' do not join"):
        text.to_gguf(text.from_hub(tmp_path / "t.json"), size=300)
    inner = trained("gpt-2", size=330)
    apart = [tokenizers.pre_tokenizers.Whitespace(), *WAYS["gpt-2"]]
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(apart)
    with pytest.raises(ValueError, match="no name for how"):
        text.to_gguf(
            text.Tokenizer(lambda s: inner.encode(s).ids, str, 330, None, 0, inner), size=400
        )
    words = text.Tokenizer(lambda s: [], str, 3)
    with pytest.raises(ValueError, match="not of the `tokenizers` package"):
        text.to_gguf(words, size=400)


def test_a_file_that_says_what_llama_lacks_is_refused(tmp_path):
    folder = folder_of(tmp_path, llama_arrays(vocab=300, tied=True), pieces_json(), vocab_size=300)
    arrays, metadata = to_gguf(from_hub(folder))
    for key, value, said in (
        ("llama.rope.dimension_count", 1, "dimension_count is 1; llama.. knows 4"),
        ("llama.rope.scaling.type", "linear", "scaling.type is 'linear'"),
        ("llama.attention.head_count", 0, "head_count is 0, not a size"),
        ("llama.attention.head_count_kv", [3, 3], r"head_count_kv is \[3, 3\], not a size"),
    ):
        save_gguf(tmp_path / "w.gguf", arrays, metadata=metadata | {key: value})
        with pytest.raises(ValueError, match=said):
            from_gguf(tmp_path / "w.gguf")


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("gpt2", {"pre": "dbrx"}, "cuts texts as 'dbrx'"),
        ("gpt2", {"merges": None}, "lacks the list 'tokenizer.ggml.merges'"),
        ("gpt2", {"merges": ["a c"]}, "'a c' does not join two tokens"),
        ("gpt2", {"merges": ["a"]}, "'a' does not join two tokens"),
        ("llama", {"tokens": None}, "lacks the list 'tokenizer.ggml.tokens'"),
        ("llama", {"scores": [0.0]}, "2 tokens, but 1 scores"),
        ("bert", {}, "unknown kind 'bert'"),
    ],
)
def test_a_damaged_vocabulary_is_refused(kind, changes, said):
    sound = {"model": kind, "tokens": ["a", "b"], "merges": [], "scores": [0.0, 0.0]}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in (sound | changes).items()}
    with pytest.raises(ValueError, match=said):
        text.from_gguf(metadata)


@pytest.mark.parametrize(
    ("said", "sizes", "wanted"),
    [
        ({"eos_token": {"content": "</s>"}, "bos_token": "<s>"}, {"eos_token_id": 9}, (1, 2)),
        ({}, {"eos_token_id": [2, 7], "bos_token_id": 1}, (1, 2)),
        (None, {"eos_token_id": 2}, (None, 2)),
        ({"eos_token": None}, {}, (None, None)),
    ],
)
def test_a_folder_says_which_token_ends_a_text(tmp_path, said, sizes, wanted):
    folder = folder_of(
        tmp_path, llama_arrays(vocab=300, tied=True), pieces_json(), vocab_size=300, **sizes
    )
    if said is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    words = from_hub(folder, lazy=True).tokenizer
    assert (words.bos, words.eos) == wanted


def test_a_chat_template_goes_along(tmp_path):
    folder = folder_of(tmp_path, llama_arrays(vocab=300, tied=True), pieces_json(), vocab_size=300)
    own = folder / "tokenizer_config.json"
    other = {"name": "tool_use", "template": "y"}
    for template, wanted in (
        ("{{ messages }}", "{{ messages }}"),
        ([other, {"name": "default", "template": "x"}], "x"),
        ([other, {"name": "default"}], None),
    ):
        own.write_text(json.dumps({"chat_template": template}))
        _, metadata = to_gguf(from_hub(folder, lazy=True))
        assert metadata.get("tokenizer.chat_template") == wanted
    (folder / "chat_template.jinja").write_text("{{ other }}")
    arrays, metadata = to_gguf(from_hub(folder, lazy=True))
    save_gguf(tmp_path / "w.gguf", arrays, metadata=metadata)
    save_hub(tmp_path / "again", from_gguf(tmp_path / "w.gguf", lazy=True))
    again = from_hub(tmp_path / "again", lazy=True).tokenizer
    assert again.chat_template == "{{ other }}"
