"""Errors that a user can mend: one line with the place, what was found and what would be right."""

import importlib
from types import ModuleType
from typing import Any


class EncasError(Exception):
    """The base of everything that the command line prints as one line, without a traceback."""

    def __reduce__(self) -> Any:
        """Go to other processes with the message, whatever made it."""
        return _with_message, (type(self), str(self))


def _with_message(kind: type[EncasError], message: str) -> EncasError:
    return kind.__new__(kind, message)


class InvalidInput(EncasError):
    """A file, an image, an option or a request that is not what it should be."""


class TooLarge(InvalidInput):
    """Sound, but more than is taken: a body, an image, a batch."""


class MissingPackage(EncasError):
    """A package of an optional extra is needed and not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Raises:
        MissingPackage: With the install command as the remedy.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingPackage(
            f"{module} is not installed; it comes with the extra '{extra}': pip install 'encas[{extra}]'"
        ) from None
