"""The benches measure what they say: fair pairs, honest opponents, bytes as compiled."""

import gc
import json
import time

import jax
import numpy as np
import pytest

import wlab
from experiments.bench import loading, memory, run, selection, shrinking, steps, traffic
from experiments.bench.bench import Bench, counted, timed
from experiments.bench.pair import summary, time_pairs
from experiments.bench.task import Task
from wlab import pruning, tree
from wlab.models.resnet import cifar

TASK = Task((24, 16), batch=8)
DEEP = Task((24, 16, 16, 16), batch=8)
FIELDS = {
    *("name", "ratio", "low", "high", "median_s", "baseline_s", "iqr", "pairs", "bar"),
    *("versions", "machine"),
}


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax 0.2.8 raises a float to an int32 count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def pause(seconds):
    return lambda: time.sleep(seconds)


def test_equal_work_has_a_ratio_near_one_and_double_work_near_two():
    equal = time_pairs(pause(0.004), pause(0.004), pairs=15)
    double = time_pairs(pause(0.008), pause(0.004), pairs=15)
    assert 0.6 < equal.ratio < 1.6
    assert 1.3 < double.ratio < 3
    assert double.low <= double.ratio <= double.high
    assert double.median_s > 0.008
    assert double.baseline_s > 0.004


def test_a_pair_runs_both_in_random_order_without_garbage_collection():
    calls, collecting = [], []

    def thunk(name):
        def run():
            calls.append(name)
            collecting.append(gc.isenabled())

        return run

    timing = time_pairs(thunk("a"), thunk("b"), pairs=40, warm_up=2)
    timed_pairs = {tuple(calls[i : i + 2]) for i in range(4, len(calls), 2)}
    assert timing.pairs == 40
    assert len(calls) == 2 * 42
    assert timed_pairs == {("a", "b"), ("b", "a")}
    assert collecting == [True] * 4 + [False] * 80
    assert gc.isenabled()


def test_the_summary_is_of_the_ratios_within_pairs():
    baseline = np.array([1.0, 10.0, 100.0, 1000.0, 3.0])  # a machine that slows down
    steady = summary(np.stack([2 * baseline, baseline], axis=1))
    assert (steady.ratio, steady.low, steady.high, steady.iqr) == (2, 2, 2, 0)
    assert (steady.median_s, steady.baseline_s) == (20, 10)
    spread = summary(np.stack([np.arange(1.0, 6), np.ones(5)], axis=1))
    assert (spread.ratio, spread.iqr) == (3, 2)
    assert 1 <= spread.low < 3 < spread.high <= 5


def test_the_interval_holds_the_true_median_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        seconds = np.stack([np.exp(rng.normal(0, 0.3, 60)), np.ones(60)], axis=1)
        timing = summary(seconds)
        held += timing.low <= 1 <= timing.high
    assert held >= 88  # 95 expected; 88 is 3 standard deviations below


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="at least 1 pair"):
        time_pairs(pause(0), pause(0), pairs=0)


def test_a_record_is_written_with_its_bar_and_its_circumstances(tmp_path):
    bench = Bench("nap", "a nap", 1e-9, timed(lambda: (pause(0.001), pause(0.001)), at_most=3))
    run.save(run.record(bench, 50), tmp_path / "bench")
    assert [path.name for path in (tmp_path / "bench").iterdir()] == ["nap.json"]
    found = json.loads((tmp_path / "bench/nap.json").read_text())
    assert found.keys() >= FIELDS
    assert (found["name"], found["pairs"], found["bar"]) == ("nap", 3, 1e-9)
    assert found["under_bar"] is False
    assert found["versions"]["jax"] == jax.__version__
    assert found["machine"]["cores"] >= 1


def test_the_command_runs_the_named_benches_and_prints_one_table(tmp_path, monkeypatch, capsys):
    rows = [
        Bench("half", "a bound", 1.0, lambda pairs: counted(1, 2)),
        Bench("twice", "a bound", 1.0, lambda pairs: counted(4, 2)),
        Bench("free", "a bound", None, lambda pairs: counted(pairs, 2)),
    ]
    monkeypatch.setattr(run, "all_benches", lambda: rows)
    monkeypatch.chdir(tmp_path)
    run.main(["half", "tw"])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["half", "twice"]
    assert [line.split()[-4] for line in out.splitlines()[2:]] == ["yes", "no"]
    run.main(["free", "--pairs", "7", "--json"])
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["ratio"], record["bar"], record["under_bar"]) == (3.5, None, None)
    written = {path.name for path in (tmp_path / "runs/bench").iterdir()}
    assert written == {"half.json", "twice.json", "free.json"}


@pytest.mark.parametrize("arguments", [["unheard-of"], ["--pairs", "0"]])
def test_the_command_refuses_what_it_does_not_know(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(arguments)
    assert stop.value.code == 2
    assert "identity" in capsys.readouterr().err or "--pairs" in arguments


@pytest.mark.parametrize("rules", [shrinking.WITHIN, None])
def test_the_smaller_network_answers_as_the_whole_one_does_of_its_masked_self(rules):
    less, whole = shrinking.pair(cifar(8), 4, rules)
    assert less().shape == whole().shape == (4, 10)
    assert np.isfinite(less()).all() and np.abs(less() - whole()).max() > 1e-3


def test_every_bench_has_a_name_of_its_own():
    names = [bench.name for bench in run.all_benches()]
    assert len(set(names)) == len(names)


def after_three_steps(thunk):
    thunk()
    thunk()
    return thunk()


def assert_same_weights(ours, theirs):
    ours, theirs = tree.leaves(ours), tree.leaves(theirs)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-5, atol=1e-6, err_msg=path)


def test_the_plain_step_gives_the_weights_of_the_library():
    ours = after_three_steps(steps.library(TASK, wlab.identity()))
    params, opt = after_three_steps(steps.plain(TASK))
    assert_same_weights(ours.stored, params)
    assert_same_weights(ours.opt[0].nu, opt[0].nu)
    assert_not_where_they_began(params, TASK)


def assert_not_where_they_began(params, task):
    before = tree.leaves(task.params())
    assert all(np.any(leaf != before[path]) for path, leaf in tree.leaves(params).items())


@pytest.mark.parametrize(
    ("task", "weights", "by_hand"),
    [
        (TASK, steps.magnitude, steps.pruned),
        (DEEP, steps.compression, steps.compressed),
    ],
    ids=["pruning", "compression"],
)
def test_the_steps_by_hand_give_the_weights_and_masks_of_the_library(task, weights, by_hand):
    ours = after_three_steps(steps.library(task, weights()))
    theirs = after_three_steps(by_hand(task))
    assert_same_weights(ours.stored, theirs.params)
    assert_same_weights(ours.opt[0].mu, theirs.opt[0].mu)
    assert_same_weights(ours.opt[0].nu, theirs.opt[0].nu)
    masks = {path.split("/")[-2]: leaf for path, leaf in tree.leaves(ours.weights).items()}
    assert masks.keys() == theirs.masks.keys()
    for layer, packed in masks.items():
        np.testing.assert_array_equal(packed, theirs.masks[layer])
    kept = {layer: tree.nonzero(leaf)["kernel"] for layer, leaf in theirs.params.items()}
    assert kept == {layer: n for layer, n in steps.to_keep(task).items() if layer in kept}
    assert_not_where_they_began(theirs.params, task)


def test_the_step_held_at_the_update_chooses_masks_and_the_other_does_not():
    due, idle = steps.due_and_idle(TASK)
    weights = TASK.kernels()["fc1"]
    for _ in range(2):
        assert tree.nonzero(due().stored)["fc1/kernel"] == pruning.kept(weights, steps.DENSITY)
        assert tree.nonzero(idle().stored)["fc1/kernel"] == weights


def test_a_bench_on_steps_times_them():
    identity, *_ = steps.benches(TASK, DEEP)
    found = identity.measure(2)
    assert (identity.name, found["pairs"]) == ("identity", 2)
    assert min(found["median_s"], found["baseline_s"]) > 0


@pytest.mark.parametrize("name", selection.SELECT)
def test_selections_and_numpy_agree_on_the_threshold(name):
    ours, numpys = selection.against_numpy(selection.SELECT[name], 64)
    k = pruning.kept(64 * 64, selection.DENSITY)
    found, partitioned = np.asarray(ours()), numpys()
    threshold = partitioned[64 * 64 - k]
    assert np.sum(partitioned >= threshold) == k
    if name.startswith("mask"):
        assert found.shape == (64, 64)
        assert found.sum() == k
    else:
        assert found == threshold


def test_the_search_and_the_sort_find_the_same_threshold():
    search, sort = selection.against_sort(64)
    assert search() == sort()


def test_groups_by_counting_and_by_sorting_are_the_same():
    count, sort = selection.groups_of_four(64)
    np.testing.assert_array_equal(count(), sort())


def test_masks_as_bits_take_an_eighth_of_a_byte_a_weight():
    bits, int8 = memory.benches(steps.network())
    assert bits.measure(1)["ratio"] == 1 / 8
    assert int8.measure(1)["ratio"] == 1


HLO = """\
%body (p: (s32[])) -> (s32[]) {
  %g = s32[1,4]{1,0} all-gather(%x), channel_id=1, dimensions={0}
}

%cond (p: (s32[])) -> pred[] {
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}

%branch (p: (s32[])) -> (s32[]) {
  %w = (s32[]) while(%t), condition=%cond, body=%body, config={"known_trip_count":{"n":"15"}}
  %g.1 = (bf16[2]{0}, bf16[16]{0}) all-gather-start(%y), dimensions={0}
  %g.2 = bf16[16]{0} all-gather-done(%g.1)
}

ENTRY %main (p: s32[]) -> s32[] {
  %c = (s32[]) conditional(%i, %t, %t), branch_computations={%branch, %other}
  %r = s32[4096]{0} all-reduce(%z), to_apply=%add
  %m = pred[8]{0} all-gather(%q), dimensions={0}
}
"""


def test_gathers_are_counted_as_often_as_their_loops_run():
    assert sorted(traffic.gathered(HLO)) == [(8, 1), (16, 15), (32, 1)]


def test_a_gather_in_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="'body' gathers in a loop"):
        list(traffic.gathered(HLO.replace("known", "other")))


def test_the_bytes_gathered_by_a_mask_update_are_read_in_a_fresh_process():
    both, _ = traffic.benches(side=64)
    found = both.measure(1)
    assert found["operations"] > 0
    assert found["bytes"] > found["operations"] * found["largest"], "loops were counted once"
    assert found["ratio"] == found["bytes"] / (4 * (64 + 64))


def test_loading_fills_the_tree_that_the_file_holds_and_counts_its_memory():
    path = loading.tree_file(side=256, count=4)
    found = loading.filled(path)
    assert tree.paths(found) == [f"block_{i}/kernel" for i in range(4)]
    assert tree.nbytes(found) == 4 * 256 * 256 * 4
    assert loading.through_one_buffer(path) is None
    memory_used = loading.peak_memory(path)
    assert memory_used["tree"] == tree.nbytes(found)
    assert memory_used["peak"] - memory_used["before"] > memory_used["tree"] / 2
