"""The OpenAPI document: bodies as forms and as JSON, answers, errors, examples."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from joyimage import __version__
from joyimage.edits import KINDS
from joyimage.serving.http.bodies import ParseBody, body_schema
from joyimage.serving.http.plans import plan_schema
from joyimage.serving.jobs.plan import PLAN
from joyimage.serving.jobs.records import STATES

if TYPE_CHECKING:
    from fastapi import FastAPI

# A red square of 16 x 16 pixels, the least that a box has room on.
EXAMPLE_IMAGE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mO8o6HBQApgYiARjGoY1TB0NAAAyVkBTB"
    "15Un8AAAAASUVORK5CYII="
)
_EXAMPLES: dict[str, dict[str, Any]] = {
    "edit": {"image": EXAMPLE_IMAGE, "prompt": "Recolor the heart orange.", "size": "auto", "seed": 1},
    "generate": {"prompt": "A red bicycle on a white wall", "size": "1024x768", "n": 1},
    "move": {"image": EXAMPLE_IMAGE, "object": "blue car", "box": [0.1, 0.2, 0.5, 0.8]},
    "rotate": {"image": EXAMPLE_IMAGE, "object": "car", "view": "front left"},
    "camera": {"image": EXAMPLE_IMAGE, "yaw": 45, "pitch": 0, "zoom": "unchanged"},
    "describe": {"image": EXAMPLE_IMAGE, "question": "What is in the image?", "max_new_tokens": 16},
    "parse": {"prompt": "Rotate the car to show the front left side view."},
    "job": {"kind": "edit", "image": EXAMPLE_IMAGE, "prompt": "Make the sky pink.", "restore": True},
}
_WORDS = {"type": ["string", "null"]}
_INTEGER = {"type": ["integer", "null"]}
_NUMBER = {"type": ["number", "null"]}
_CHECKS = {
    "type": ["array", "null"],
    "items": {"type": "object"},
    "description": "What a spatial edit changed.",
}
_VERDICTS = {
    "type": ["array", "null"],
    "items": {"type": "object"},
    "description": "For each image that was judged, `done` and `kept` from 0 to 1 or null, and what they are based on.",
}
_CANDIDATES = {
    "type": ["array", "null"],
    "items": {"type": "object"},
    "description": "All candidates with seed, steps and verdict, the chosen one first.",
}
_WARNINGS = {
    "type": "array",
    "items": {"type": "string"},
    "description": "Values without effect or hardly trained, and images of which only a part was read.",
}
_REUSED = {
    "type": ["boolean", "null"],
    "description": "Whether its images had been encoded for an earlier edit of the same client.",
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
                    "message": {"type": "string", "description": "What is wrong, and what to do."},
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
                "description": "Prompt that the model was given for a spatial edit.",
            },
            "checks": _CHECKS,
            "verdicts": _VERDICTS,
            "candidates": _CANDIDATES,
            "memory": {
                "type": "string",
                "description": "Setting that the job ran with after memory had run out.",
            },
            "reused": _REUSED,
            "warnings": _WARNINGS,
        },
    },
    "Job": {
        "type": "object",
        "required": ["id", "object", "kind", "state", "restarted", "images", "error"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "job"},
            "kind": {"enum": [*KINDS, PLAN]},
            "state": {"enum": list(STATES)},
            "position": {"type": ["integer", "null"], "description": "Jobs that run before it."},
            "progress": {"type": ["object", "null"]},
            "edit": {"type": ["object", "null"], "description": "The edit as it was given."},
            "plan": {
                "type": ["array", "null"],
                "items": {"type": "object"},
                "description": "Of a plan: each step with `edit`, `state`, `image` and what is known of it.",
            },
            "has_mask": {"type": "boolean", "description": "Whether a mask was given."},
            "restarted": {"type": "integer", "description": "1 where its server died and it ran again."},
            **dict.fromkeys(("created_at", "started_at", "finished_at", "expires_at"), _NUMBER),
            **dict.fromkeys(("seed", "steps", "width", "height"), _INTEGER),
            "guidance": _NUMBER,
            "prompt": _WORDS,
            "text": _WORDS,
            "checks": _CHECKS,
            "verdicts": _VERDICTS,
            "candidates": _CANDIDATES,
            "memory": _WORDS,
            "reused": _REUSED,
            "warnings": _WARNINGS,
            "images": {"type": "array", "items": {"type": "string"}},
            "masks": {"type": "array", "items": {"type": "string"}},
            "inputs": {"type": "array", "items": {"type": "string"}},
            "error": {"type": ["object", "null"]},
        },
    },
    "Description": {
        "type": "object",
        "properties": {
            "object": {"const": "description"},
            "text": {"type": "string"},
            "job_id": {"type": "string"},
            "warnings": _WARNINGS,
        },
    },
    "Parsed": {
        "type": "object",
        "properties": {
            "edit": {"type": ["object", "null"]},
            "problem": _WORDS,
            "intent": {"type": ["object", "null"]},
        },
    },
}
_ANSWERS = {"describe": "Description", "parse": "Parsed", "job": "Job"}
_ERROR = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
_REASONS = {
    400: "Invalid request.",
    401: "The API key is missing or wrong.",
    403: "Cross-origin request rejected.",
    404: "Not found, or not yours.",
    408: "The body took too long to arrive.",
    409: "The job was cancelled.",
    410: "The results have been removed.",
    413: "The body, or an image in it, is too large.",
    415: "The body is neither a form nor JSON.",
    422: "The idempotency key was used for another request.",
    429: "A limit of the queue or of your share is reached; try again after Retry-After.",
    500: "Internal server error.",
    503: "The model is not ready, or memory or disk is full.",
    504: "The job ran for too long.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": reason, **_ERROR} for status, reason in _REASONS.items()
}
"""For routes: every error, in OpenAI's shape."""


def describe_route(name: str) -> dict[str, Any]:
    """Return what FastAPI cannot know of a route that reads its own body.

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
    """Return title, version and description."""
    return {
        "title": "joyimage",
        "version": __version__,
        "description": "Edit images by instruction with JoyAI-Image-Edit. Fields and errors are OpenAI's.",
    }


def _body_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a body."""
    if name == "job":
        kinds = [{**_body_schema(kind), "title": kind} for kind in (*KINDS, PLAN)]
        for kind, schema in zip((*KINDS, PLAN), kinds, strict=True):
            schema["properties"] = {"kind": {"const": kind}, **schema["properties"]}
            schema["required"] = ["kind", *schema.get("required", [])]
        return {"oneOf": kinds}
    if name == PLAN:
        return plan_schema()
    return ParseBody.model_json_schema() if name == "parse" else body_schema(name)


def _form_schema(name: str) -> dict[str, Any]:
    """Return the schema of a body as a form: images are files."""
    if name == "job":
        return {"oneOf": [_as_form(schema) for schema in _body_schema("job")["oneOf"]]}
    return _as_form(_body_schema(name))


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    properties = {key: value for key, value in schema["properties"].items() if key not in {"images", "mask"}}
    required = list(schema.get("required", []))
    if "image" in properties:
        file = {"type": "string", "format": "binary"}
        properties["image"] = {"type": "array", "items": file, "minItems": 1}
        required = [*(name for name in required if name != "image"), "image"]
        if "mask" in schema["properties"]:
            properties["mask"] = file
    if "steps" in properties and properties["steps"].get("type") == "array":
        properties["steps"] = {"type": "string", "description": "The list of edits as JSON."}
    return {**schema, "properties": properties, "required": required}
