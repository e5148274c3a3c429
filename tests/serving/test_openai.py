"""OpenAI's own client against the server."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import openai
import pytest
import torch
from PIL import Image

from joyimage.acceleration import report
from joyimage.serving.workers.local import LocalRunner
from tests import random_models
from tests.optional import present
from tests.serving.parts import SIDE, LiveServer, opened, png

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., LiveServer]


def connect(server: LiveServer, key: str = "none needed", **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, **options)


def pixels(image: Any) -> np.ndarray:
    image = opened(image) if isinstance(image, (bytes, str)) else image
    return np.asarray(image.convert("RGB"), dtype=int)


def make_mask(left_may_change: bool = True) -> bytes:
    mask = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE) if left_may_change else (0, 0, 0, 0))
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


def test_edit_when_asked_then_the_same_image_as_a_direct_call(
    server: LiveServer, runner: LocalRunner
) -> None:
    answer = connect(server).images.edit(
        image=("image.png", png(1)),
        prompt="red",
        model="tiny",
        extra_body={"seed": 7, "steps": 2, "guidance": 3, "negative_prompt": "dark"},
    )

    direct = runner.pipe(
        image=random_models.make_image(1, SIDE, SIDE),
        prompt="red",
        negative_prompt="dark",
        num_inference_steps=2,
        guidance_scale=3,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert answer.data is not None
    assert answer.data[0].b64_json is not None
    assert np.abs(pixels(answer.data[0].b64_json) - pixels(direct)).max() <= 1
    assert (answer.size, answer.output_format) == (f"{SIDE}x{SIDE}", "png")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0


def test_edit_when_several_outputs_then_each_has_the_next_seed(server: LiveServer) -> None:
    client = connect(server)
    ask = {"image": ("a.png", png(1)), "prompt": "red"}

    both = client.images.edit(**ask, n=2, extra_body={"seed": 3}).data
    second = client.images.edit(**ask, extra_body={"seed": 4}).data

    assert both is not None
    assert second is not None
    assert np.abs(pixels(both[1].b64_json) - pixels(second[0].b64_json)).max() <= 1
    assert np.abs(pixels(both[0].b64_json) - pixels(both[1].b64_json)).max() > 5


def test_generation_when_asked_then_of_the_nearest_size_and_in_the_format(server: LiveServer) -> None:
    answer = connect(server).images.generate(
        prompt="a tree", size="1536x1024", output_format="jpeg", output_compression=80, quality="low"
    )

    assert answer.data is not None
    assert answer.data[0].b64_json is not None
    image = opened(answer.data[0].b64_json)
    assert image.format == "JPEG"
    assert image.width > image.height
    assert answer.size == f"{image.width}x{image.height}"


def test_url_when_asked_for_then_opens_the_image(server: LiveServer) -> None:
    answer = connect(server).images.generate(prompt="x", response_format="url", extra_body={"seed": 1})

    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    assert url.startswith(server.url)
    fetched = httpx2.get(url)
    assert fetched.headers["content-type"] == "image/png"
    assert opened(fetched.content).size == (SIDE, SIDE)


def test_edit_when_json_with_data_url_then_the_same_as_the_form(server: LiveServer) -> None:
    address = "data:image/png;base64," + base64.b64encode(png(1)).decode()
    common = {"prompt": "red", "seed": 2}

    with server.client() as client:
        shapes: list[dict[str, Any]] = [
            {"json": {**common, "images": [{"image_url": address}]}},
            {"json": {**common, "image": address}},
            {"json": {**common, "image": [address.partition(",")[2]]}},
            {"data": {**common, "seed": "2"}, "files": [("image[]", png(1))]},
        ]
        answers = [client.post("/v1/images/edits", **shape).json() for shape in shapes]

    assert len({answer["data"][0]["b64_json"] for answer in answers}) == 1


def test_mask_when_given_then_the_rest_stays(server: LiveServer) -> None:
    answer = connect(server).images.edit(
        image=("a.png", png(1)), mask=("mask.png", make_mask()), prompt="red", extra_body={"restore": True}
    )

    assert answer.data is not None
    difference = np.abs(pixels(answer.data[0].b64_json) - pixels(png(1))).max(axis=2)
    assert difference[:, SIDE // 2 :].max() == 0
    assert difference[:, : SIDE // 4].max() > 5


def test_close_up_when_asked_for_then_only_the_masks_region_changes_or_a_sentence(server: LiveServer) -> None:
    url = f"{server.url}/v1/images/edits"
    files = {"image": png(1), "mask": make_mask()}
    ask = {"prompt": "red", "close_up": "true", "feather": "2"}

    answer = httpx2.post(url, data={**ask, "restore": "true"}, files=files, timeout=60).json()
    plain = httpx2.post(url, data=ask, files=files, timeout=60)
    without = httpx2.post(url, data={**ask, "restore": "true"}, files={"image": png(1)}, timeout=60)

    difference = np.abs(pixels(answer["data"][0]["b64_json"]) - pixels(png(1))).max(axis=2)
    assert difference[:, SIDE // 2 :].max() == 0
    assert difference[:, : SIDE // 4].max() > 5
    assert (plain.status_code, without.status_code) == (400, 400)
    assert plain.json()["error"]["message"] == "`close_up` needs `restore`; give it too."
    assert "without a region" in without.json()["error"]["message"]


def test_masks_when_asked_for_then_where_the_image_is_the_edits(server: LiveServer) -> None:
    ask = {"image": ("a.png", png(1)), "mask": ("mask.png", make_mask()), "prompt": "red"}
    settings = {"restore": True, "masks": True, "seed": 1}

    answer = connect(server).images.edit(**ask, n=2, extra_body=settings)
    linked = connect(server).images.edit(**ask, response_format="url", extra_body=settings)
    plain = connect(server).images.edit(**ask, extra_body={"restore": True, "seed": 1})
    events = list(connect(server).images.edit(**ask, stream=True, extra_body=settings))

    assert answer.data is not None
    assert linked.data is not None
    assert plain.data is not None
    assert "mask_b64_json" not in (plain.data[0].model_extra or {})
    masks = [opened((one.model_extra or {})["mask_b64_json"]) for one in answer.data]
    assert len(masks) == 2
    for one, mask in zip(answer.data, masks, strict=True):
        assert (mask.mode, mask.size) == ("L", (SIDE, SIDE))
        kept = np.asarray(mask) == 0
        assert kept[:, SIDE // 2 :].all()
        assert not kept[:, : SIDE // 4].any()
        assert np.array_equal(pixels(one.b64_json)[kept], pixels(png(1))[kept])
    fetched = httpx2.get((linked.data[0].model_extra or {})["mask_url"])
    assert fetched.headers["content-type"] == "image/png"
    for file in (fetched.content, present(events[-1].model_extra)["mask_b64_json"]):
        assert np.array_equal(np.asarray(opened(file)), np.asarray(masks[0]))


def test_restore_when_asked_then_of_the_images_own_size(server: LiveServer) -> None:
    answer = connect(server).images.edit(
        image=("a.png", png(1, 90, 70)), prompt="red", extra_body={"restore": True, "fit": "pad"}
    )

    assert answer.size == "90x70"


def test_edit_when_streamed_then_partial_images_and_the_whole_one(server: LiveServer) -> None:
    stream = connect(server).images.edit(
        image=("a.png", png(1)),
        prompt="red",
        stream=True,
        partial_images=2,
        extra_body={"steps": 6, "seed": 1},
    )
    events = list(stream)

    assert [event.type for event in events[-1:]] == ["image_edit.completed"]
    partial = [event for event in events if event.type == "image_edit.partial_image"]
    assert 1 <= len(partial) <= 2  # who reads more slowly than steps are made gets the newest
    assert [event.partial_image_index for event in partial] == list(range(len(partial)))
    assert all(opened(event.b64_json).size == (SIDE, SIDE) for event in events)
    whole = connect(server).images.edit(
        image=("a.png", png(1)), prompt="red", extra_body={"steps": 6, "seed": 1}
    )
    assert whole.data is not None
    assert np.abs(pixels(events[-1].b64_json) - pixels(whole.data[0].b64_json)).max() <= 1


def test_generation_when_streamed_then_its_own_events(server: LiveServer) -> None:
    stream = connect(server).images.generate(prompt="x", stream=True, partial_images=0)

    assert [event.type for event in stream] == ["image_generation.completed"]


def test_several_images_when_the_model_takes_them_then_all_count(serve: Serve) -> None:
    pipe = random_models.make_plus_pipeline()
    pipe.register_to_config(base_size=SIDE, default_num_inference_steps=2, default_guidance_scale=1.0)
    server = serve(LocalRunner(pipe))
    first, second, other = (("a.png", png(seed)) for seed in (1, 2, 3))

    def edit(*images: Any) -> np.ndarray:
        data = connect(server).images.edit(image=list(images), prompt="x", extra_body={"seed": 1}).data
        assert data is not None
        return pixels(data[0].b64_json)

    assert np.abs(edit(first, second) - edit(first, other)).max() > 5
    with pytest.raises(openai.BadRequestError, match="`restore` can't be used with this model"):
        connect(server).images.edit(image=[first], prompt="x", extra_body={"restore": True})


def test_several_images_when_the_model_takes_one_then_a_sentence(server: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError) as rejection:
        connect(server).images.edit(image=[("a.png", png(1)), ("b.png", png(2))], prompt="x")

    assert rejection.value.param == "image"
    assert "this model takes one" in rejection.value.message


@pytest.mark.parametrize(
    ("change", "error", "param", "words"),
    [
        ({"size": "big"}, openai.BadRequestError, "size", "expected WIDTHxHEIGHT"),
        ({"n": 11}, openai.BadRequestError, "n", "expected at most 10"),
        ({"model": "dall-e-9"}, openai.NotFoundError, "model", "no model 'dall-e-9'"),
        ({"prompt": ""}, openai.BadRequestError, "prompt", "not empty"),
        ({"extra_body": {"steps": 101}}, openai.BadRequestError, "steps", "expected at most 100"),
        ({"extra_body": {"setps": 1}}, openai.BadRequestError, "setps", "did you mean `steps`?"),
        ({"extra_body": {"lora": "../secret"}}, openai.NotFoundError, "lora", "no adapter"),
        ({"extra_body": {"fit": "squeeze"}}, openai.BadRequestError, "fit", "one of crop, pad, exact"),
        ({"image": ("a.png", b"no image")}, openai.BadRequestError, "image", "expected PNG, JPEG"),
        ({"mask": ("m.png", png(1))}, openai.BadRequestError, "mask", "no transparency"),
        (
            {"extra_body": {"masks": True}},
            openai.BadRequestError,
            "masks",
            "only with `preserve`, `region` or `mask`",
        ),
        (
            {"size": "1000x1000", "extra_body": {"fit": "exact"}},
            openai.BadRequestError,
            "size",
            "multiples of 16",
        ),
        ({"size": "4096x4096", "extra_body": {"fit": "exact"}}, openai.BadRequestError, "size", "at most"),
    ],
)
def test_request_when_it_can_not_be_then_openais_error_with_a_sentence(
    server: LiveServer, change: dict[str, Any], error: type[openai.APIStatusError], param: str, words: str
) -> None:
    request = {"image": ("a.png", png(1)), "prompt": "red", **change}

    with pytest.raises(error) as rejection:
        connect(server).images.edit(**request)

    assert words in rejection.value.message
    assert rejection.value.param == param  # type: ignore[attr-defined]
    assert rejection.value.type == "invalid_request_error"  # type: ignore[attr-defined]


def test_models_when_listed_then_the_one_that_is_served(server: LiveServer) -> None:
    client = connect(server)

    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "joyimage"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_key_when_wrong_then_openais_authentication_error(serve: Serve) -> None:
    server = serve(api_keys="anna:0123456789abcdef")

    connect(server, "0123456789abcdef").models.list()
    with pytest.raises(openai.AuthenticationError) as rejection:
        connect(server, "0123456789abcdeX").models.list()

    assert rejection.value.code == "invalid_api_key"


def test_models_when_listed_then_report_what_runs_in_an_edit(server: LiveServer, runner: LocalRunner) -> None:
    listed = httpx2.get(f"{server.url}/v1/models").json()["data"]

    # As it was loaded: each edit of an earlier test has set what of the report changes with its preset.
    assert all(model["acceleration"].items() >= runner.info.acceleration.items() for model in listed)
    assert LocalRunner(runner.pipe).info.acceleration == report(runner.pipe).to_dict()
    assert listed[0]["acceleration"]["attention"] == "joint_buffer"
