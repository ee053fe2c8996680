"""The models of a server: which there are, in which versions, and which of them can be asked."""

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from encas.bundle import Bundle, BundleFile
from encas.errors import EncasError, InvalidInput
from encas.files import read_model
from encas.serve.answering import Answering
from encas.serve.refusals import NotReady, UnknownModel

_NO_REPOSITORY = "this server has no repository; start it with --repository FOLDER"
Start = Callable[[Bundle], Answering]  # opens a bundle for running


@dataclass(frozen=True)
class Model:
    """One version of a model."""

    bundle: Bundle
    engine: Answering | None = None  # None while it is loading
    failure: str | None = None


@dataclass(frozen=True)
class IndexEntry:
    """What the repository has of a model, as the extension `model_repository` tells it."""

    name: str
    version: str
    state: str  # READY, LOADING, UNAVAILABLE
    reason: str


class Models:
    """What is served. Loading and unloading happen in threads, one at a time; looking up is for anyone."""

    def __init__(self, bundles: Sequence[Bundle], start: Start, repository: Path | None = None) -> None:
        """Know the bundles by name and version.

        Args:
            bundles: What is served from the beginning.
            start: Opens one for running.
            repository: A folder whose bundles may be loaded later; it is read when somebody asks.

        Raises:
            InvalidInput: None, or two of one name and version.
        """
        if not bundles and repository is None:
            raise InvalidInput("there is no bundle to serve; name at least one")
        self._start, self._repository = start, repository
        # Models that other workers serve, whose bundles were gone when this one started; and why.
        self.lost: dict[str, str] = {}
        self._lock = threading.Lock()
        # Name -> version -> model. It is replaced, never changed: whoever reads it sees one state.
        self._models: dict[str, dict[str, Model]] = {}
        for bundle in bundles:
            versions = self._models.setdefault(bundle.name, {})
            if bundle.file.version in versions:
                raise InvalidInput(
                    f"{bundle.path}: is named '{bundle.name}', version {bundle.file.version}, as "
                    f"{versions[bundle.file.version].bundle.path} is; models of one server need different "
                    "names or versions"
                )
            versions[bundle.file.version] = Model(bundle)

    def load_all(self) -> None:
        """Open every bundle for running, one after the other."""
        for name in self.names:
            for version in self.versions(name):
                model = self._models[name][version]
                try:
                    self._put(replace(model, engine=self._start(model.bundle)))
                except Exception as error:
                    self._put(replace(model, failure=str(error)))
                    raise

    def close(self) -> None:
        """Answer what was accepted, and let go of everything."""
        with self._lock:
            models, self._models = self._models, {}
        for versions in models.values():
            for model in versions.values():
                if model.engine is not None:
                    model.engine.close()

    @property
    def ready(self) -> bool:
        """Whether every model can be asked."""
        return all(model.engine for versions in self._models.values() for model in versions.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Models, loaded or not yet."""
        return tuple(self._models)

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of a model, the one that is asked by default at the end."""
        return tuple(sorted(self._models.get(name, ()), key=_version_key))

    def find(self, name: str, version: str | None = None) -> Model:
        """Look up a model, in its newest version if none is named.

        Raises:
            UnknownModel: It, or its version, is not there.
            NotReady: Its bundle was gone when this process started.
        """
        versions = self._models.get(name)
        if not versions and name in self.lost:
            raise not_ready(f"model '{name}'", self.lost[name])
        if not versions:
            has = ", ".join(self._models) or "none now"
            raise UnknownModel(f"no model {name[:80]!r}; this server has {has}")
        if version is None:
            version = max(versions, key=_version_key)
        if version not in versions:
            has = ", ".join(sorted(versions, key=_version_key))
            raise UnknownModel(f"model '{name}' has no version {version[:80]!r}; it has {has}")
        return versions[version]

    def bundle(self, name: str, version: str) -> Bundle | None:
        """Return the bundle of what is served, None if it is no more."""
        model = self._models.get(name, {}).get(version)
        return None if model is None else model.bundle

    def engine(self, name: str, version: str | None = None) -> Answering:
        """Return what runs a model.

        Raises:
            UnknownModel: It is not there.
            NotReady: It is still loading, or could not be loaded.
        """
        model = self.find(name, version)
        if model.engine is None:
            raise not_ready(f"model '{name}'", model.failure)
        return model.engine

    def failure(self) -> str | None:
        """Say what could not be loaded when the server started, if anything."""
        found = (model.failure for versions in self._models.values() for model in versions.values())
        return next((failure for failure in found if failure), None)

    def all(self) -> tuple[Model, ...]:
        """Every version of every model."""
        return tuple(model for versions in self._models.values() for model in versions.values())

    def index(self) -> tuple[IndexEntry, ...]:
        """List what is served, and what the repository holds besides."""
        entries = {
            (model.bundle.name, model.bundle.file.version): IndexEntry(
                model.bundle.name,
                model.bundle.file.version,
                "READY" if model.engine else "UNAVAILABLE" if model.failure else "LOADING",
                model.failure or "",
            )
            for model in self.all()
        }
        for file, _ in stored_bundles(self._repository) if self._repository else ():
            key = (file.name, file.version)
            entries.setdefault(key, IndexEntry(*key, "UNAVAILABLE", "not loaded"))
        return tuple(entries[key] for key in sorted(entries, key=lambda key: (key[0], _version_key(key[1]))))

    def load(self, name: str) -> Model:
        """Serve the newest version that the repository has of a model instead of those served now.

        Those go on until the new one can be asked, answer what they have accepted, and are closed.

        Raises:
            InvalidInput: There is no repository.
            UnknownModel: It has no such model.
            EncasError: The bundle is broken; what was served is served still.
        """
        if self._repository is None:
            raise InvalidInput(_NO_REPOSITORY)
        path = newest_bundle(self._repository, name)
        if path is None:
            raise UnknownModel(f"the repository has no model {name[:80]!r}")
        return self.load_from(path)

    def load_from(self, path: Path) -> Model:
        """Serve a bundle instead of all that is served under its name."""
        with self._lock:
            bundle = Bundle.open(path)
            model = Model(bundle, self._start(bundle))
            old = self._models.get(bundle.name, {})
            self._models = {**self._models, bundle.name: {bundle.file.version: model}}
            for version in old.values():
                if version.engine is not None:
                    version.engine.close()
        return model

    def unload(self, name: str) -> None:
        """Serve a model no more; what it has accepted is answered.

        Raises:
            InvalidInput: There is no repository to load it from again.
            UnknownModel: It is not served.
        """
        if self._repository is None:
            raise InvalidInput(_NO_REPOSITORY)
        with self._lock:
            if self.lost.pop(name, None) is not None and name not in self._models:
                return
            old = self._models.get(name)
            if old is None:
                raise UnknownModel(f"no model {name[:80]!r} is served")
            self._models = {other: versions for other, versions in self._models.items() if other != name}
            for version in old.values():
                if version.engine is not None:
                    version.engine.close()

    def _put(self, model: Model) -> None:
        versions = {**self._models[model.bundle.name], model.bundle.file.version: model}
        self._models = {**self._models, model.bundle.name: versions}


def stored_bundles(repository: Path) -> list[tuple[BundleFile, Path]]:
    """Find the bundles of a repository: the folders in it, or in these.

    Broken ones are passed over, and those that lie elsewhere, to which a link leads.
    """
    found, inside = [], repository.resolve()
    folders = _folders(repository)
    for each in (*folders, *(below for folder in folders for below in _folders(folder))):
        try:
            folder = each.resolve()  # from here on, no link to it can be exchanged
            file = folder / "bundle.json"
            # Neither what lies elsewhere, nor a pipe, which would be waited for.
            if folder.is_relative_to(inside) and file.is_file() and file.resolve().is_relative_to(inside):
                found.append((read_model(file, BundleFile), folder))
        except (EncasError, OSError, RuntimeError):  # the last: links that lead in a circle
            continue  # being written, exchanged or left behind; loading it by name would say what is wrong
    return found


def _folders(folder: Path) -> list[Path]:
    """What lies in a folder, in the order of names; nothing if it has just gone, as one that is exchanged."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def newest_bundle(repository: Path, name: str) -> Path | None:
    """Folder of the newest version of a model of a repository."""
    stored = [(file, path) for file, path in stored_bundles(repository) if file.name == name]
    return max(stored, key=lambda found: _version_key(found[0].version))[1] if stored else None


def newest_bundles(repository: Path) -> list[Path]:
    """Folders of the newest version of every model of a repository."""
    names = dict.fromkeys(file.name for file, _ in stored_bundles(repository))
    return [path for name in names if (path := newest_bundle(repository, name)) is not None]


def not_ready(what: str, failure: str | None) -> NotReady:
    """Say why something cannot be asked yet."""
    if failure is not None:
        return NotReady(f"{what} could not be loaded: {failure}")
    return NotReady(f"{what} is still loading; ask again")


def _version_key(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Order 2 before 10, and 1.9 before 1.10."""
    parts = re.findall(r"\d+|\D+", version)
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)
