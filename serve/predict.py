"""`POST /predict`: an image file in, a readable answer out, for people with curl."""

import logging
from typing import Annotated

import numpy as np
from fastapi import FastAPI, Query, Request
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.types import Message

from encas.bundle import Bundle
from encas.errors import InvalidInput, TooLarge
from encas.files import FileModel
from encas.serve import openapi
from encas.serve.bodies import Bodies, Held
from encas.serve.front import REQUEST_ID, TRACE_HEADERS, read_body, until_gone
from encas.serve.model import INPUT
from encas.serve.protocol import InferRequest
from encas.serve.service import Answer, Question, Service
from encas.serve.tensor import Tensor

_MOST_FILES = 64
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every form that is none


class ClassProbability(FileModel):
    """One class, and how probable it is."""

    label: str
    probability: float


class Prediction(FileModel):
    """The answer for one image."""

    file: str | None
    class_index: int
    label: str
    confidence: float
    exit_stage: int
    macs: int
    gear: int = Field(description="0: the bundle's cascade; higher ones are cheaper.")
    confidences: tuple[float, ...] = Field(description="After each stage that ran.")
    classes: tuple[ClassProbability, ...] = Field(description="The `top` most probable ones.")


class Predictions(FileModel):
    """The answers, in the order of the files."""

    model_name: str
    model_version: str
    predictions: tuple[Prediction, ...]


def add(app: FastAPI, service: Service) -> None:
    """Give an application this call."""

    @app.post("/predict", tags=["inference"], **openapi.PREDICT)
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="Needed where several are served.")] = None,
        top: Annotated[
            int, Query(ge=0, le=1000, description="So many classes with their probabilities.")
        ] = 0,
    ) -> Predictions:
        """Classify an image that is the body, or the files of a form (multipart/form-data)."""
        name = model or _only_model(service)
        traced = {name: value for name, value in request.headers.items() if name in TRACE_HEADERS}
        question = Question("rest", name, None, request.headers.get(REQUEST_ID, ""), traced)
        with service.observed(question) as seen, service.bodies.held() as held:
            service.check(name, None)
            files = await _files(request, service.limits.max_body_bytes, service.bodies, held)
            contents = tuple(content for _, content in files)

            def parse(_bundle: Bundle) -> InferRequest:
                tensor = Tensor(INPUT, "BYTES", (len(contents),), contents)
                return InferRequest(None, tensor, {})

            seen.answer = await until_gone(service.infer(question, parse, heavy=False), request.receive)
        return _predictions(seen.answer, [file for file, _ in files], top)


def _only_model(service: Service) -> str:
    names = service.models.names
    if len(names) != 1:
        raise InvalidInput(f"model: name one, as /predict?model=NAME; this server has {', '.join(names)}")
    return names[0]


async def _files(
    request: Request, max_bytes: int, bodies: Bodies, held: Held
) -> list[tuple[str | None, bytes]]:
    """Read the images: name, if there is one, and content."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        body = await read_body(request.receive, request.headers, max_bytes, bodies, held)
        if not body:
            raise InvalidInput("the body is empty; it must be one encoded image, or a form with files")
        return [(None, body)]
    async with bodies.coming(held):
        form = await _bounded(request, max_bytes, held).form(max_files=_MOST_FILES, max_fields=_MOST_FILES)
    try:
        uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not uploads:
            raise InvalidInput("the form holds no file; send one as: curl -F image=@image.jpg")
        return [(upload.filename, await upload.read()) for upload in uploads]
    finally:
        await form.close()


def _bounded(request: Request, max_bytes: int, held: Held) -> Request:
    """Return the request with a body that ends in an error beyond so many bytes."""
    n_bytes = 0

    async def receive() -> Message:
        nonlocal n_bytes
        message = await request.receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > max_bytes:
            raise TooLarge(f"the form has {n_bytes} bytes or more; at most {max_bytes} are taken")
        held.take(len(message.get("body", b"")))
        return message

    return Request(request.scope, receive)


def _predictions(answer: Answer, names: list[str | None], top: int) -> Predictions:
    answers, bundle = answer.outcome.answers, answer.bundle
    most = 3.4028234663852886e38  # JSON has no infinity, which a logit gap may be
    confidences = answer.outcome.confidences
    best = np.argsort(-answers.probs, axis=1, kind="stable")[:, :top]
    return Predictions(
        model_name=bundle.name,
        model_version=bundle.file.version,
        predictions=tuple(
            Prediction(
                file=name,
                class_index=int(answers.label[row]),
                label=bundle.labels[answers.label[row]],
                confidence=min(float(answers.confidence[row]), most),
                exit_stage=int(answers.exit_stage[row]),
                macs=int(answers.macs[row]),
                gear=answer.outcome.gear,
                confidences=tuple(
                    min(value, most) for value in confidences[row, : answers.exit_stage[row] + 1].tolist()
                ),
                classes=tuple(
                    ClassProbability(label=bundle.labels[index], probability=float(answers.probs[row, index]))
                    for index in best[row].tolist()
                ),
            )
            for row, name in enumerate(names)
        ),
    )
