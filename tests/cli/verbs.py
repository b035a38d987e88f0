"""Runs a verb of the command line and gives what it says."""

import json
from typing import Any

from wlab.cli.main import main


def run_json(capsys: Any, *argv: object) -> dict[str, Any]:
    """What a verb that succeeds has found."""
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def said(capsys: Any, *argv: object) -> str:
    """The complaint of a verb that fails."""
    assert main([*map(str, argv)]) == 1
    return capsys.readouterr().err
