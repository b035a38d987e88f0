"""The transfer pages on a task small enough to check: what is drawn, tuned, kept and shown."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.transfer import lora_rank, strategies
from experiments.transfer.features import with_features
from experiments.transfer.kept import kept_error
from experiments.transfer.task import Task, few, held_out
from experiments.transfer.tuning import Way, head_tuner, tuner
from wlab import transfer, tree

CLASSES, WIDTH = 4, 6


pytestmark = pytest.mark.usefixtures("standard_promotion")


def toy(examples: int = 400, seed: int = 0) -> Task:
    """Points around one centre a class, behind two layers of a body."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((CLASSES, WIDTH))

    def drawn(count):
        label = rng.integers(0, CLASSES, count).astype(np.int32)
        return {"x": (centres[label] + rng.standard_normal((count, WIDTH))).astype(np.float32)} | {
            "label": label
        }

    def fresh(key):
        kernels = jax.random.normal(key, (2, WIDTH, WIDTH)) / np.sqrt(WIDTH)
        return {f"block_{i}": {"attn": {"q": {"kernel": k}}} for i, k in enumerate(kernels)}, ()

    def features(body, statistics, batch, train):
        del train
        x = batch["x"]
        for i in range(2):
            x = jnp.tanh(x @ body[f"block_{i}"]["attn"]["q"]["kernel"])
        return x, statistics

    return Task(
        name="toy",
        classes=CLASSES,
        width=WIDTH,
        train=drawn(examples),
        test=drawn(200),
        body=fresh(jax.random.key(1)),
        fresh=fresh,
        features=features,
        depths=[("head/.*", 0), ("body/block_1/.*", 1), ("body/block_0/.*", 2)],
    )


def test_few_takes_each_class_as_often_and_others_for_another_seed():
    task = toy()
    for labels in (4, 40):
        drawn = few(task, labels, 0)
        assert np.bincount(drawn["label"]).tolist() == [labels // CLASSES] * CLASSES
    assert not np.array_equal(few(task, 40, 0)["x"], few(task, 40, 1)["x"])
    np.testing.assert_array_equal(few(task, 4, 0)["x"], few(task, 40, 0)["x"][:4])
    assert len(few(task, 0, 0)["label"]) == 400


def test_what_is_held_out_is_not_learned_from_and_nothing_is_lost():
    task = toy()
    cut = held_out(task, 100)
    both = np.concatenate([cut.train["x"], cut.test["x"]])
    assert len(cut.test["x"]) == 100
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(task.train["x"], axis=0))


def test_a_tuned_network_learns_and_one_at_rate_zero_guesses():
    task = toy()
    tune = tuner(task, Way("everything"), steps=60, batch=16)
    assert tune(task.train, task.test, rate=3e-2, seed=0).right > 0.9
    guessed = tune(task.train, task.test, rate=0.0, seed=0)
    assert guessed.right == np.mean(task.test["label"] == 0)  # equal logits: the first class
    assert not np.any(guessed.params["head"]["kernel"])


def test_a_given_head_is_where_tuning_begins_and_the_body_of_others_is_not_touched():
    task = toy()
    before = jax.tree.map(np.asarray, task.body)
    head = {"kernel": np.ones((WIDTH, CLASSES), np.float32), "bias": np.ones(CLASSES, np.float32)}
    tune = tuner(task, Way("everything"), steps=2, batch=16)
    begun = tune(task.train, task.test, rate=0.0, seed=0, head=head)
    np.testing.assert_array_equal(begun.params["head"]["kernel"], head["kernel"])
    tune(task.train, task.test, rate=1e-1, seed=0)
    jax.tree.map(np.testing.assert_array_equal, before, task.body)


def test_the_gradual_way_moves_lower_layers_less():
    task = toy()
    tune = tuner(task, Way("gradual", gradual=True), steps=40, batch=16)
    tuned = tune(task.train, task.test, rate=1e-2, seed=0)
    moved = [
        np.abs(
            tuned.params["body"][b]["attn"]["q"]["kernel"] - task.body[0][b]["attn"]["q"]["kernel"]
        )
        for b in ("block_0", "block_1")
    ]
    assert 0 < moved[0].max() < moved[1].max()


def test_a_head_on_cached_features_is_a_head_behind_a_frozen_body(tmp_path):
    task = with_features(toy(), tmp_path)
    frozen = Way("frozen", weights=transfer.freeze([("body/.*", True), ("head/.*", False)]))
    whole = tuner(task, frozen, steps=50, batch=32)
    cached = head_tuner(task, steps=50, batch=32)
    found = [tune(task.train, task.test, rate=1e-2, seed=0) for tune in (whole, cached)]
    np.testing.assert_allclose(*(f.params["head"]["kernel"] for f in found), atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, found[0].params["body"], task.body[0])


def test_a_kept_error_is_not_measured_again(tmp_path):
    assert kept_error(tmp_path / "a.json", lambda: 0.75) == 25
    assert kept_error(tmp_path / "a.json", lambda: pytest.fail("measured")) == 25


@pytest.mark.long
def test_the_page_of_strategies_runs_resumes_and_shows_every_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(strategies, "letters", lambda: replace(toy(), name="letters"))
    monkeypatch.setattr(strategies, "LABELS", {"letters": (8, 0)})
    config = strategies.Config(tasks="letters", seeds=2, scratch_seeds=1, least=16, head_least=16)
    results = strategies.run(config, tmp_path)
    assert len(results["networks"]) == 2 * (4 * 2 + 1)
    trained = capsys.readouterr().out.count(": error ")
    assert trained == len(results["networks"])
    assert strategies.run(config, tmp_path) == results
    assert capsys.readouterr().out == ""
    shown = strategies.show(results)
    assert all(way in shown for way in strategies.RATES["letters"])
    assert "8 labels" in shown and "all labels" in shown


@pytest.mark.long
def test_the_page_of_ranks_runs_and_shows_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(lora_rank, "letters", toy)
    monkeypatch.setattr(lora_rank, "KERNELS", r"body/block_\d/attn/q/kernel")
    config = lora_rank.Config(ranks="1,2", labels=20, seeds=2, steps=4)
    shown = lora_rank.show(lora_rank.run(config, tmp_path))
    assert len(shown.splitlines()) == 2 + len(lora_rank.RATES)
    assert "rank 1" in shown and "±" in shown


def test_an_adapter_of_rank_zero_leaves_only_the_head_to_train():
    params = {"body": toy().body[0], "head": toy().head()}
    config = lora_rank.Config()
    for kind, trained in ((lora_rank.NONE, 28), (lora_rank.ALL, 28 + 72)):
        stored, _ = lora_rank.transform(config, kind, 0).init(params, jax.random.key(0))
        assert tree.count(stored) == trained
