"""`wlab embed`, `classify` and `generate` on real networks, where they have been fetched."""

import subprocess
import sys

import numpy as np
import pytest
from verbs import run_json, said

from wlab import data, pretrained, tree
from wlab.checkpoint import open_source
from wlab.cli.main import main


def test_sentences_that_mean_alike_have_a_high_cosine(cached, capsys):
    cached("weights/minilm")
    texts = ["A man is playing a guitar.", "Someone plays music.", "The stock market fell today."]
    found = run_json(capsys, "embed", "minilm", *texts)
    cosines = np.array(found["cosines"])
    assert cosines[0, 1] > 0.5 > 0.1 > cosines[0, 2]
    np.testing.assert_allclose(
        np.array(found["vectors"]) @ np.array(found["vectors"]).T, cosines, atol=1e-4
    )


@pytest.mark.long
def test_photographs_get_their_classes(cached, capsys, tmp_path):
    cached("weights/resnet56-cifar10", "cifar10")
    image = pytest.importorskip("PIL.Image", reason="Pillow is an extra")
    test = data.load("cifar10").test
    for i in range(8):
        image.fromarray(test["image"][i]).save(tmp_path / f"{i}.png")
    files = [str(tmp_path / f"{i}.png") for i in range(8)]
    rows = run_json(capsys, "classify", "resnet56-cifar10", *files, "--top", "1")
    names = pretrained.network("resnet56-cifar10").labels
    right = [row["class"] == names[test["label"][i]] for i, row in enumerate(rows)]
    assert sum(right) >= 7


def test_what_loading_took_is_told(cached, caplog, capsys):
    cached("weights/stories15m")
    with caplog.at_level("INFO", logger="wlab"):
        run_json(capsys, "generate", "stories15m", "Once", "--steps", "1")
    told = next(r.getMessage() for r in caplog.records if "loaded in" in r.getMessage())
    assert told.startswith("stories15m: 15,191,712 weights, 61 MB, loaded in ")
    peak = float(told.split(" s, ")[1].split()[0])
    assert 0 <= peak < 1000


LOAD = """
import argparse
import jax
from wlab.cli import memory
before = memory.resident()
from wlab import tree
from wlab.cli import shelf
network = shelf.network({name!r}, argparse.Namespace(file=None, cache=None))
print(memory.most_resident() - before, tree.nbytes((network.params, network.model_state)))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["stories15m", "vgg16-cifar10", "vgg16-lpips", "minilm", "resnet50-imagenet", "smollm2-135m"],
)
def test_loading_takes_little_more_memory_than_the_weights(cached, name):
    cached(f"weights/{name}")
    told = subprocess.run(
        [sys.executable, "-c", LOAD.format(name=name)], capture_output=True, text=True, check=True
    )
    peak, size = map(int, told.stdout.split())
    assert size > 50e6 and peak <= 1.2 * size + 64e6


@pytest.mark.long
@pytest.mark.parametrize(("name", "right"), [("resnet56-cifar10", 9320), ("vgg16-cifar10", 9225)])
def test_cifar10_is_named_as_often_as_published(cached, capsys, name, right):
    cached(f"weights/{name}", "cifar10")
    found = run_json(capsys, "evaluate", name, "cifar10")
    assert (found["right"], found["images"]) == (right, 10_000)


@pytest.mark.long
def test_a_few_photographs_of_the_dataset_are_enough_to_look_at(cached, capsys):
    cached("weights/resnet56-cifar10", "cifar10")
    found = run_json(capsys, "evaluate", "resnet56-cifar10", "cifar10", "--images", "6")
    assert found["images"] == 6 >= found["right"] >= 5
    assert main(["evaluate", "resnet56-cifar10", "mnist"]) == 1
    assert "images of shape (32, 32, 3), got (28, 28" in capsys.readouterr().err
    assert main(["evaluate", "resnet56-cifar10", "wikitext-2"]) == 1
    assert "no image dataset 'wikitext-2'" in capsys.readouterr().err


def test_a_network_without_eyes_or_words_is_named(cached, capsys, tmp_path):
    cached("weights/minilm", "weights/resnet56-cifar10")
    assert main(["classify", "minilm", str(tmp_path / "x.png")]) == 1
    assert "minilm reads no images" in capsys.readouterr().err
    assert main(["generate", "resnet56-cifar10", "hello"]) == 1
    assert "has no tokenizer" in capsys.readouterr().err


@pytest.mark.slow
def test_text_goes_on_and_tells_its_speed(cached, capsys):
    cached("weights/stories15m")
    command = ["generate", "stories15m", "Once upon a time", "--steps", "4", "--temperature", "0"]
    found = run_json(capsys, *command)
    assert found["texts"] == ["Once upon a time, there was a"]
    assert found["tokens"] == 4
    assert found["tokens_per_s"] > 1 / found["start_s"]
    found = run_json(capsys, *command[:3], "--steps", "2")  # both wait for a program
    assert found["tokens_per_s"] is None and found["start_s"] > 0
    assert main([*command[:3], "--steps", "2"]) == 0
    assert "(2 tokens; " in capsys.readouterr().out


def test_a_network_that_is_not_here_is_named_with_the_remedy(capsys, tmp_path):
    for verb, *rest in (
        ["generate", "hi"],
        ["quantize", tmp_path / "x.gguf", "--format", "ggml_q8_0"],
    ):
        told = said(capsys, verb, "stories-15m", *rest)
        assert "Nothing at stories-15m" in told and "mean stories15m?" in told
        told = said(capsys, verb, "owner/name", *rest)
        assert "mean" not in told and "hf download" in told
    with pytest.raises(FileNotFoundError, match=r"is no folder with .* `hf download"):
        pretrained.from_hub("owner/name")


def test_alexnets_filters_are_waves_in_all_directions_and_shuffled_ones_are_not(
    cached, capsys, tmp_path
):
    cached("weights/alexnet-lpips")
    image = pytest.importorskip("PIL.Image", reason="Pillow is an extra")
    picture = tmp_path / "filters.png"
    found = run_json(capsys, "filters", "alexnet-lpips", "--out", str(picture), "--zoom", "2")
    assert found["leaf"] == "conv_1/kernel"
    assert found["shape"] == [11, 11, 3, 64]
    assert found["waves"] >= 20 > 0 == found["control_waves"]
    assert sum(found["directions"]) == found["waves"] and min(found["directions"]) > 0
    with image.open(picture) as drawn:
        assert drawn.size == (8 * 24, 8 * 24)


def test_a_leaf_that_is_no_convolution_is_named_with_those_that_are(cached, capsys):
    cached("weights/alexnet-lpips")
    assert main(["filters", "alexnet-lpips", "--leaf", "conv_1/bias"]) == 1
    said = capsys.readouterr().err
    assert "conv_1/bias is no convolution" in said and "conv_2/kernel" in said


@pytest.mark.slow
def test_a_name_stands_for_its_files_wherever_a_file_may_stand(cached, capsys, tmp_path):
    cached("weights/stories15m", "weights/resnet56-cifar10")
    found = run_json(capsys, "convert", "resnet56-cifar10", tmp_path / "r.npz")
    theirs = open_source(data.cache_folder() / "weights/resnet56-cifar10/model.pth").arrays
    assert [row["array"] for row in found["arrays"]] == list(theirs)
    found = run_json(capsys, "inspect", "resnet56-cifar10", "--stats")
    assert [(row["path"], row["shape"]) for row in found["leaves"]] == [
        (name, list(array.shape)) for name, array in theirs.items()
    ]
    largest = next(row["absmax"] for row in found["leaves"] if row["path"] == "linear.weight")
    assert largest == pytest.approx(abs(theirs["linear.weight"].read()).max())
    run_json(capsys, "prune", "resnet56-cifar10", tmp_path / "p.npz", "--density", "0.2")
    found = run_json(capsys, "sparsity", "resnet56-cifar10", tmp_path / "p.npz")
    *_, whole = found["overlap"]
    assert whole["one"] > whole["other"] == whole["both"] == 170_304
    flags = ("--weights", "3,1", "--out", tmp_path / "m.npz")
    run_json(capsys, "merge", "linear", "resnet56-cifar10", tmp_path / "p.npz", *flags)
    merged, thinned = (open_source(tmp_path / f"{name}.npz").arrays for name in "mp")
    wanted = (3 * theirs["linear.weight"].read() + thinned["linear.weight"].read()) / 4
    np.testing.assert_allclose(merged["linear.weight"].read(), wanted, rtol=1e-6)
    planned = run_json(capsys, "plan", "stories15m", "--format", "int4")
    made = run_json(
        capsys,
        "quantize",
        "stories15m",
        tmp_path / "q.safetensors",
        "--format",
        "int4",
        "--dry-run",
    )
    assert [row["leaf"] for row in planned["leaves"]] == [row["leaf"] for row in made["leaves"]]
    assert planned["totals"][-1]["disk"] == made["totals"][-1]["disk"]
    assert "did you mean stories15m?" in said(capsys, "convert", "stories-15m", tmp_path / "x.npz")


@pytest.mark.slow
def test_weights_of_another_file_run_in_a_networks_place(cached, capsys, tmp_path):
    cached("weights/resnet56-cifar10", "cifar10")
    target, halves = tmp_path / "p.safetensors", ("--density", "0.5", "--allocation", "globally")
    run_json(capsys, "prune", "resnet56-cifar10", target, *halves, "--packed")
    flags = ("--images", "200", "--weights-file")
    found = run_json(capsys, "evaluate", "resnet56-cifar10", "cifar10", *flags, target)
    assert found["accuracy"] > 0.85
    rounded = tmp_path / "q.safetensors"
    run_json(capsys, "quantize", "resnet56-cifar10", rounded, "--format", "int2")
    found = run_json(capsys, "evaluate", "resnet56-cifar10", "cifar10", *flags, rounded)
    assert found["accuracy"] < 0.5
    flags = ("--tree", "--weights-file", target)
    *_, whole = run_json(capsys, "sparsity", "resnet56-cifar10", *flags)["leaves"]
    assert whole["multiply_adds"] == 125_747_840 > whole["multiply_adds_left"] > 50_000_000
    assert whole["outputs"] == 544_778
    cached("weights/vgg16-cifar10")
    wrong = said(capsys, "evaluate", "vgg16-cifar10", "cifar10", *flags[1:])
    assert "p.safetensors" in wrong


@pytest.mark.slow
def test_stories_without_names_of_their_own_take_those_of_the_target(cached, capsys, tmp_path):
    cached("weights/stories15m")
    ours = tree.leaves(pretrained.network("stories15m").params)
    for target, read in (("s.gguf", pretrained.from_gguf), ("s", pretrained.from_hub)):
        run_json(capsys, "convert", "stories15m", tmp_path / target)
        theirs = tree.leaves(read(tmp_path / target).params)
        assert theirs.keys() == ours.keys()
        for name, leaf in ours.items():
            assert np.array_equal(theirs[name], leaf), name
