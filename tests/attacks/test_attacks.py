"""Every attempt beside `attacks/target.py` is made against a real server, which must hold in silence."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.conftest import Served

    StartServer = Callable[..., AbstractContextManager[Served]]

ATTACKS = Path(__file__).parents[2] / "attacks"
ATTEMPTS = sorted(path.stem for path in ATTACKS.glob("*.py") if path.stem != "target")
TOKEN = "an-open-sesame-of-32-characters!"
# Those for which a server must have a token, or must have none: most say nothing of tokens.
WITH_TOKEN = {"tokens", "grpc_messages", "lengths"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repository(_bundle_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked") / "repository"
    shutil.copytree(_bundle_once, folder / "first")
    return folder


@pytest.fixture(scope="module")
def open_server(repository: Path, start_server: "StartServer") -> Iterator["Served"]:
    options = ("--provider", "cpu", "--grpc-port", "0", "--request-timeout-s", "8")
    with start_server("--repository", repository, *options) as server:
        yield server


@pytest.fixture(scope="module")
def closed_server(
    _bundle_once: Path, tmp_path_factory: pytest.TempPathFactory, start_server: "StartServer"
) -> Iterator["Served"]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"# of the tests\n{TOKEN}\n")
    options = ("--provider", "cpu", "--grpc-port", "0", "--request-timeout-s", "8", "--token-file", tokens)
    with start_server(_bundle_once, *options) as server:
        yield server


def attack(name: str, server: "Served", *more: str | Path) -> str:
    assert server.grpc is not None
    # How much memory a process keeps is no matter for a test of a minute: `attacks/flood.py --pid` looks.
    pid = [] if name == "flood" else ["--pid", str(server.process.pid)]
    options = ["--grpc", server.grpc, *pid, *map(str, more)]
    done = subprocess.run(
        [sys.executable, ATTACKS / f"{name}.py", server.url, *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [name for name in ATTEMPTS if name != "tokens"])
def test_the_server_holds_and_others_are_served_meanwhile(
    name: str, open_server: "Served", repository: Path
) -> None:
    said = attack(name, open_server, "--repository", repository)
    assert "held" in said
    assert open_server.process.poll() is None


@pytest.mark.parametrize("name", sorted(WITH_TOKEN))
def test_a_server_with_a_token_holds_too(name: str, closed_server: "Served") -> None:
    assert "held" in attack(name, closed_server, "--token", TOKEN)


def test_an_attempt_against_a_server_that_falls_says_so(served: "Served") -> None:
    done = subprocess.run(
        [sys.executable, ATTACKS / "tokens.py", served.url, "--token", TOKEN],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("FELL: ")
