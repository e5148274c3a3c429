"""`/v1/edits/schema`: the fields of every kind of edit, for pages and programs that build requests."""

# Annotations are real types here: FastAPI reads them.

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from joyimage.edits import json_schemas
from joyimage.serving.http.auth import RequestContext, find_context
from joyimage.serving.http.openapi import ERRORS

router = APIRouter(tags=["edits"])


@router.get("/v1/edits/schema", responses=ERRORS)
def schema(_: Annotated[RequestContext, Depends(find_context)]) -> dict[str, Any]:
    """Return the JSON Schema of every kind of edit by its name."""
    return json_schemas()
