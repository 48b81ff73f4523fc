"""What is asked and answered, in the words of OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_automl_vision.samples import SIDES
from lightning_automl_vision.serving.explanations import parameter_schemas

Described = dict[str, Any]

_BINARY = {"type": "string", "format": "binary"}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_REASONS: Mapping[int, str] = {
    400: "The request is malformed, or none of its pictures can be used.",
    401: "A key is needed.",
    403: "The server was started without keys.",
    404: "There is no deployment of that name.",
    408: "The body did not come in time.",
    413: "The body is too long, or has too many pictures.",
    415: "The body is of a type that is not read.",
    429: "Too many requests wait; Retry-After says when to try again.",
    503: "The server is loading, ending, or has no traffic; Retry-After says when to try again.",
    504: "The request took longer than it may.",
}
_KEY: Mapping[str, Any] = {"security": [{}, {"key": []}]}
SECURITY: Described = {"key": {"type": "http", "scheme": "bearer"}}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_NUMBERS = {"type": "array", "items": {"type": ["number", "null"]}}  # null is what JSON has no number for
_NAMES = {"type": "array", "items": {"type": "string"}}
_FOUND = {
    "type": "object",
    "required": ["box", "label", "score"],
    "properties": {
        "box": {"type": "object", "required": list(SIDES), "properties": dict.fromkeys(SIDES, _SHARE)},
        "label": {"type": "string"},
        "score": _SHARE,
        "polygon": {
            "description": "Of instance segmentation: the parts, x and y in turn.",
            "type": "array",
            "items": {"type": "array", "items": _SHARE},
        },
    },
}
_ANSWER = {
    "oneOf": [
        {
            "type": "object",
            "title": "classification",
            "required": ["probs", "labels"],
            "properties": {
                "probs": _NUMBERS,
                "labels": _NAMES,
                "decided": {"description": "Where operating points are in use: what they decide for.", **_NAMES},
            },
        },
        {
            "type": "object",
            "title": "detection and segmentation",
            "required": ["boxes"],
            "properties": {"boxes": {"type": "array", "items": _FOUND}},
        },
        {**_ERROR, "title": "a picture that cannot be used"},
    ]
}


def _responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {
        code: {"description": _REASONS[code], "content": {"application/json": {"schema": _ERROR}}} for code in codes
    }


def _answer(description: str, schema: Mapping[str, Any], kind: str = "application/json") -> dict[int | str, Any]:
    return {200: {"description": description, "content": {kind: {"schema": schema}}}}


def described_score(most: int) -> Described:
    """POST /score, of a server that takes so many pictures at once."""
    body = {
        "application/json": {"schema": _document(most)},
        "multipart/form-data": {
            "schema": {"type": "object", "minProperties": 1, "additionalProperties": _BINARY},
        },
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
    }
    header = {
        "name": "azureml-model-deployment",
        "in": "header",
        "required": False,
        "description": "The deployment to ask, whatever the traffic.",
        "schema": {"type": "string"},
    }
    return {
        "summary": "What pictures show, an answer for each in order.",
        "responses": {
            **_answer("An answer for each picture.", {"type": "array", "items": _ANSWER}),
            **_responses(400, 401, 404, 408, 413, 415, 429, 503, 504),
        },
        "openapi_extra": {"requestBody": {"required": True, "content": body}, "parameters": [header], **_KEY},
    }


def _document(most: int) -> Mapping[str, Any]:
    encoded = {"type": "string", "description": "The picture in base64, with or without newlines."}
    explained = {
        "type": "object",
        "required": ["image_base64"],
        "additionalProperties": False,
        "properties": {
            "image_base64": encoded,
            "model_explainability": {"type": "boolean", "default": False},
            "xai_parameters": {
                "type": "object",
                "additionalProperties": False,
                "properties": parameter_schemas(),
            },
        },
    }
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": explained}
    items = {"oneOf": [encoded, text, explained, {"type": "array", "minItems": 1, "maxItems": 1, "items": encoded}]}
    data = {
        "type": "object",
        "required": ["data"],
        "additionalProperties": False,
        "properties": {
            "columns": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string", "enum": ["image"]}},
            "index": {"type": "array", "maxItems": most, "items": {"oneOf": [{"type": "integer"}, {"type": "string"}]}},
            "data": {"type": "array", "minItems": 1, "maxItems": most, "items": items},
        },
    }
    return {
        "type": "object",
        "required": ["input_data"],
        "additionalProperties": False,
        "properties": {"input_data": data},
    }


_STATUS = {"type": "object", "properties": {"status": {"type": "string"}}}
_PERCENTAGE = {"type": "number", "minimum": 0, "maximum": 100}
_DEPLOYMENT = {
    "type": "object",
    "required": ["name", "traffic", "ready"],
    "properties": {
        "name": {"type": "string"},
        "traffic": _PERCENTAGE,
        "ready": {"type": "boolean"},
        "task": {"type": "string"},
        "model": {"type": "string"},
        "labels": _NAMES,
    },
}
_EVERY_DEPLOYMENT = _answer("Each deployment.", {"type": "array", "items": _DEPLOYMENT})

LIVE: Described = {"summary": "Whether the server runs.", "responses": _answer("It does.", _STATUS)}
READY: Described = {
    "summary": "Whether requests are answered.",
    "responses": {**_answer("They are.", _STATUS), **_responses(503)},
}
DEPLOYMENTS: Described = {
    "summary": "The deployments, their models and their share of the traffic.",
    "responses": {**_EVERY_DEPLOYMENT, **_responses(401)},
    "openapi_extra": {**_KEY},
}
TRAFFIC: Described = {
    "summary": "Another share of the traffic for each; who is not named takes none.",
    "responses": {**_EVERY_DEPLOYMENT, **_responses(400, 401, 403, 413, 415)},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object", "additionalProperties": _PERCENTAGE}}},
        },
        **_KEY,
    },
}
METRICS: Described = {
    "summary": "Counts and times, for Prometheus.",
    "responses": {**_answer("The figures.", {"type": "string"}, "text/plain"), **_responses(401)},
    "openapi_extra": {**_KEY},
}
