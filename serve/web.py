"""The page at `/`: its files, the golden samples, and what it shows of the server."""

import mimetypes
from pathlib import Path

from fastapi import FastAPI, Response

from encas.bundle import Bundle
from encas.cascade import Cascade
from encas.errors import InvalidInput
from encas.files import FileModel
from encas.gears import Point, figures_of
from encas.serve.alarms import Alarms, DriftState
from encas.serve.live import Live, Recent
from encas.serve.models import Model
from encas.serve.refusals import UnknownModel
from encas.serve.service import Service

_PAGE = Path(__file__).with_name("page")
_TYPES = {".html": "text/html; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".css": "text/css"}
# The page needs nobody else, and may not be told otherwise.
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class ShownStage(FileModel):
    """One stage of a gear."""

    member: str
    threshold: float | None
    macs: int


class ShownGear(FileModel):
    """One gear, with what the front knows of it."""

    stages: tuple[ShownStage, ...]
    confidence: str
    accuracy: float | None
    macs: float | None


class ShownModel(FileModel):
    """One model: what it is, and what it does now."""

    name: str
    version: str
    ready: bool
    n_samples: int  # golden ones, which can be picked
    split: str | None  # that the gears' figures are of
    gears: tuple[ShownGear, ...]
    front: tuple[Point, ...]
    gear: int
    delay_s: float  # how long the networks are busy with what waits
    waiting: int  # samples
    recent: Recent
    drift: DriftState


class ShownEvent(FileModel):
    """Something that people should look at."""

    at_s: float
    kind: str
    model: str
    text: str


class PageState(FileModel):
    """What the page shows of the server, or of the worker that answers."""

    version: str
    ready: bool
    models: tuple[ShownModel, ...]
    events: tuple[ShownEvent, ...]  # the latest ones


def add(app: FastAPI, service: Service, live: Live, alarms: Alarms) -> None:
    """Give an application the page."""
    files = {path.name: path.read_bytes() for path in _PAGE.iterdir()}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(files["index.html"], media_type=_TYPES[".html"], headers=_HEADERS)

    @app.get("/page/state", include_in_schema=False)
    async def state() -> PageState:
        return PageState(
            version=service.version,
            ready=service.ready,
            models=tuple(_shown(service.models.find(name), live, alarms) for name in service.models.names),
            events=tuple(
                ShownEvent(at_s=one.at_s, kind=one.kind, model=one.model, text=one.text)
                for one in tuple(alarms.events)
            ),
        )

    @app.get("/page/samples/{model}/{number}", include_in_schema=False)
    def sample(model: str, number: int) -> Response:
        bundle = service.models.find(model).bundle
        if not 0 <= number < len(bundle.file.golden):
            raise UnknownModel(f"model '{bundle.name}' has {len(bundle.file.golden)} samples, no {number}")
        path = bundle.path / bundle.file.golden[number].file
        try:
            content = path.read_bytes()
        except OSError:
            raise InvalidInput(f"sample {number} of '{bundle.name}' is there no more") from None
        kind = mimetypes.guess_type(path.name)[0] or ""
        media_type = kind if kind.startswith("image/") and "svg" not in kind else "application/octet-stream"
        return Response(content, media_type=media_type, headers=_HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise UnknownModel("the page has no such file")
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)


def _shown(model: Model, live: Live, alarms: Alarms) -> ShownModel:
    bundle, engine = model.bundle, model.engine
    found = figures_of(bundle.gears)
    return ShownModel(
        name=bundle.name,
        version=bundle.file.version,
        ready=engine is not None,
        n_samples=len(bundle.file.golden),
        split=found[0] if found else None,
        gears=tuple(_gear(bundle, number, gear) for number, gear in enumerate(bundle.gears)),
        front=bundle.front,
        gear=0 if engine is None else engine.gear,
        delay_s=0.0 if engine is None else engine.delay_s,
        waiting=0 if engine is None else sum(engine.n_waiting),
        recent=live.of(bundle.name),
        drift=alarms.of(bundle),
    )


def _gear(bundle: Bundle, number: int, gear: Cascade) -> ShownGear:
    found = figures_of(bundle.gears)
    return ShownGear(
        stages=tuple(
            ShownStage(member=stage.member, threshold=stage.threshold, macs=bundle.member(stage.member).macs)
            for stage in gear.stages
        ),
        confidence=gear.confidence,
        accuracy=found[1][number].accuracy if found else None,
        macs=found[1][number].macs if found else None,
    )
