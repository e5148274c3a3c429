"""What other servers' clients send: their field names, files, addresses and headers."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pillow_heif
import pytest

from tests.serving.parts import LiveServer, create, ended, opened, png

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    Serve = Callable[..., LiveServer]

KEY = "0123456789abcdef"
EDITS, GENERATIONS = "/v1/images/edits", "/v1/images/generations"


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", ["guidance_scale", "true_cfg_scale"])
def test_fields_when_named_as_other_servers_do_then_taken(name: str, server: LiveServer) -> None:
    with server.client() as client:
        answer = client.post(GENERATIONS, json={"prompt": "x", "num_inference_steps": 3, name: 2.5})
        form = client.post(
            EDITS, data={"prompt": "x", "num_inference_steps": "3", name: "2.5"}, files=[("image", png())]
        )

    for one in (answer, form):
        assert one.status_code == 200, one.text
        assert (one.json()["steps"], one.json()["guidance"]) == (3, 2.5)


@pytest.mark.parametrize(
    ("path", "request_of", "status", "words"),
    [
        (
            EDITS,
            {"data": {"prompt": ["x", "y"]}, "files": [("image", png())]},
            400,
            "`prompt` is given twice",
        ),
        (
            EDITS,
            {"data": {"prompt": "x"}, "files": [("mask", png()), ("mask", png())]},
            400,
            "`mask` is given twice",
        ),
        (EDITS, {"data": {"prompt": "x"}, "files": [("file", png())]}, 400, "go into `image`"),
        (GENERATIONS, {"content": b'{"prompt": "x", "seed": 1, "seed": 2}'}, 400, "`seed` is given twice"),
        (
            GENERATIONS,
            {"content": b'{"prompt": "x", "image": {"url": "", "url": ""}}'},
            400,
            "`url` is given twice",
        ),
        (
            GENERATIONS,
            {"json": {"prompt": "x", "image": data_url(png())}},
            400,
            "send it to /v1/images/edits",
        ),
        (
            GENERATIONS,
            {"json": {"prompt": "x"}, "headers": {"Content-Encoding": "gzip"}},
            415,
            "compressed (gzip)",
        ),
        (GENERATIONS, {"json": {"prompt": "x", "quality": 5}}, 400, "`quality` is 5; expected 'low'"),
        (GENERATIONS, {"json": {"prompt": "\u200b"}}, 400, "text that is not empty"),
        (
            "/v1/spatial/camera",
            {"json": {"yaw": 45, "image": data_url(png()), "mask": data_url(png())}},
            400,
            "`mask`",
        ),
        ("/v1/describe", {"json": {"image": data_url(png()), "mask": data_url(png())}}, 400, "`mask`"),
        (
            GENERATIONS,
            {"json": {"prompt": "x", "steps": "2", "num_inference_steps": 3}},
            400,
            "`num_inference_steps` and `steps` mean the same",
        ),
        (
            EDITS,
            {
                "content": b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n'
                b'--b\r\nContent-Disposition: form-data; name="steps"\r\n\r\n12',
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            400,
            "closing boundary is missing",
        ),
        (GENERATIONS, {"json": {"prompt": "x", "seed": 10**4000}}, 400, "`seed` is 1000"),
        (GENERATIONS, {"json": {"prompt": "x", "guidance": 10**400}}, 400, "`guidance` is 1000"),
    ],
)
def test_request_when_part_of_it_would_be_ignored_then_rejected_by_name(
    server: LiveServer, path: str, request_of: dict[str, Any], status: int, words: str
) -> None:
    with server.client() as client:
        answer = client.post(path, **{"headers": {}, **request_of})

    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def test_image_when_sent_in_other_forms_then_as_a_plain_one(server: LiveServer) -> None:
    url, fields = data_url(png(5)), {"prompt": "x", "seed": 3}
    text = {"prompt": "x", "seed": "3"}
    with server.client() as client:
        plain = client.post(EDITS, data=text, files=[("image", png(5))]).json()["data"]
        others = [
            client.post(EDITS, data=text, files=[("image[0]", png(5))]),
            client.post(EDITS, data=text, files=[("image[]", png(5))]),
            client.post(EDITS, data={**text, "url": url}, files=[("mask", b"")][:0]),
            client.post(EDITS, json={**fields, "url": url}),
            client.post(EDITS, json={**fields, "image": [url]}),
            client.post(EDITS, json={**fields, "images": [{"image_url": url}]}),
            client.post(EDITS, json={**fields, "image": {"type": "image_url", "image_url": {"url": url}}}),
        ]

    for answer in others:
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"] == plain


def test_image_when_a_file_id_then_a_sentence_that_says_what_to_send(server: LiveServer) -> None:
    with server.client() as client:
        answer = client.post(EDITS, json={"prompt": "x", "image": {"file_id": "file-123"}})

    assert answer.status_code == 400
    assert "expected a data URL, base64, or an object with `image_url`" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["GIF", "BMP", "AVIF", "HEIF", "TIFF"])
def test_image_when_of_another_format_then_edited_as_pillow_decodes_it(kind: str, server: LiveServer) -> None:
    pillow_heif.register_heif_opener()
    frames = [opened(png(1)).convert("RGB"), opened(png(2)).convert("RGB")]
    animation = {"save_all": True, "append_images": frames[1:]} if kind == "GIF" else {}
    file = file_of(frames[0], kind, **animation)
    with server.client() as client:
        answer = client.post(EDITS, data={"prompt": "x", "seed": "1"}, files=[("image", file)])
        same = client.post(
            EDITS,
            data={"prompt": "x", "seed": "1"},
            files=[("image", file_of(opened(file).convert("RGB"), "PNG"))],
        )

    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == same.json()["data"]


def test_background_when_transparent_then_an_opaque_image_and_the_answer_says_so(server: LiveServer) -> None:
    with server.client() as client:
        answer = client.post(GENERATIONS, json={"prompt": "x", "background": "transparent"}).json()

    assert answer["background"] == "opaque"
    assert opened(answer["data"][0]["b64_json"]).mode == "RGB"


def test_addresses_when_with_a_slash_at_the_end_or_asked_by_head_then_as_without(server: LiveServer) -> None:
    with server.client() as client:
        assert client.post(f"{GENERATIONS}/", json={"prompt": "x"}).status_code == 200
        assert client.get("/v1/models/").json() == client.get("/v1/models").json()
        job = ended(client, create(client).json())
        for path in ("/healthz", "/v1/models", f"/v1/jobs/{job['id']}/images/0"):
            head, full = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(full.content))
        assert client.head(f"/v1/jobs/{job['id']}/events").status_code == 200
        assert client.head("/nowhere").status_code == 404


def test_address_when_asked_by_another_method_then_the_answer_names_those_that_it_accepts(
    server: LiveServer,
) -> None:
    with server.client() as client:
        answer = client.delete("/livez")
        options = client.options(EDITS)

    assert (answer.status_code, options.status_code) == (405, 405)
    assert answer.headers["allow"] == "GET"
    assert options.headers["allow"] == "POST"


def test_azures_clients_when_they_call_then_served_at_their_addresses_with_their_header(serve: Serve) -> None:
    server = serve(api_keys=f"anna:{KEY}", model_aliases="gpt-image-1")
    path = "/openai/deployments/{}/images/{}?api-version=2025-04-01-preview"
    with server.client() as client:
        key = {"api-key": KEY}
        made = client.post(path.format("gpt-image-1", "generations"), json={"prompt": "x"}, headers=key)
        edited = client.post(
            path.format("tiny", "edits"), data={"prompt": "x"}, files=[("image", png())], headers=key
        )
        wrong = client.post(path.format("other", "edits"), json={"prompt": "x"}, headers=key)
        stranger = client.post(
            path.format("tiny", "generations"), json={"prompt": "x"}, headers={"api-key": KEY[::-1]}
        )

    assert (made.status_code, edited.status_code) == (200, 200)
    assert (wrong.status_code, stranger.status_code) == (404, 401)


def test_model_when_named_by_an_alias_then_served_and_listed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOYIMAGE_MODEL_ALIASES", "gpt-image-1, dall-e-3")
    server = serve()
    with server.client() as client:
        listed = client.get("/v1/models").json()["data"]
        answer = client.post(GENERATIONS, json={"prompt": "x", "model": "dall-e-3"})

    assert [one["id"] for one in listed] == ["tiny", "gpt-image-1", "dall-e-3"]
    assert all(one["created"] > 1_600_000_000 for one in listed)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("move", {"object": "car", "box": [1, 2, 3]}, "box"),
        ("rotate", {"object": "car", "view": "sideways"}, "view"),
        ("camera", {"yaw": 500, "pitch": 0, "zoom": "unchanged"}, "yaw"),
    ],
)
def test_field_of_a_spatial_edit_when_it_is_not_accepted_then_the_error_names_it(
    path: str, fields: dict[str, Any], param: str, server: LiveServer
) -> None:
    with server.client() as client:
        answer = client.post(f"/v1/spatial/{path}", json={"image": data_url(png()), **fields})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_image_when_converted_then_the_same_pixels_as_png_or_what_is_wrong(server: LiveServer) -> None:
    pillow_heif.register_heif_opener()
    side = 48
    image = opened(png(5)).resize((side, 2 * side))
    files = {"HEIF": file_of(image, "HEIF", quality=-1, chroma=444), "TIFF": file_of(image, "TIFF")}
    with server.client() as client:
        for kind, file in files.items():
            answer = client.post("/v1/images/convert", files=[("image", (f"photo.{kind}", file))])
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "image/png"
            made = opened(answer.content)
            assert (made.format, made.size) == ("PNG", (side, 2 * side))
            off = np.abs(np.asarray(made.convert("RGB"), dtype=int) - np.asarray(image.convert("RGB")))
            assert off.max() <= (0 if kind == "TIFF" else 4)
        broken = client.post("/v1/images/convert", files=[("image", files["HEIF"][:200])])
        none = client.post("/v1/images/convert", data={"prompt": "x"})

    assert broken.status_code == 400
    assert "`image`" in broken.json()["error"]["message"]
    assert none.status_code == 400
    assert "expected one" in none.json()["error"]["message"]
