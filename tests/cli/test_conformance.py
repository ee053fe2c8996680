import json
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from encas.cli import app

if TYPE_CHECKING:
    from tests.conftest import Served


def test_it_prints_a_table_or_json_and_ends_with_code_0(served: "Served") -> None:
    done = CliRunner().invoke(app, ["conformance", served.url])
    assert done.exit_code == 0
    assert "0 of 27 sentences are not kept" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    done = CliRunner().invoke(app, ["conformance", served.url, "--model", "digits", "--json"])
    assert done.exit_code == 0
    said = json.loads(done.stdout)
    assert (said["kept"], said["broken"]) == (27, 0)


def test_an_unknown_model_is_told_in_one_line(served: "Served") -> None:
    done = CliRunner().invoke(app, ["conformance", served.url, "--model", "letters"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "has no model 'letters' (status 404)" in done.stderr
