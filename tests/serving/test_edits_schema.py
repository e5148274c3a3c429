"""The fields of edits, as the server tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jsonschema

from joyimage.edits import KINDS, Move, json_schemas

if TYPE_CHECKING:
    from tests.serving.parts import LiveServer


def test_schema_when_asked_for_then_every_kind_and_an_edit_fits_its_own(server: LiveServer) -> None:
    with server.client() as client:
        schemas = client.get("/v1/edits/schema").json()

    assert schemas == json_schemas()
    assert set(schemas) == set(KINDS)
    jsonschema.validate(Move(object="heart", box=(1, 2, 3, 4)).to_dict(), schemas["move"])
