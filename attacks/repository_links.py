"""Links in the repository that lead out of it, files that are none, bundles that change while they load."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from target import Target, refused, run

from encas.bundle import BundleFile
from encas.files import read_model, write_model


def attempt(target: Target) -> None:
    """Put them into the repository, and load; nothing from outside may ever be served."""
    assert target.repository, "name the server's repository with --repository"
    repository, kept = target.repository, set(target.repository.iterdir())
    source = next(path.parent for path in repository.glob("*/bundle.json"))
    with tempfile.TemporaryDirectory() as folder:
        outside = Path(folder) / "outside"
        shutil.copytree(source, outside)
        try:
            links(target, repository, outside)
            races(target, repository, source, outside)
        finally:
            for path in set(repository.iterdir()) - kept:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def links(target: Target, repository: Path, outside: Path) -> None:
    """Lead out of the repository in every way that files can."""
    file = read_model(outside / "bundle.json", BundleFile)
    write_model(outside / "bundle.json", file.model_copy(update={"name": "outside"}).sealed())
    (repository / "link").symlink_to(outside)
    for name, make in (
        ("file", lambda path: path.symlink_to(outside / "bundle.json")),
        ("device", lambda path: path.symlink_to("/dev/zero")),
        ("pipe", os.mkfifo),
        ("loop", lambda path: path.symlink_to(path)),
        ("folder", lambda path: path.mkdir()),
    ):
        (repository / name).mkdir()
        make(repository / name / "bundle.json")
    index = target.ask("POST", "/v2/repository/index", b"{}")
    assert index.status == 200 and b"outside" not in index.body, index.body
    refused(target.ask("POST", "/v2/repository/models/outside/load"), "a bundle outside")
    shutil.copytree(outside, repository / "inside")
    member = next((repository / "inside").glob("members/*.onnx"))
    member.unlink()
    member.symlink_to(outside / "members" / member.name)
    refused(target.ask("POST", "/v2/repository/models/outside/load"), "a network outside")


def races(target: Target, repository: Path, source: Path, outside: Path) -> None:
    """Exchange a bundle again and again for a link while the server loads it."""
    inside, link = repository / ".racing", repository / "racing"
    shutil.copytree(source, inside)
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            for goal in (outside, inside):
                new = repository / ".new"
                with contextlib.suppress(OSError):
                    new.symlink_to(goal)
                    new.replace(link)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:
            answer = target.ask("POST", "/v2/repository/models/outside/load")
            assert answer.status != 200, "a bundle outside was loaded"
            target.ask("POST", f"/v2/repository/models/{target.model}/load")
            listed = target.ask("GET", "/v2/models").body
            assert b"outside" not in listed, listed
    finally:
        stop.set()
        thread.join()
        link.unlink(missing_ok=True)
    answer = target.ask("POST", f"/v2/repository/models/{target.model}/load")
    assert answer.status == 200, answer.body


if __name__ == "__main__":
    run(attempt)
