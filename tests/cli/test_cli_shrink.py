"""`wlab shrink`, from the outside: what is left computes what the network with zeros does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import run_json, said

from wlab import pretrained, tree
from wlab.checkpoint import open_source
from wlab.cli.main import main
from wlab.models import LlamaConfig, llama
from wlab.pretrained import NameMap, Network, Plan

CONFIG = LlamaConfig(layers=2, width=24, heads=6, kv_heads=3, ffn=20, vocab=17, context=8)
TOKENS = jax.random.randint(jax.random.key(0), (2, 8), 0, 17)
GONE = jnp.array([2, 5, 19])


@pytest.fixture
def folder(tmp_path):
    """A decoder, hidden units 2, 5 and 19 of each of whose blocks are zero throughout."""
    model = llama(CONFIG)
    params = model.init(jax.random.key(0))
    for i in range(CONFIG.layers):
        block = params[f"block_{i}"]
        for name, at in (
            ("gate", (slice(None), GONE)),
            ("up", (slice(None), GONE)),
            ("down", GONE),
        ):
            block[name]["kernel"] = block[name]["kernel"].at[at].set(0)
    pretrained.save_hub(tmp_path / "whole", Network(model, CONFIG, params, NameMap(()), Plan(())))
    return tmp_path / "whole"


def logits(network: Network) -> jax.Array:
    return network.model.apply(network.params, TOKENS)


@pytest.mark.parametrize("target", ["small.safetensors", "small"])
def test_what_is_zero_is_taken_out_and_nothing_changes(folder, target, tmp_path, capsys):
    result = run_json(capsys, "shrink", folder, tmp_path / target)
    kept = {row["group"]: row["kept"] for row in result["groups"] if row["units"] != row["kept"]}
    assert kept == {"block_0/gate/kernel:1": 17, "block_1/gate/kernel:1": 17}
    weights, _, nbytes = result["totals"]
    assert weights["before"] - weights["after"] == 2 * 3 * 3 * 24
    assert nbytes["after"] == 4 * weights["after"]
    assert result["apart"] < 1e-5
    read = pretrained.from_hub if target == "small" else pretrained.from_shrunk
    small = read(tmp_path / target)
    assert small.config.ffn == 17
    assert tree.count(small.params) == weights["after"]
    np.testing.assert_allclose(logits(small), logits(pretrained.from_hub(folder)), atol=1e-6)


def test_a_file_and_what_it_was_made_of_may_move_together(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    run_json(capsys, "shrink", ".", "../small.safetensors")
    run_json(capsys, "shrink", "../small.safetensors", "../less.safetensors", "--density", "0.5")
    (tmp_path / "elsewhere").mkdir()
    for name in ("whole", "small.safetensors", "less.safetensors"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path)
    less = pretrained.from_shrunk("elsewhere/less.safetensors")
    assert (less.config.ffn, less.config.heads, less.config.kv_heads) == (9, 2, 2)
    (tmp_path / "elsewhere/whole").rename(tmp_path / "whole")
    with pytest.raises(FileNotFoundError, match=r"was made of elsewhere/whole, which is not there"):
        pretrained.from_shrunk("elsewhere/less.safetensors")


@pytest.mark.slow
def test_the_smallest_go_within_a_budget_and_by_rule(folder, tmp_path, capsys):
    target = tmp_path / "small.safetensors"
    flags = ("--round-to", "4", "--rules", ".*gate.*=yes", ".*=no")
    for share, place in (("--weights", 0), ("--multiply-adds", 1)):
        planned = run_json(capsys, "shrink", folder, target, share, "0.8", *flags, "--dry-run")
        assert not target.exists()
        assert 0.7 < planned["totals"][place]["left"] <= 0.8
        gates = [row["kept"] for row in planned["groups"] if "gate" in row["group"]]
        assert gates[0] % 4 == 0 and gates[0] < 20
        others = [row for row in planned["groups"] if "gate" not in row["group"]]
        assert others and all(row["units"] == row["kept"] for row in others)
    halves = tmp_path / "halves.safetensors"
    run_json(capsys, "shrink", folder, halves, "--density", "0.6", *flags, "--dtype", "float16")
    run_json(capsys, "shrink", folder, target, "--density", "0.6", *flags)
    theirs, ours = pretrained.from_hub(folder).params, pretrained.from_shrunk(target).params
    kernels = [theirs["block_1"][name]["kernel"] for name in ("gate", "up", "down")]
    norms = sum(np.square(x if i == 2 else x.T).sum(1) for i, x in enumerate(kernels))
    best = np.sort(np.argsort(-norms)[:12])
    np.testing.assert_array_equal(ours["block_1"]["up"]["kernel"], kernels[1][:, best])
    rounded = pretrained.from_shrunk(halves)
    assert rounded.params["embed"]["embedding"].dtype == jnp.float16
    np.testing.assert_allclose(logits(rounded), logits(pretrained.from_shrunk(target)), atol=0.01)


def test_refusals_name_what_to_do(folder, tmp_path, capsys):
    target = tmp_path / "small.safetensors"
    for flags, why in (
        ([str(target), "--rules", ".*=yes"], "--rules go with --density"),
        ([str(tmp_path / "x.npz")], "must end in .safetensors or .gguf, or be a folder"),
        ([str(target), "--density", "0.5", "--weights", "0.5"], "not allowed with"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["shrink", str(folder), *flags])
        assert why in capsys.readouterr().err
    arrays = folder / "model.safetensors"
    assert "what runs them is not known" in said(capsys, "shrink", arrays, target)
    assert "no tokenizer" in said(capsys, "shrink", folder, tmp_path / "x.gguf")
    assert "the least network costs" in said(capsys, "shrink", folder, target, "--weights", "0.1")
    rules = ("--density", "0.5", "--rules", "block_9.*=no")
    assert "block_9" in said(capsys, "shrink", folder, target, *rules)
    assert not target.exists() and not (tmp_path / "x.gguf").exists()
    run_json(capsys, "shrink", folder, target)
    assert "--force replaces it" in said(capsys, "shrink", folder, target)
    again = said(capsys, "shrink", target, tmp_path / "again.safetensors")
    assert "has a weight that is not zero" in again and "--multiply-adds" in again


@pytest.mark.slow
def test_a_real_network_loses_half_of_its_multiply_adds_and_is_judged(cached, tmp_path, capsys):
    cached("weights/resnet56-cifar10", "cifar10")
    target = tmp_path / "half.safetensors"
    result = run_json(
        capsys, "shrink", "resnet56-cifar10", target, "--multiply-adds", "0.5", "--round-to", "8"
    )
    assert 0.35 < result["totals"][1]["left"] <= 0.5
    assert result["apart"] < 1e-5
    found = run_json(capsys, "evaluate", target, "cifar10", "--images", "100")
    assert found["images"] == 100
    rounded = tmp_path / "rounded.safetensors"
    run_json(capsys, "quantize", target, rounded, "--format", "int8")
    assert rounded.stat().st_size < 0.35 * target.stat().st_size
    again = run_json(capsys, "evaluate", rounded, "cifar10", "--images", "100")
    assert abs(again["accuracy"] - found["accuracy"]) < 0.05
    text = open_source(target).metadata["shrunk"]
    assert '"network": "resnet56-cifar10"' in text


@pytest.mark.slow
def test_stories_become_a_smaller_gguf_file_that_tells_the_same_story(cached, tmp_path, capsys):
    cached("weights/stories15m")
    flags = ("--density", "0.75", "--rules", ".*gate.*=yes", ".*=no")
    told = []
    for name in ("s.gguf", "s.safetensors"):
        run_json(capsys, "shrink", "stories15m", tmp_path / name, *flags)
        told.append(run_json(capsys, "generate", tmp_path / name, "Once", "--steps", "8")["texts"])
    assert told[0] == told[1]
    assert pretrained.from_gguf(tmp_path / "s.gguf").config.ffn == 576
