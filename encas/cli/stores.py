"""Folders in object stores as arguments of any command: `encas pool record s3://bucket/pool ...`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

_SIGN = "://"


@contextmanager
def copied(args: Sequence[str]) -> Iterator[list[str]]:
    """Yield the arguments with a copy's path for each URL; what changes in the copies is brought back."""
    if not any(_SIGN in arg for arg in args):  # nothing needs to be imported
        yield list(args)
        return
    from encas.storage import Copy, cache_folder, is_url, kept

    with ExitStack() as stack:
        paths: dict[str, str] = {}
        for arg in args:
            url = _value(arg)
            if is_url(url) and url not in paths:
                paths[url] = str(stack.enter_context(kept(Copy.of(url, cache_folder()))))
        names = {path: url.rstrip("/") for url, path in paths.items()}
        if names:
            stack.enter_context(redirect_stdout(_Renamed(sys.stdout, names)))
            stack.enter_context(redirect_stderr(_Renamed(sys.stderr, names)))
        yield [arg.removesuffix(url) + paths.get(url, url) for arg in args for url in [_value(arg)]]


def _value(arg: str) -> str:
    """What an argument says, without the name of its option."""
    return arg.partition("=")[2] if arg.startswith("--") and "=" in arg else arg


class _Renamed:
    """A stream on which copies have the names that their user knows."""

    def __init__(self, stream: TextIO, names: Mapping[str, str]) -> None:
        self._stream, self._names = stream, names

    def write(self, text: str) -> int:
        for path, name in self._names.items():
            text = text.replace(path, name)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
