"""What the document at /docs says beyond the functions' own signatures."""

from typing import Any

from fastapi import FastAPI
from pydantic import Field

from encas.files import FileModel
from encas.serve.protocol import HEADER_LENGTH, RequestBody, ResponseBody

_COMPONENT = "#/components/schemas/{model}"
# A zero, drawn by hand: the first image of scikit-learn's digits, 8 x 8 gray pixels.
EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAARklEQVR42gXBYRVAMBgAwHt7/vsiaGCaLIJGIqyCBp4EI4E1"
    "III7lLYFaG99i0Gelh55T+LqbpI4GUm+WeQP01PqAdZW8QOg+BHx1aT2vAAAAABJRU5ErkJggg=="
)

DESCRIPTION = f"""\
Cascades of image classifiers behind the Open Inference Protocol (the "V2" protocol of KServe).

**Input** `image`, in one of these forms:

| datatype | shape | what it holds |
|---|---|---|
| BYTES | [n] | encoded images (JPEG, PNG, WebP, ...); base64 in JSON |
| UINT8 | [n, height, width] or [n, height, width, 3] | pixels, gray or RGB |
| FP32 | [n, channels, height, width] | resized and normalised as the networks want it |

FP32 works where all networks of a model prepare images in the same way; the model's metadata then names the
shape.

**Outputs**, all of them when a request names none: `class` INT64 [n], `label` BYTES [n], `confidence`
FP32 [n], `exit_stage` INT64 [n] (0: the first network was sure enough), `macs` INT64 [n]
(multiply-accumulates spent on the sample), `probs` FP32 [n, classes]. An infinite confidence is given as the
largest FP32 number.

**Top classes**: the output parameter `classification` of `probs` is a number k; the output is then BYTES
[n, k], each `probability:index:label`.

**Binary tensors**: the header `{HEADER_LENGTH}` is the length of the JSON, `binary_data_size` that of the
tensor behind it; with the header 0 the whole body is one encoded image. Bodies may be packed with gzip or
deflate.
"""


class ErrorBody(FileModel):
    """What every answer that is no success holds."""

    error: str = Field(description="One line: what was found, and what would be right.")


Responses = dict[int | str, dict[str, Any]]
ANY_ERROR: Responses = {"default": {"model": ErrorBody, "description": "Any other error."}}
UNKNOWN: Responses = {404: {"model": ErrorBody, "description": "No such model or version."}}
LOADING: Responses = {
    503: {"model": ErrorBody, "description": "Loading, not loaded for a failure, or being stopped."}
}
INVALID: Responses = {
    400: {"model": ErrorBody, "description": "Not such a request."},
    413: {"model": ErrorBody, "description": "The body is too large."},
}
LOAD: Responses = {
    **UNKNOWN,
    **INVALID,
    400: {"model": ErrorBody, "description": "No repository, a broken bundle, or parameters."},
}
_RETRY = {
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
    "encas-reason": {"description": "The reason, for programs.", "schema": {"type": "string"}},
}
_REFUSED: Responses = {
    **UNKNOWN,
    400: {"model": ErrorBody, "description": "Not a request that this model can answer."},
    408: {"model": ErrorBody, "description": "The body did not come in time."},
    413: {"model": ErrorBody, "description": "The body, an image or the batch is too large."},
    429: {"model": ErrorBody, "description": "Too many requests, if so configured.", "headers": _RETRY},
    503: {
        "model": ErrorBody,
        "description": "Too many requests, still loading, or being stopped.",
        "headers": _RETRY,
    },
    504: {"model": ErrorBody, "description": "The answer would have come too late."},
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_LENGTH_SCHEMA = {"schema": {"type": "integer", "minimum": 0}}
_EXAMPLE = {
    "id": "1",
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_PNG]}],
    "outputs": [{"name": "label"}, {"name": "confidence"}, {"name": "exit_stage"}],
}
# Arguments of the route: the body is read by hand, so FastAPI cannot know it.
INFER: dict[str, Any] = {
    "responses": {
        **_REFUSED,
        200: {
            "description": "The answers.",
            "content": {
                "application/json": {"schema": {"$ref": _COMPONENT.format(model="ResponseBody")}},
                "application/octet-stream": _BYTES,
            },
            "headers": {
                HEADER_LENGTH: {
                    "description": "Length of the JSON, where an output is binary.",
                    **_LENGTH_SCHEMA,
                }
            },
        },
        415: {"model": ErrorBody, "description": "A content encoding other than gzip and deflate."},
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": _COMPONENT.format(model="RequestBody")},
                    "example": _EXAMPLE,
                },
                "application/octet-stream": _BYTES,
            },
        },
        "parameters": [
            {
                "name": HEADER_LENGTH,
                "in": "header",
                "description": "Length of the JSON in the body; 0: the body is one encoded image.",
                **_LENGTH_SCHEMA,
            },
            {
                "name": "Content-Encoding",
                "in": "header",
                "schema": {"type": "string", "enum": ["gzip", "deflate", "identity"]},
            },
        ],
    },
}
PREDICT: dict[str, Any] = {
    "responses": _REFUSED,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": {"type": "string", "format": "binary"}},
                        "required": ["image"],
                    }
                },
                "application/octet-stream": _BYTES,
            },
        },
    },
}


def complete(app: FastAPI) -> None:
    """Let the application's document hold the schemas of the bodies that are read by hand."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = plain()["components"]["schemas"]
            for model in (RequestBody, ResponseBody):
                schema = model.model_json_schema(ref_template=_COMPONENT)
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
        return plain()

    app.openapi = document  # type: ignore[method-assign]
