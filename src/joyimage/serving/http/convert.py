"""`/v1/images/convert`: an image in any format that is accepted, as a PNG that every browser shows."""

# Annotations are real types here: FastAPI reads them.

import io
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from joyimage.serving.http.auth import RequestContext, find_context
from joyimage.serving.http.errors import ApiError
from joyimage.serving.http.openapi import ERRORS, EXAMPLE_IMAGE
from joyimage.serving.http.parsing import parse_request
from joyimage.serving.security.uploads import open_image, read_upload

router = APIRouter(tags=["images"])
_LEVEL = 3  # a photograph hardly gets smaller above, and takes three times as long
_DOCUMENT: dict[str, Any] = {
    "responses": {
        **ERRORS,
        200: {
            "description": "Done.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": {"type": "string"}},
                        "required": ["image"],
                    },
                    "example": {"image": EXAMPLE_IMAGE},
                },
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": {"type": "string", "format": "binary"}},
                        "required": ["image"],
                    }
                },
            },
        }
    },
}


@router.post("/v1/images/convert", response_class=Response, **_DOCUMENT)
async def convert(request: Request, context: Annotated[RequestContext, Depends(find_context)]) -> Response:
    """Return an image as PNG, upright and in sRGB: HEIC and TIFF for programs that read neither."""
    service = context.service
    settings = service.settings
    with service.body_room(request, context.client):
        parsed = await parse_request(request, settings, service.budgets, context.client)
        file = _only(parsed.images)

        def work() -> bytes:
            upload = read_upload(file, settings, service.pixels, context.client)
            with service.pixels.reserve(upload.size[0] * upload.size[1], context.client):
                image = open_image(upload.data, settings)
                png = io.BytesIO()
                image.convert("RGBA" if image.has_transparency_data else "RGB").save(
                    png, "PNG", compress_level=_LEVEL
                )
            return png.getvalue()

        return Response(await service.budgets.decoding.run(context.client, work), media_type="image/png")


def _only(images: list[bytes]) -> bytes:
    """Return the one image of a request.

    Raises:
        ApiError: There is none, or more than one.
    """
    if len(images) != 1:
        message = f"`image` has {len(images)} images; expected one."
        raise ApiError(400, message, code="invalid_image", param="image")
    return images[0]
