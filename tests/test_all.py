"""What `make test-all` runs again after a change."""

from test_layout import FILES, ROOT, rooms_of

from tests.all import ELSEWHERE, reads, shards

LAWS, TREE = "contract laws", "tests/tree"


def test_a_shard_is_run_again_for_what_it_can_read():
    names = set(shards())
    product = {name for name in names if name.startswith(("contract", "product"))}
    assert len(product) == 26 and {LAWS, TREE, "tests/*.py"} < names

    def again(file: str) -> set[str]:
        return {name for name in names if reads(name, file)}

    assert again("README.md") == again("tests/passed/3.13.0.json") == set()
    assert again("wlab/tree/rules.py") == again("tests/conftest.py") == names
    assert again("tests/contract/laws.py") == product | {"tests/*.py"}
    assert again("tests/tree/test_rules.py") == {TREE, "tests/*.py"}
    assert again("tests/test_layout.py") == {"tests/*.py"}
    assert again("experiments/runner.py") == again("wlab/cli/main.py") == names - product


def test_the_contract_never_comes_to_the_rooms_that_it_does_not_read():
    sources = sorted((ROOT / "tests/contract").glob("*.py"))
    assert not [f for f in sources if "experiments" in f.read_text()]
    seen: set[str] = set()
    while sources:
        rooms = {room for f in sources for room in rooms_of(f.read_text())} - seen
        seen |= rooms
        sources = [f for f in FILES if f.relative_to(ROOT / "wlab").parts[0] in rooms]
    assert {"training", "pruning", "graph"} < seen and not seen & set(ELSEWHERE)
