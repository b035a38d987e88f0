"""Adapters that PEFT saved compute here what they do there, and the other way round."""

import json
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaForCausalLM

from wlab import tree
from wlab.checkpoint import open_source
from wlab.pretrained import (
    Mapped,
    NameMap,
    from_hub,
    load_adapter,
    merge_adapter,
    move,
    save_adapter,
)
from wlab.pretrained.ops import Split, Transpose
from wlab.transfer import Adaptation, Adapter, dora, embedding, lora, pissa

pytestmark = pytest.mark.filterwarnings("ignore")  # those of PEFT and transformers
TOKENS = np.array([[3, 1, 4, 1, 5, 9]])
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 19,
    "max_position_embeddings": 8,
    "initializer_range": 0.3,
}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=False)
    return LlamaForCausalLM(config).eval()


def bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(**SMALL)).eval()


MODELS = {"llama": llama, "bert": bert}
CONFIGS = {
    "llama, LoRA": {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "llama, rsLoRA": {"r": 3, "use_rslora": True, "target_modules": "all-linear"},
    "llama, DoRA": {"r": 2, "use_dora": True, "target_modules": ["k_proj", "up_proj"]},
    "llama, patterns": {
        "r": 2,
        "target_modules": ["q_proj", "k_proj", "o_proj", "gate_proj"],
        "rank_pattern": {"k_proj": 1, r"layers\.1\.self_attn\.o_proj": 4},
        "alpha_pattern": {"gate_proj": 7, r"model\.layers\.0\..*": 5},  # in this order in the file
    },
    "llama, whole modules": {
        "r": 2,
        "target_modules": r".*layers\.1\.self_attn\.(q|o)_proj",
        "modules_to_save": ["lm_head", "input_layernorm"],
    },
    "llama, table": {"r": 2, "lora_alpha": 5, "target_modules": ["embed_tokens", "q_proj"]},
    "llama, table, DoRA": {"r": 2, "use_dora": True, "target_modules": ["embed_tokens"]},
    "bert, LoRA": {"r": 2, "lora_alpha": 3, "target_modules": ["query", "value", "pooler.dense"]},
    "bert, DoRA and whole": {
        "r": 3,
        "use_dora": True,
        "use_rslora": True,
        "target_modules": ["key", "intermediate.dense"],
        "modules_to_save": ["pooler"],
    },
}


def outputs(name: str, model) -> np.ndarray:
    with torch.no_grad():
        found = model(torch.tensor(TOKENS))
    return (found.logits if name == "llama" else found.pooler_output).numpy()


def our_outputs(name: str, net, params) -> np.ndarray:
    found = jax.jit(net.model.apply)(params, jnp.asarray(TOKENS))
    return np.asarray(found if name == "llama" else found.pooled)


def moved(model):
    """Factors, lengths and whole modules that are no longer fresh."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def quietly(make):
    """PEFT only warns of keys that are missing or have no place."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return make()


def loaded_by_peft(base, folder):
    model = quietly(lambda: peft.PeftModel.from_pretrained(base, folder))
    keys = set(open_source(folder / "adapter_model.safetensors").arrays)
    assert keys == set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    return model.eval()


@pytest.fixture
def hub(tmp_path):
    def saved(name):
        MODELS[name]().save_pretrained(tmp_path / name)
        return from_hub(tmp_path / name)

    return saved


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_of_peft_there_and_here_and_there_again(kind, hub, tmp_path):
    name = kind.split(",")[0]
    net = hub(name)
    base = outputs(name, MODELS[name]())
    theirs = moved(peft.get_peft_model(MODELS[name](), peft.LoraConfig(**CONFIGS[kind])))
    wanted = outputs(name, theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    assert np.abs(wanted - base).max() > 0.05

    found = load_adapter(tmp_path / "theirs", net)
    np.testing.assert_allclose(our_outputs(name, net, net.params), base, atol=1e-5)
    got = our_outputs(name, net, found.merged(net.params))
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)

    save_adapter(tmp_path / "ours", found, net)
    again = loaded_by_peft(MODELS[name](), tmp_path / "ours")
    np.testing.assert_array_equal(outputs(name, again), wanted)


ATTENTION = r"block_\d/attn/(q|k|o)/kernel"
OURS = {
    "LoRA of several ranks": (
        Adapter(2, alpha=3),
        [(".*/(q|k)/kernel", True), (".*/up/kernel", Adapter(3, alpha=5)), (".*", None)],
    ),
    "rsLoRA beside LoRA": (
        Adapter(2, alpha=3, scaling="rank_stabilized"),
        [("block_0/attn/q/kernel", True), ("block_1/attn/q/kernel", Adapter(3)), (".*", None)],
    ),
    "DoRA": (dora(2), [(ATTENTION, True), (".*", None)]),
    "PiSSA": (Adapter(2, alpha=3, start=pissa), [(ATTENTION, True), (".*", None)]),
    "DoRA from PiSSA": (dora(2, start=pissa), [(ATTENTION, True), (".*", None)]),
    "a table and a norm": (
        Adapter(2, start=embedding),
        [
            ("embed/embedding", True),
            ("norm/scale", "train"),
            ("head/kernel", "train"),
            (".*", None),
        ],
    ),
}


@pytest.mark.parametrize("kind", OURS)
def test_an_adapter_of_ours_computes_there_what_it_does_here(kind, hub, tmp_path, key):
    adapter, rules = OURS[kind]
    net = hub("llama")
    weights = lora(adapter, rules)
    stored, state = jax.jit(weights.init)(net.params, key)
    rng = np.random.default_rng(1)
    stored = jax.tree.map(
        lambda x: x + np.float32(0.2) * rng.normal(size=x.shape).astype("f"), stored
    )
    wanted = our_outputs("llama", net, weights.finalize(stored, state))
    assert np.abs(wanted - our_outputs("llama", net, net.params)).max() > 0.05
    save_adapter(tmp_path / "ours", Adaptation(adapter, rules, stored), net)
    there = loaded_by_peft(llama(), tmp_path / "ours")
    np.testing.assert_allclose(outputs("llama", there), wanted, atol=1e-5, rtol=1e-5)
    merged = merge_adapter(tmp_path / "ours", net)
    np.testing.assert_allclose(our_outputs("llama", net, merged), wanted, atol=1e-5, rtol=1e-5)


class Pictures(torch.nn.Module):
    """A convolution and a head."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, (2, 3))
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.conv(x).amax((2, 3)))


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_convolution_goes_there_and_back(use_dora, tmp_path):
    torch.manual_seed(0)
    model = Pictures()
    arrays = {name: jnp.asarray(x.detach().numpy()) for name, x in model.named_parameters()}
    name_map = NameMap(
        (
            move("conv.weight", "conv/kernel", Transpose((2, 3, 1, 0))),
            move("conv.bias", "conv/bias"),
            move("head.weight", "head/kernel", Transpose()),
            move("head.bias", "head/bias"),
        )
    )
    params = {
        "conv": {
            "kernel": arrays["conv.weight"].transpose(2, 3, 1, 0),
            "bias": arrays["conv.bias"],
        },
        "head": {"kernel": arrays["head.weight"].T, "bias": arrays["head.bias"]},
    }
    config = peft.LoraConfig(r=2, target_modules=["conv", "head"], use_dora=use_dora)
    theirs = moved(peft.get_peft_model(model, config))
    theirs.save_pretrained(tmp_path / "theirs")
    net = Mapped(params, name_map)
    found = load_adapter(tmp_path / "theirs", net)
    merged = theirs.merge_and_unload()
    kernel = found.merged(params)["conv"]["kernel"]
    wanted = merged.state_dict()["conv.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, wanted, atol=1e-5)
    save_adapter(tmp_path / "ours", found, net)
    for name, array in open_source(tmp_path / "theirs/adapter_model.safetensors").arrays.items():
        again = open_source(tmp_path / "ours/adapter_model.safetensors").arrays[name]
        np.testing.assert_array_equal(again.read(), array.read(), err_msg=name)


def gpt2() -> GPT2Model:
    torch.manual_seed(0)
    return GPT2Model(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=19, n_positions=8)).eval()


def gpt2_parts(model) -> Mapped:
    """The fused q, k, v of GPT-2, whose kernels stand as (in, out), in three leaves."""
    kernel = dict(model.named_parameters())["h.0.attn.c_attn.weight"].detach().numpy()
    q, k, v = (jnp.asarray(x) for x in np.split(kernel, 3, axis=1))
    cut = move("h.0.attn.c_attn.weight", ["q/kernel", "k/kernel", "v/kernel"], Split((8, 8, 8), 1))
    return Mapped({"q": {"kernel": q}, "k": {"kernel": k}, "v": {"kernel": v}}, NameMap((cut,)))


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_fused_kernel_comes_apart_and_goes_together(use_dora, tmp_path):
    config = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=["c_attn"], use_dora=use_dora, fan_in_fan_out=True
    )
    theirs = moved(peft.get_peft_model(gpt2(), config))
    theirs.save_pretrained(tmp_path / "theirs")
    net = gpt2_parts(gpt2())
    found = load_adapter(tmp_path / "theirs", net)
    wanted = gpt2_parts(theirs.merge_and_unload()).params
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found.merged(net.params), wanted
    )

    save_adapter(tmp_path / "same", found, net)
    assert json.loads((tmp_path / "same/adapter_config.json").read_text())["r"] == 2
    stored = tree.map_leaves(
        lambda path, x: x + 0.1 * (len(path) + ord(path[0]) % 7), found.stored
    )  # the parts no longer share A
    parted = replace(found, stored=stored)
    save_adapter(tmp_path / "ours", parted, net)
    assert json.loads((tmp_path / "ours/adapter_config.json").read_text())["r"] == 6
    there = loaded_by_peft(gpt2(), tmp_path / "ours")
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
        gpt2_parts(there.merge_and_unload()).params,
        parted.merged(net.params),
    )
