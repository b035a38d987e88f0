"""Language networks that transformers wrote compute the same here, and go back there."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

from wlab import tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.models import empty_cache
from wlab.models.distances import distance_buckets
from wlab.pretrained import Network, export, from_hub, text

transformers.logging.set_verbosity_error()
TOKENS = np.random.default_rng(0).integers(2, 40, (2, 9))
HELD = np.array([[True] * 9, [True] * 6 + [False] * 3])  # the second row is shorter
GPT2 = {"n_layer": 2, "n_embd": 24, "n_head": 4, "n_positions": 16, "vocab_size": 40}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 1}
ALBERT = {"num_hidden_layers": 3, "hidden_size": 24, "embedding_size": 8, "vocab_size": 40}
ALBERT |= {"num_attention_heads": 4, "intermediate_size": 36, "max_position_embeddings": 16}
T5 = {"num_layers": 2, "num_decoder_layers": 3, "d_model": 24, "num_heads": 3, "d_kv": 5}
T5 |= {"d_ff": 36, "vocab_size": 40, "relative_attention_num_buckets": 8}
T5 |= {"relative_attention_max_distance": 6}
V1_1 = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def saved(made: Any, folder: Path) -> Any:
    """The network with every parameter random, as its folder on the hub."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    made.eval().save_pretrained(folder)
    return made


def sent_back(network: Network, made: Any, folder: Path) -> Any:
    """What transformers makes of the file that our tree gives, all names taken and none left."""
    names = open_source(folder / "model.safetensors").arrays
    arrays = export(network.params, network.name_map, names=names)
    save_safetensors(folder / "model.safetensors", arrays, metadata={"format": "pt"})
    again, said = type(made).from_pretrained(folder, output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return again.eval()


def said_by(made: Any, **inputs: Any) -> np.ndarray:
    with torch.no_grad():
        return made(**{name: torch.tensor(array) for name, array in inputs.items()})


def close(found: Any, wanted: torch.Tensor) -> None:
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPT2Model"])
@pytest.mark.parametrize("tied", [True, False])
def test_gpt2(kind: str, tied: bool, tmp_path: Path):
    config = transformers.GPT2Config(**GPT2, tie_word_embeddings=tied)
    made = saved(getattr(transformers, kind)(config), tmp_path)
    if kind == "GPT2Model" and not tied:
        with pytest.raises(ValueError, match=r"'head/kernel' \[24,40\] is missing"):
            from_hub(tmp_path)
        return
    network = from_hub(tmp_path)
    assert tree.count(network.params) == sum(p.numel() for p in made.parameters())
    found = jax.jit(network.model.apply)(network.params, jnp.array(TOKENS))
    if kind == "GPT2Model":
        states = said_by(made, input_ids=TOKENS).last_hidden_state
        close(found, states @ made.wte.weight.detach().T)
        close(found, states @ sent_back(network, made, tmp_path).wte.weight.detach().T)
        return
    close(found, said_by(made, input_ids=TOKENS).logits)
    close(found, said_by(sent_back(network, made, tmp_path), input_ids=TOKENS).logits)


def test_gpt2_with_padding_at_the_start(tmp_path: Path):
    made = saved(transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)), tmp_path)
    network, held = from_hub(tmp_path), HELD[:, ::-1].copy()
    places = np.maximum(held.cumsum(-1) - 1, 0)
    wanted = said_by(made, input_ids=TOKENS, attention_mask=held, position_ids=places).logits
    cache = empty_cache(network.config, 2, pads=jnp.array([0, 3]))
    apply = jax.jit(network.model.apply)
    first, cache = apply(network.params, jnp.array(TOKENS[:, :5]), cache=cache)
    rest, _ = apply(network.params, jnp.array(TOKENS[:, 5:]), cache=cache)
    close(np.concatenate([first, rest], 1)[held], wanted[torch.tensor(held)])


@pytest.mark.parametrize("kind", ["AlbertModel", "AlbertForPreTraining", "AlbertForMaskedLM"])
def test_albert(kind: str, tmp_path: Path):
    made = saved(getattr(transformers, kind)(transformers.AlbertConfig(**ALBERT)), tmp_path)
    without = kind == "AlbertForMaskedLM"
    policies = [("pool/.*", "zero"), (".*", "error")] if without else [(".*", "error")]
    network = from_hub(tmp_path, policies=policies)
    types = np.random.default_rng(1).integers(0, 2, TOKENS.shape)
    apply = jax.jit(network.model.apply)
    found = apply(network.params, jnp.array(TOKENS), types=jnp.array(types), mask=jnp.array(HELD))
    body = made if kind == "AlbertModel" else made.albert
    wanted = said_by(body, input_ids=TOKENS, token_type_ids=types, attention_mask=HELD)
    close(found.states[HELD], wanted.last_hidden_state[torch.tensor(HELD)])
    if not without:
        close(found.pooled, wanted.pooler_output)
    if kind == "AlbertModel":
        assert tree.count(network.params) == sum(p.numel() for p in made.parameters())
        again = said_by(sent_back(network, made, tmp_path), input_ids=TOKENS, attention_mask=HELD)
        wanted = said_by(made, input_ids=TOKENS, attention_mask=HELD)
        close(again.pooler_output, wanted.pooler_output)


@pytest.mark.parametrize(
    ("sizes", "head"),
    [(T5, False), (V1_1, True), (V1_1, False)],
    ids=["v1.0", "v1.1", "v1.1 with a tied head"],
)
def test_t5(sizes: dict, head: bool, tmp_path: Path):
    made = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    if head:
        made.config.tie_word_embeddings = False
        made.lm_head.weight = torch.nn.Parameter(torch.empty(40, 24))
    made = saved(made, tmp_path)
    network = from_hub(tmp_path)
    assert ("head" in network.params) is head
    assert tree.count(network.params) == sum(p.numel() for p in made.parameters())
    targets = np.random.default_rng(1).integers(2, 40, (2, 7))
    inputs = {"input_ids": TOKENS, "attention_mask": HELD, "decoder_input_ids": targets}
    apply = jax.jit(network.model.apply)
    tokens, mask = jnp.array(TOKENS), jnp.array(HELD)
    found = apply(network.params, tokens, targets=jnp.array(targets), mask=mask)
    close(found, said_by(made, **inputs).logits)
    close(found, said_by(sent_back(network, made, tmp_path), **inputs).logits)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (8, 20)])
def test_t5s_classes_of_distance(buckets: int, longest: int, both_ways: bool):
    found = distance_buckets(300, 300, buckets=buckets, longest=longest, causal=not both_ways)
    ahead = torch.arange(300)[None] - torch.arange(300)[:, None]
    wanted = T5Attention._relative_position_bucket(ahead, both_ways, buckets, longest)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({}, 60_506_624),
        (
            {"num_layers": 8, "num_heads": 6, "d_ff": 1024, "feed_forward_proj": "gated-gelu"},
            76_961_152,
        ),
    ],
    ids=["small", "v1.1 small"],
)
def test_t5s_published_totals(sizes: dict, count: int):
    with torch.device("meta"):
        made = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    total = sum(p.numel() for p in made.parameters())
    assert total + (made.lm_head.weight.numel() if sizes else 0) == count


def test_gpt2s_vocabulary_splits_texts_as_transformers_does(tmp_path: Path):
    bytes_ = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(bytes_)
    )
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator([Path(__file__).read_text(), "naïve 世界 12 123"], trainer)
    made.model.save(str(tmp_path))
    files = tmp_path / "vocab.json", tmp_path / "merges.txt"
    ours = text.from_merges(*files)
    theirs = transformers.GPT2Tokenizer(*map(str, files))
    for words in ("  def saved(made):\n\treturn 123", "naïve 🙂 世界's", "a<|endoftext|>b", ""):
        assert ours.encode(words) == theirs(words)["input_ids"]
        assert ours.decode(ours.encode(words)) == words.replace("<|endoftext|>", "")
    assert (ours.eos, ours.size) == (theirs.eos_token_id, len(theirs))
