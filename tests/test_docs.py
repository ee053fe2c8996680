"""Every command in README and docs is run, on what the demo made; those that need other data are parsed."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer

from encas.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BIN = Path(sys.executable).parent


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text()) if found == language]


def console_lines(page: Path) -> list[str]:
    """Commands of ```console blocks, `$ ` removed, continued lines joined."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def shown_commands(page: Path) -> list[str]:
    """Lines of ```bash blocks that call encas on data that a test cannot have."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.startswith("encas ")]


def parse(words: list[str]) -> None:
    """Parse a command line down to the last subcommand without running it."""
    command, context = typer.main.get_command(app), None
    while True:
        context = command.make_context(words[0], list(words[1:]), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        name, command, args = command.resolve_command(context, rest)
        assert command is not None, f"no such command: {name}"
        words = [str(name), *args]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_parses(page: Path) -> None:
    for line in [*shown_commands(page), *(c for c in console_lines(page) if c.startswith("encas "))]:
        parse(shlex.split(line))


def test_a_wrong_command_does_not_parse() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(shlex.split("encas search --pool pool --budget 3"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `encas demo` has run; ENCAS_TEST_DEMO may name one."""
    if made := os.environ.get("ENCAS_TEST_DEMO"):
        return Path(made)
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run([BIN / "encas", "demo"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def fill(folder: Path, demo: Path) -> Path:
    shutil.copytree(demo / "encas-demo", folder / "encas-demo")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


@pytest.fixture
def sandbox(demo: Path, tmp_path: Path) -> Path:
    return fill(tmp_path, demo)


@dataclass(frozen=True)
class Reader:
    """Somebody who reads page after page, and does not type a line again that has worked before."""

    folder: Path
    typed: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def reader(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(fill(tmp_path_factory.mktemp("reader"), demo))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def servers() -> Iterator[list[subprocess.Popen[str]]]:
    """Servers that a page has started; they stop with the test."""
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.terminate()
        assert process.wait(30) == 0


def start_server(command: list[str], folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    deadline_s = time.monotonic() + 60
    while "serving" not in process.stdout.readline():
        assert process.poll() is None and time.monotonic() < deadline_s, "the server did not start"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if console_lines(p)], ids=lambda page: page.name)
def test_every_command_of_the_page_runs(
    page: Path, reader: Reader, servers: list[subprocess.Popen[str]]
) -> None:
    port = free_port()
    for line in console_lines(page):
        if line.startswith("make ") or line in reader.typed:  # CI itself runs make
            continue
        words = shlex.split(line.replace("localhost:8000", f"localhost:{port}"))
        if words[0] == "encas":
            words[0] = str(BIN / "encas")
        if words[1:2] == ["serve"]:
            servers.append(start_server([*words, "--port", str(port)], reader.folder))
            continue
        done = subprocess.run(words, cwd=reader.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if words[0] != "curl":  # of a server that has ended
            reader.typed.add(line)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.name)
def test_the_python_of_the_page_runs(page: Path, sandbox: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=sandbox, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
