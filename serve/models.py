"""The models of a server: which there are, and which of them can be asked."""

from collections.abc import Callable, Sequence

from fastapi import HTTPException

from encas.bundle import Bundle
from encas.errors import InvalidInput
from encas.serve.scheduler import Executor, Infer, one_by_one

Load = Callable[[Bundle], Executor]


class Models:
    """The bundles that are served, and how to ask each of them once it is loaded."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        """Know the bundles by name.

        Raises:
            InvalidInput: None, or two of one name.
        """
        if not bundles:
            raise InvalidInput("there is no bundle to serve; name at least one")
        self.bundles: dict[str, Bundle] = {}
        for bundle in bundles:
            if bundle.name in self.bundles:
                raise InvalidInput(
                    f"{bundle.path}: is named '{bundle.name}', as {self.bundles[bundle.name].path} is; "
                    "models of one server need different names"
                )
            self.bundles[bundle.name] = bundle
        self._infer: dict[str, Infer] = {}
        self.failure: str | None = None

    def load(self, load: Load) -> None:
        """Open every bundle for running, one after the other."""
        for name, bundle in self.bundles.items():
            self._infer[name] = one_by_one(load(bundle))

    @property
    def ready(self) -> bool:
        """Whether every model can be asked."""
        return len(self._infer) == len(self.bundles)

    def find(self, name: str, version: str | None) -> Bundle:
        """Look up a model (404 if unknown)."""
        bundle = self.bundles.get(name)
        if bundle is None:
            raise HTTPException(404, f"no model {name[:80]!r}; this server has {', '.join(self.bundles)}")
        if version not in (None, bundle.file.version):
            raise HTTPException(
                404, f"model '{name}' has no version {str(version)[:80]!r}; it has {bundle.file.version}"
            )
        return bundle

    def infer(self, name: str) -> Infer:
        """Return how to ask a known model (503 while it is loading)."""
        if name not in self._infer:
            raise self.not_ready(f"model '{name}'")
        return self._infer[name]

    def not_ready(self, what: str) -> HTTPException:
        """Say why something cannot be asked yet."""
        if self.failure is not None:
            return HTTPException(503, f"{what} could not be loaded: {self.failure}")
        return HTTPException(503, f"{what} is still loading; ask again", headers={"Retry-After": "1"})
