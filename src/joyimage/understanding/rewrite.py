"""Rewrite a prompt in more detail with the checkpoint's own Qwen3-VL or a server; off by default."""

from __future__ import annotations

import base64
import io
import ipaddress
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2

from joyimage.errors import InvalidInputError, RewriteError
from joyimage.pipeline.images import to_images
from joyimage.spatial.parse import parse

if TYPE_CHECKING:
    from PIL.Image import Image

INSTRUCTION = (
    "You prepare instructions for an image editor. Look at the image and rewrite the instruction below as "
    "one clear sentence: name the objects as they are seen, say what changes, and keep to what was asked "
    "for. Answer with the sentence alone, in the language of the instruction.\nInstruction: {prompt}"
)
_OWN_KEY = "JOYIMAGE_REWRITE_KEY"
_OPENAI_KEY = "OPENAI_API_KEY"
_TIMEOUT_S = 60.0
_LONGEST_PX = 1024
_MAX_TOKENS = 200


def rewrite(
    prompt: str, image: Any = None, how: str = "none", *, pipe: Any = None, model: str | None = None
) -> str:
    """Rewrite a prompt in more detail.

    Prompts of spatial edits are returned unchanged: the model was trained on their exact text.

    Args:
        prompt: The prompt as the user wrote it.
        image: The image that the prompt is about, or a list of images.
        how: "none"; "local" for the text encoder of `pipe`; or the URL of an OpenAI-compatible endpoint, such as
            "http://localhost:8000/v1". Its API key is read from JOYIMAGE_REWRITE_KEY, or else from OPENAI_API_KEY,
            which is sent only encrypted (https) or within this machine.
        pipe: The pipeline whose text encoder rewrites; required for "local".
        model: Model name at the endpoint; the first that the endpoint lists if None.

    Returns:
        The rewritten prompt, or `prompt` itself if there is nothing to rewrite.

    Raises:
        InvalidInputError: `how` is unknown, or "local" lacks a pipeline, an image, or a checkpoint that can write.
        RewriteError: The endpoint is unreachable or its answer is not valid.
    """
    if how == "none" or _is_template(prompt):
        return prompt
    question = INSTRUCTION.format(prompt=prompt)
    if how == "local":
        if pipe is None or image is None:
            raise InvalidInputError(
                "`how` is 'local', which needs a pipeline and an image; give `pipe` and `image`."
            )
        _check_writes(pipe)
        answer = pipe.describe(image, question, max_new_tokens=_MAX_TOKENS)
    elif urlsplit(how).scheme in {"http", "https"}:
        images = [] if image is None else to_images(image)
        answer = _ask(how.rstrip("/"), question, images, model)
    else:
        raise InvalidInputError(f"`how` is {how!r}; expected 'none', 'local' or the URL of an endpoint.")
    return " ".join(answer.split()).strip('"') or prompt


def _check_writes(pipe: Any) -> None:
    """Reject a checkpoint that learned to answer a few questions, but not to write.

    Raises:
        InvalidInputError: The checkpoint is of that kind.
    """
    scope = getattr(pipe.text_encoder.config, "language_scope", None)
    if scope is not None:
        name = pipe.config.get("_name_or_path") or "this checkpoint"
        raise InvalidInputError(
            f"{name} has no language for prompts: it answers questions about {scope} only. "
            "Rewriting needs another checkpoint, such as the published one, or the URL of an endpoint."
        )


def _is_template(prompt: str) -> bool:
    try:
        return parse(prompt) is not None
    except ValueError:
        return True  # similar to a template: the user has to correct it


def _ask(endpoint: str, question: str, images: list[Image], model: str | None) -> str:
    """Send one chat request and return the answer.

    Raises:
        RewriteError: The endpoint is unreachable or its answer is not valid.
    """
    key, hint = _find_key(endpoint)
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_encode(image)}"}}
        for image in images
    ]
    content.append({"type": "text", "text": question})
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(headers=headers, timeout=_TIMEOUT_S) as client:
            name = model or client.get(f"{endpoint}/models").raise_for_status().json()["data"][0]["id"]
            body = {
                "model": name,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": _MAX_TOKENS,
                "temperature": 0,
            }
            response = client.post(f"{endpoint}/chat/completions", json=body).raise_for_status()
            return str(response.json()["choices"][0]["message"]["content"])
    except httpx2.HTTPStatusError as error:
        raise RewriteError(
            f"{endpoint} rejected the request to rewrite the prompt: HTTP {error.response.status_code}.{hint}"
        ) from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise RewriteError(
            f"{endpoint} is unreachable, so the prompt was not rewritten: {reason}."
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise RewriteError(
            f"{endpoint} did not answer like an OpenAI-compatible endpoint; check the URL."
        ) from error


def _find_key(endpoint: str) -> tuple[str | None, str]:
    """Return the API key for an endpoint, and what to add to the message of a request that it rejects."""
    own, openai = (os.environ.get(name) for name in (_OWN_KEY, _OPENAI_KEY))
    if own or not openai or _is_safe(endpoint):
        return own or openai, ""
    return None, (
        f" {_OPENAI_KEY} was not sent, because {urlsplit(endpoint).hostname} is another machine and the connection is"
        f" not encrypted: use https, or set {_OWN_KEY} to a key of this endpoint."
    )


def _is_safe(endpoint: str) -> bool:
    """Return whether what is sent to an endpoint can be read only there."""
    url = urlsplit(endpoint)
    if url.scheme == "https" or url.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(url.hostname or "").is_loopback
    except ValueError:
        return False


def _encode(image: Image) -> str:
    image = image.copy()
    image.thumbnail((_LONGEST_PX, _LONGEST_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue()).decode("ascii")
