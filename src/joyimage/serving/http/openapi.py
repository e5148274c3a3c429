"""The OpenAPI document: bodies as forms and as JSON, answers, errors, examples."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from joyimage import __version__
from joyimage.serving.http.schemas import BODIES, ParseBody
from joyimage.serving.jobs.records import STATES

if TYPE_CHECKING:
    from fastapi import FastAPI

# A red square of 16 x 16 pixels, the least that a box has room on.
_SQUARE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mO8o6HBQApgYiARjGoY1TB0NAAAyVkBTB"
    "15Un8AAAAASUVORK5CYII="
)
_EXAMPLES: dict[str, dict[str, Any]] = {
    "edit": {"image": _SQUARE, "prompt": "Recolor the heart orange.", "size": "auto", "seed": 1},
    "generate": {"prompt": "A red bicycle on a white wall", "size": "1024x768", "n": 1},
    "move": {"image": _SQUARE, "object": "blue car", "box": [0.1, 0.2, 0.5, 0.8]},
    "rotate": {"image": _SQUARE, "object": "car", "view": "front left"},
    "camera": {"image": _SQUARE, "yaw": 45, "pitch": 0, "zoom": "unchanged"},
    "describe": {"image": _SQUARE, "question": "What is in the picture?", "max_new_tokens": 16},
    "parse": {"prompt": "Rotate the car to show the front left side view."},
    "job": {"kind": "edit", "image": _SQUARE, "prompt": "Make the sky pink.", "restore": True},
}
_WORDS = {"type": ["string", "null"]}
_INTEGER = {"type": ["integer", "null"]}
_NUMBER = {"type": ["number", "null"]}
_CHECKS = {
    "type": ["array", "null"],
    "items": {"type": "object"},
    "description": "What a spatial edit changed.",
}
_REUSED = {
    "type": ["boolean", "null"],
    "description": "Whether its pictures had been read for an earlier edit.",
}

_SCHEMAS: dict[str, dict[str, Any]] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string", "description": "One sentence."},
                    "type": {"type": "string"},
                    "param": _WORDS,
                    "code": _WORDS,
                },
            }
        },
    },
    "Images": {
        "type": "object",
        "required": ["created", "data"],
        "properties": {
            "created": {"type": "integer"},
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        name: {"type": "string"} for name in ("b64_json", "url", "mask_b64_json", "mask_url")
                    },
                },
            },
            "size": {"type": "string"},
            "output_format": {"type": "string"},
            "quality": {"type": "string"},
            "background": {"type": "string"},
            "usage": {"type": "object"},
            "job_id": {"type": "string"},
            "seed": {"type": "integer"},
            "steps": {"type": "integer"},
            "guidance": {"type": "number"},
            "prompt": {
                "type": "string",
                "description": "Of a spatial edit, the words that the model was told.",
            },
            "checks": _CHECKS,
            "memory": {"type": "string", "description": "How memory was saved, where it ran out."},
            "reused": _REUSED,
        },
    },
    "Job": {
        "type": "object",
        "required": ["id", "object", "kind", "state", "restarted", "images", "error"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "job"},
            "kind": {"enum": list(BODIES)},
            "state": {"enum": list(STATES)},
            "position": {"type": ["integer", "null"], "description": "Jobs that run before it."},
            "progress": {"type": ["object", "null"]},
            "restarted": {"type": "integer", "description": "1 where its server died and it was run again."},
            **dict.fromkeys(("created_at", "started_at", "finished_at", "expires_at"), _NUMBER),
            **dict.fromkeys(("seed", "steps", "width", "height"), _INTEGER),
            "guidance": _NUMBER,
            "prompt": _WORDS,
            "text": _WORDS,
            "checks": _CHECKS,
            "memory": _WORDS,
            "reused": _REUSED,
            "images": {"type": "array", "items": {"type": "string"}},
            "masks": {"type": "array", "items": {"type": "string"}},
            "error": {"type": ["object", "null"]},
        },
    },
    "Description": {
        "type": "object",
        "properties": {
            "object": {"const": "description"},
            "text": {"type": "string"},
            "job_id": {"type": "string"},
        },
    },
    "Parsed": {
        "type": "object",
        "properties": {"edit": {"type": ["object", "null"]}, "problem": _WORDS},
    },
}
_ANSWERS = {"describe": "Description", "parse": "Parsed", "job": "Job"}
_ERROR = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
_REASONS = {
    400: "Something in the request can't be.",
    401: "The API key is missing or wrong.",
    403: "A page from elsewhere calls.",
    404: "There is no such thing, or it isn't yours.",
    408: "The body took too long.",
    409: "The job was cancelled.",
    410: "The results have gone.",
    413: "The body, or a picture in it, is too large.",
    415: "The body is neither form nor JSON.",
    422: "The idempotency key was used for another request.",
    429: "The queue is full, or you have your share of it; come back after Retry-After.",
    500: "The server made a mistake.",
    503: "The model isn't ready, or memory or disk are full.",
    504: "The job ran for too long.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": reason, **_ERROR} for status, reason in _REASONS.items()
}
"""For routes: every error, in OpenAI's shape."""


def describe_route(name: str) -> dict[str, Any]:
    """Return what FastAPI can't know of a route that reads its own body.

    Args:
        name: A kind of job, "job" or "parse".

    Returns:
        Arguments of the decorator.
    """
    answer = {"$ref": f"#/components/schemas/{_ANSWERS.get(name, 'Images')}"}
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if name not in _ANSWERS:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": _body_schema(name), "example": _EXAMPLES[name]},
            "multipart/form-data": {"schema": _form_schema(name)},
        },
    }
    if name in {"generate", "parse"}:
        del body["content"]["multipart/form-data"]
    status = 202 if name == "job" else 200
    return {
        "responses": {
            **ERRORS,
            status: {"description": "Done." if status == 200 else "Queued.", "content": content},
        },
        "openapi_extra": {
            "requestBody": body,
            "parameters": []
            if name == "parse"
            else [
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "description": "The same key and body never run twice.",
                    "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]{1,255}$"},
                }
            ],
        },
    }


def add_document(app: FastAPI) -> None:
    """Give an application its document."""
    plain = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = plain()
            components = made.setdefault("components", {})
            components["schemas"] = copy.deepcopy(_SCHEMAS)
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{}, {"key": []}]
            for path in made["paths"].values():
                for operation in path.values():
                    shown = operation["responses"].get("422", {})
                    if "HTTPValidationError" in str(shown):
                        operation["responses"]["422"] = ERRORS[422]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document


def new_document_fields() -> dict[str, Any]:
    """Return the title and the like."""
    return {
        "title": "joyimage",
        "version": __version__,
        "description": "Edit pictures by instruction with JoyAI-Image-Edit. Fields and errors are OpenAI's.",
    }


def _body_schema(name: str) -> dict[str, Any]:
    """Return the JSON schema of a body, nothing referred to."""
    if name == "job":
        kinds = [{**_body_schema(kind), "title": kind} for kind in BODIES]
        for kind, schema in zip(BODIES, kinds, strict=True):
            schema["properties"] = {"kind": {"const": kind}, **schema["properties"]}
            schema["required"] = ["kind", *schema.get("required", [])]
        return {"oneOf": kinds}
    model = ParseBody if name == "parse" else BODIES[name]
    schema = model.model_json_schema()
    return _inline(schema, schema.pop("$defs", {}))


def _form_schema(name: str) -> dict[str, Any]:
    """Return the schema of the same body as a form: pictures are files."""
    if name == "job":
        return {"oneOf": [_as_form(schema) for schema in _body_schema("job")["oneOf"]]}
    return _as_form(_body_schema(name))


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    properties = {key: value for key, value in schema["properties"].items() if key not in {"images", "mask"}}
    required = list(schema.get("required", []))
    if "image" in properties:
        file = {"type": "string", "format": "binary"}
        properties["image"] = {"type": "array", "items": file, "minItems": 1}
        required.append("image")
        if "mask" in schema["properties"]:
            properties["mask"] = file
    return {**schema, "properties": properties, "required": required}


def _inline(part: Any, definitions: dict[str, Any]) -> Any:
    """Put definitions in the places that refer to them."""
    if isinstance(part, dict):
        if "$ref" in part:
            return _inline(definitions[part["$ref"].rpartition("/")[2]], definitions)
        return {key: _inline(value, definitions) for key, value in part.items()}
    if isinstance(part, list):
        return [_inline(one, definitions) for one in part]
    return part
