"""Have a prompt put into fuller words, by the checkpoint's own Qwen3-VL or a server; off by default."""

from __future__ import annotations

import base64
import io
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
_TIMEOUT_S = 60.0
_LONGEST_PX = 1024
_MAX_TOKENS = 200


def rewrite(
    prompt: str, image: Any = None, how: str = "none", *, pipe: Any = None, model: str | None = None
) -> str:
    """Return a prompt in fuller words.

    The templates of spatial edits are never rewritten: the model knows them word for word.

    Args:
        prompt: What the user wrote.
        image: The picture that it is about.
        how: "none"; "local" for the text encoder of `pipe`; or the address of an OpenAI-compatible endpoint,
            such as "http://localhost:8000/v1". The key is read from OPENAI_API_KEY.
        pipe: Needed for "local".
        model: Of the endpoint; the first that it lists if None.

    Returns:
        The new prompt, or the old one where nothing is to be rewritten.

    Raises:
        InvalidInputError: `how` is unknown, or "local" lacks pipe or picture.
        RewriteError: The endpoint can't be reached or doesn't answer as it should.
    """
    if how == "none" or _is_template(prompt):
        return prompt
    question = INSTRUCTION.format(prompt=prompt)
    if how == "local":
        if pipe is None or image is None:
            raise InvalidInputError(
                "`how` is 'local', which needs a pipeline and a picture; give `pipe` and `image`."
            )
        answer = pipe.describe(image, question, max_new_tokens=_MAX_TOKENS)
    elif urlsplit(how).scheme in {"http", "https"}:
        pictures = [] if image is None else to_images(image)
        answer = _ask(how.rstrip("/"), question, pictures, model)
    else:
        raise InvalidInputError(f"`how` is {how!r}; expected 'none', 'local' or the address of an endpoint.")
    return " ".join(answer.split()).strip('"') or prompt


def _is_template(prompt: str) -> bool:
    try:
        return parse(prompt) is not None
    except ValueError:
        return True  # nearly one: a person has to mend it


def _ask(endpoint: str, question: str, pictures: list[Image], model: str | None) -> str:
    """Send one chat turn.

    Raises:
        RewriteError: The endpoint can't be reached or doesn't answer as it should.
    """
    key = os.environ.get("OPENAI_API_KEY")
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_encode(picture)}"}}
        for picture in pictures
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
            f"{endpoint} refused to rewrite the prompt: HTTP {error.response.status_code}."
        ) from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise RewriteError(f"{endpoint} can't be reached to rewrite the prompt: {reason}.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise RewriteError(f"{endpoint} didn't answer as an OpenAI-compatible endpoint does.") from error


def _encode(picture: Image) -> str:
    picture = picture.copy()
    picture.thumbnail((_LONGEST_PX, _LONGEST_PX))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue()).decode("ascii")
