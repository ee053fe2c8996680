"""Who may ask: bearer tokens for both protocols, and the certificate that TLS shows."""

import hashlib
import hmac
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from encas.errors import InvalidInput

TOKEN_VARIABLE = "ENCAS_TOKEN"
_LEAST = 16  # characters
_TOKEN = re.compile(r"[\x21-\x7e]+")
_BEARER = "bearer "


@dataclass(frozen=True)
class Tokens:
    """Tokens that open the server; none: it is open to everybody."""

    digests: tuple[bytes, ...] = field(default=(), repr=False)  # sha256

    @classmethod
    def of(cls, tokens: Iterable[str], place: str) -> "Tokens":
        """Take tokens.

        Raises:
            InvalidInput: One that could be guessed, or that no header can hold.
        """
        digests = []
        for token in tokens:
            if len(token) < _LEAST or not _TOKEN.fullmatch(token):
                raise InvalidInput(
                    f"{place}: a token of {len(token)} characters; it must have at least {_LEAST}, without "
                    "spaces, as 'openssl rand -hex 32' makes them"
                )
            digests.append(hashlib.sha256(token.encode()).digest())
        return cls(tuple(digests))

    @classmethod
    def read(cls, path: Path | None, environment: Mapping[str, str] = os.environ) -> "Tokens":
        """Read the tokens of a file, one a line, and those in `ENCAS_TOKEN`, parted by commas.

        Raises:
            InvalidInput: No such file, a file without a token, or as `of`.
        """
        found = cls()
        if path is not None:
            try:
                lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidInput(f"{path}: no file of tokens ({error})") from None
            found = cls.of((line for line in lines if line and not line.startswith("#")), str(path))
            if not found.digests:  # an empty file must not open the server to everybody
                raise InvalidInput(f"{path}: holds no token; write one on a line of its own")
        if TOKEN_VARIABLE in environment:
            listed = [part.strip() for part in environment[TOKEN_VARIABLE].split(",")]
            found = cls((*found.digests, *cls.of(listed, TOKEN_VARIABLE).digests))
        return found

    def allow(self, credentials: str | None) -> bool:
        """Whether a header `authorization` opens the server.

        Digests are compared, and all of them: the time tells nothing of any token.
        """
        if not self.digests:
            return True
        if credentials is None or credentials[: len(_BEARER)].lower() != _BEARER:
            return False
        digest = hashlib.sha256(credentials[len(_BEARER) :].strip().encode("utf-8", "replace")).digest()
        return sum([hmac.compare_digest(digest, known) for known in self.digests]) > 0


@dataclass(frozen=True)
class Certificate:
    """Files in PEM form."""

    chain: Path
    key: Path

    def check(self) -> None:
        """Load them once, before anything is opened.

        Raises:
            InvalidInput: They are no certificate and its key.
        """
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.chain, self.key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl's own errors are OSErrors
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise InvalidInput(
                f"--tls-cert {self.chain}, --tls-key {self.key}: no certificate and its key, unencrypted, in "
                f"PEM form: {reason}"
            ) from None


def _no_password() -> str:
    """Answer instead of the terminal."""
    return ""
