"""Folders in object stores: worked on in a copy here, which is brought back now and then and at the end.

A copy lies in the cache under the same names as in the store, so that paths from one folder to another stay
right. What has not changed is not copied again. Files that describe others (`.json`) are written last: who
reads the store meanwhile finds what they name.
"""

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encas.errors import InvalidInput, require
from encas.files import replaced, write_bytes

_URL = re.compile(r"(?P<scheme>(?!(?:https?|grpcs?|ray|tcp):)[a-z][a-z0-9+.-]+)://(?P<rest>.+)")
_TEMPORARY = re.compile(r"\..*\.\d+\.(tmp|old)")
_MARKS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "created")  # of a file's version
_LONGEST = 200  # of what is said of a store's errors
State = dict[str, list[Any]]  # by name: the version in the store, and size and time of the copy


def is_url(text: str) -> bool:
    """Whether a text names something in an object store, as s3://bucket/pool."""
    return _URL.fullmatch(text) is not None


def cache_folder() -> Path:
    """Where copies lie: `ENCAS_CACHE`, else a folder of the user's own cache."""
    told = os.environ.get("ENCAS_CACHE")
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(told).absolute() if told else own / "encas"


@dataclass(frozen=True)
class Copy:
    """A folder of a store, or a file, and its copy here."""

    url: str
    path: Path
    system: Any  # of fsspec
    root: str  # what the system calls it
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, url: str, cache: Path) -> "Copy":
        """Find the store of a URL.

        Raises:
            MissingPackage: fsspec is not installed.
            InvalidInput: No store is known by this name, or its package is missing.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise InvalidInput(f"{url}: must be as s3://bucket/folder")
        fsspec = require("fsspec", "store")
        options = (
            {"auto_mkdir": True} if match["scheme"] in ("file", "local") else {}
        )  # others have no folders
        with _told(url):
            system, root = fsspec.core.url_to_fs(url, **options)
        path = cache / match["scheme"] / match["rest"].strip("/")
        return cls(url.rstrip("/"), path, system, root.rstrip("/"))

    def pull(self) -> None:
        """Fetch what is new in the store; what has gone from there goes here too.

        What was changed here alone, and not brought back, stays.

        Raises:
            InvalidInput: The store does not answer, or does not let us read.
        """
        state = self._state()
        with _told(self.url):
            self.system.invalidate_cache()
            found = self.system.find(self.root, detail=True)
            there = {name.removeprefix(self.root).lstrip("/"): info for name, info in found.items()}
            for name, info in there.items():
                self._check_inside(name)
                file, version = self._here(name), _version(info)
                if file.is_file() and name in state and state[name][0] == version:
                    continue
                with replaced(file) as temporary:
                    self.system.get_file(info["name"], str(temporary))
                state[name] = [version, *_stamp(file)]
        for name in [name for name in state if name not in there]:
            self._here(name).unlink(missing_ok=True)
            del state[name]
        self._keep(state)

    def push(self) -> int:
        """Write to the store what has changed here, and return how many files that were.

        Raises:
            InvalidInput: The store does not answer or let us write, or somebody else has written there.
        """
        with self._lock:
            state = self._state()
            stamps = {name: _stamp(self._here(name)) for name in self._names()}
            changed = [name for name, stamp in stamps.items() if state.get(name, [None])[1:] != stamp]
            told = {name: self._here(name).read_bytes() for name in changed if name.endswith(".json")}
            with _told(self.url):
                for name in changed:
                    if name not in told:
                        self.system.put_file(str(self._here(name)), self._there(name))
                for name, content in told.items():
                    self._check_ours(name, state)
                    self.system.pipe_file(self._there(name), content)
                self.system.invalidate_cache()
                for name in changed:
                    state[name] = [_version(self.system.info(self._there(name))), *stamps[name]]
            if changed:
                self._keep(state)
            return len(changed)

    def _check_ours(self, name: str, state: State) -> None:
        """See to it that nobody has written a description since we read it."""
        self.system.invalidate_cache()
        try:
            version = _version(self.system.info(self._there(name)))
        except FileNotFoundError:
            return
        if version != state.get(name, [None])[0]:
            raise InvalidInput(
                f"{self.url}/{name}: was written by somebody else meanwhile; the same command fetches that "
                "and goes on"
            )

    def _check_inside(self, name: str) -> None:
        """Refuse names that would be written outside the copy: a store takes any."""
        if ".." in name.split("/"):
            raise InvalidInput(
                f"{self.url}/{name}: is a name that no folder can have; remove it from the store"
            )

    def _here(self, name: str) -> Path:
        return self.path / name if name else self.path

    def _there(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _names(self) -> list[str]:
        """Files of the copy that are whole."""
        if self.path.is_file():
            return [""]
        found = (path for path in self.path.rglob("*") if path.is_file())
        return sorted(
            path.relative_to(self.path).as_posix()
            for path in found
            if _TEMPORARY.fullmatch(path.name) is None and not path.name.endswith(".encas-store")
        )

    @property
    def _state_file(self) -> Path:
        return self.path.with_name(f".{self.path.name}.encas-store")

    def _state(self) -> State:
        try:
            found = json.loads(self._state_file.read_text())
        except (FileNotFoundError, ValueError):  # a new copy, or a damaged one: all is fetched again
            return {}
        return found if isinstance(found, dict) else {}

    def _keep(self, state: State) -> None:
        write_bytes(self._state_file, json.dumps(state).encode())


@contextmanager
def kept(copy: Copy, every_s: float = 60.0) -> Iterator[Path]:
    """Yield the copy's path; what changes there is brought back now and then, and at the end.

    Raises:
        InvalidInput: See `Copy.pull` and `Copy.push`; what was done stays in the copy, and is brought back by
            the next command that names the folder.
    """
    copy.pull()
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(every_s):
            try:
                copy.push()
            except InvalidInput:  # the last time it is said
                continue

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield copy.path
    finally:
        ended.set()
        thread.join()
        copy.push()


def _version(info: Mapping[str, Any]) -> str:
    marks = [str(info[mark]) for mark in _MARKS if mark in info]
    return " ".join([str(info.get("size")), *marks[:1]])


def _stamp(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Make one line of whatever a store's package raises."""
    try:
        yield
    except InvalidInput:
        raise
    except Exception as error:  # each store has errors of its own
        text = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(f"{url}: {text[:_LONGEST]}") from error
