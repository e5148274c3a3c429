"""Edits as values: given, resolved, as a dict and as text; what is accepted, and what is never changed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joyimage.edits import (
    KINDS,
    LARGEST_SEED,
    Camera,
    Defaults,
    Describe,
    Edit,
    FieldError,
    Framing,
    Generate,
    Move,
    Record,
    Rotate,
    Sampling,
    UnknownFieldError,
    from_dict,
    json_schema,
)
from joyimage.edits.compound_forms import Box, Region, Size, Texts
from joyimage.edits.forms import Choice, Flag, Integer, Number, Text
from joyimage.errors import InvalidInputError
from joyimage.types import ImageSize

TINY = Defaults(num_inference_steps=4, guidance_scale=1.0)


def is_visible(text: str) -> bool:
    return any(one.isprintable() and not one.isspace() for one in text)


def values_of(form: Any) -> st.SearchStrategy[Any]:
    """Values that a form accepts, as Python has them."""
    number = st.floats(-1000, 1000, allow_nan=False)
    box = st.tuples(number, number, number, number)
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(is_visible)
    match form:
        case Integer():
            return st.integers(form.minimum, form.maximum)
        case Number():
            return st.floats(form.minimum, form.maximum, allow_nan=False)
        case Text():
            return text
        case Flag():
            return st.booleans()
        case Choice():
            return st.sampled_from(form.values)
        case Size():
            side = st.integers(1, 16_384)
            return st.builds(ImageSize, side, side)
        case Box():
            return box
        case Region():
            return st.one_of(box, st.just("mask.png"))
        case Texts():
            return st.lists(text.filter(lambda one: not one.strip().startswith("[")), min_size=1, max_size=3)
    raise AssertionError(f"no strategy for {form}")


@st.composite
def edits(draw: st.DrawFn) -> Any:
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    fields = {
        name: draw(values_of(one.form))
        for name, one in kind.settings().items()
        if one.is_required or draw(st.booleans())
    }
    if "seed" in fields:  # the last image needs a seed too
        fields["seed"] = min(fields["seed"], LARGEST_SEED + 1 - fields.get("num_images", 1))
    return kind.from_dict(fields)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b", "\ufeff\u2060", "\0", "\u00a0\u00ad"])
def test_text_when_invisible_then_rejected_as_empty(text: str) -> None:
    with pytest.raises(FieldError, match="not empty"):
        Edit.from_dict({"prompt": text})


@given(edits())
def test_dict_when_read_again_then_the_same_edit_and_plain_json(edit: Any) -> None:
    stored = json.loads(json.dumps(edit.to_dict()))

    assert from_dict(stored) == edit
    jsonschema.validate(stored, json_schema(type(edit)))


@given(edits())
def test_text_when_read_again_then_the_same_edit(edit: Any) -> None:
    assert type(edit).from_text(edit.to_text()) == edit


@given(edits())
def test_record_when_read_again_then_the_same_edit_and_what_it_was_made_with(edit: Any) -> None:
    if isinstance(edit, Camera):
        edit = edit.replace(yaw=45)
    record = Record(edit=edit, made_with={"model": "tiny", "base_size": 96})

    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@given(edits(), edits())
def test_fill_when_a_field_is_given_then_it_is_never_changed(edit: Any, other: Any) -> None:
    filled = edit.filled_from(other)

    assert filled.given() | edit.given() == filled.given()
    assert filled.given() == {k: v for k, v in other.given().items() if k in edit.settings()} | edit.given()


def test_resolve_when_nothing_is_given_then_the_checkpoints_defaults() -> None:
    edit = Edit(prompt="Remove the heart.").resolve(TINY)

    assert edit.sampling.num_inference_steps == 4
    assert edit.sampling.guidance_scale == 1.0
    assert edit.sampling.num_images == 1
    assert edit.sampling.seed is not None
    assert (edit.framing.fit, edit.framing.restore, edit.framing.preserve) == ("crop", False, False)


def test_resolve_when_given_then_kept_even_where_it_is_zero_or_false() -> None:
    edit = Edit(
        prompt="x",
        sampling=Sampling(num_inference_steps=40, guidance_scale=0.0, seed=0),
        framing=Framing(fit="pad", restore=False),
    ).resolve(TINY)

    assert edit.sampling.num_inference_steps == 40
    assert edit.sampling.guidance_scale == 0.0
    assert edit.sampling.seed == 0
    assert edit.framing.fit == "pad"


def test_resolve_when_a_box_is_in_fractions_then_pixels_of_the_image() -> None:
    move = Move(object="heart", box=(0.25, 0.5, 0.25, 0.5), box_form="xywh")

    resolved = move.resolve(TINY, ImageSize(200, 100))

    assert resolved.box == (50, 50, 100, 100)
    assert resolved.box_form == "xyxy"
    assert resolved.resolve(TINY, ImageSize(200, 100)) == resolved


def test_resolve_when_a_box_leaves_the_image_then_rejected_by_name() -> None:
    with pytest.raises(InvalidInputError, match="`box`"):
        Move(object="heart", box=(0, 0, 300, 10)).resolve(TINY, ImageSize(200, 100))
    with pytest.raises(InvalidInputError, match="`region`"):
        Edit(prompt="x", framing=Framing(region=(0, 0, 300, 10))).resolve(TINY, ImageSize(200, 100))


@pytest.mark.parametrize(
    "edit",
    [Edit(), Generate(), Move(object="heart"), Move(box=(0, 0, 1, 1)), Rotate(object="car"), Camera()],
)
def test_resolve_when_something_needed_is_missing_then_rejected(edit: Any) -> None:
    with pytest.raises(InvalidInputError):
        edit.resolve(TINY)


@pytest.mark.parametrize("kind", ["edit", "generate", "move", "rotate", "camera"])
@pytest.mark.parametrize("num", [1, 2, 1000])
def test_seed_when_the_last_image_would_have_none_then_rejected_before_work(kind: str, num: int) -> None:
    needed = {"prompt": "x", "object": "car", "box": (1, 1, 20, 20), "view": "left", "yaw": 45}
    fields = {name: value for name, value in needed.items() if name in KINDS[kind].settings()}
    largest = LARGEST_SEED + 1 - num

    edit = KINDS[kind].from_dict({**fields, "num_images": num, "seed": largest})
    assert edit.resolve(Defaults()).given()["seed"] == largest

    if largest < LARGEST_SEED:
        with pytest.raises(FieldError, match=f"at most {largest} for {num} consecutive seeds"):
            edit.replace(seed=largest + 1).resolve(Defaults())


@pytest.mark.parametrize(("width", "height"), [(12_000, 3), (3, 12_000), (201, 1)])
def test_exact_fit_when_no_model_takes_the_aspect_ratio_then_rejected_with_the_image_size(
    width: int, height: int
) -> None:
    edit = Edit.from_dict({"prompt": "x", "fit": "exact"})
    size = ImageSize(width, height)

    with pytest.raises(InvalidInputError, match=f"`fit` is 'exact' for an image of {width}x{height}"):
        edit.resolve(Defaults(), size)
    edit.replace(fit="crop").resolve(Defaults(), size)
    edit.replace(size="96x96").resolve(Defaults(), size)


def test_camera_when_it_does_not_move_then_rejected_and_when_it_does_then_not() -> None:
    for still in (Camera(), Camera(yaw=0), Camera(yaw=0, pitch=0, zoom="unchanged")):
        with pytest.raises(InvalidInputError, match="does not move"):
            still.resolve(TINY)
    for camera in (Camera(yaw=45), Camera(pitch=-15), Camera(zoom="in")):
        assert camera.resolve(TINY).prompt == camera.prompt


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_inference_steps", 0),
        ("num_inference_steps", 4.5),
        ("num_inference_steps", True),
        ("num_inference_steps", "4"),
        ("guidance_scale", -1),
        ("guidance_scale", math.nan),
        ("guidance_scale", math.inf),
        ("guidance_scale", "4"),
        ("seed", -1),
        ("seed", LARGEST_SEED + 1),
        ("seed", 2**64),
        ("num_images", 0),
        ("size", "512"),
        ("size", "0x512"),
        ("size", "²x²"),
        ("size", (512, 512)),
        ("prompt", ""),
        ("prompt", " \n"),
        ("prompt", ["a", "b"]),
        ("prompt", 5),
        ("prompt", "half \ud800 pair"),
        ("fit", "cover"),
        ("restore", "yes"),
        ("restore", 1),
        ("region", "5,5"),
        ("region", (1, 2, 3)),
        ("region", [1, 2, 3, math.nan]),
        ("loras", []),
        ("loras", [""]),
        ("loras", 5),
    ],
)
def test_field_when_not_accepted_then_named_with_value_and_what_is_expected(field: str, value: Any) -> None:
    with pytest.raises(FieldError) as caught:
        Edit.from_dict({"prompt": "x", field: value})

    assert caught.value.name == field
    assert f"`{field}`" in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(("yaw", "pitch"), [(500, 0), (-361, 0), (0, 90), (0, -90), (math.inf, 0)])
def test_camera_when_out_of_range_then_rejected(yaw: float, pitch: float) -> None:
    with pytest.raises(FieldError):
        Camera(yaw=yaw, pitch=pitch)


@pytest.mark.parametrize("field", ["seed", "guidance_scale", "num_images"])
def test_number_when_it_has_more_digits_than_a_float_then_rejected_by_name(field: str) -> None:
    for sign in (1, -1):
        for read in (Generate.from_dict, Generate.from_text):
            value = sign * 10**400
            with pytest.raises(FieldError, match=f"`{field}` is -?'?-?1000"):
                read({"prompt": "x", field: value if read == Generate.from_dict else str(value)})


def test_numbers_of_numpy_when_given_then_plain_ones() -> None:
    numbers: dict[str, Any] = {
        "num_inference_steps": np.int64(2),
        "guidance_scale": np.float32(1.5),
        "seed": np.uint8(7),
    }
    sampling = Sampling(**numbers)

    assert [type(one) for one in (sampling.num_inference_steps, sampling.seed)] == [int, int]
    assert sampling.guidance_scale == 1.5
    whole: Any = 20.0
    assert Sampling(num_inference_steps=whole).num_inference_steps == 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"steps": "4.0"}, {"num_inference_steps": 4}),
        ({"guidance": ""}, {}),
        ({"seed": str(LARGEST_SEED)}, {"seed": LARGEST_SEED}),
        ({"restore": "TRUE"}, {"restore": True}),
        ({"region": "[1, 2, 3, 4]"}, {"region": (1.0, 2.0, 3.0, 4.0)}),
        ({"region": "mask, 2.png"}, {"region": "mask, 2.png"}),
        ({"lora": '["a", "b:0.5"]'}, {"loras": ("a", "b:0.5")}),
        ({"lora": "a"}, {"loras": ("a",)}),
        ({"size": "64X32"}, {"size": ImageSize(64, 32)}),
    ],
)
def test_text_when_people_write_it_then_read(text: dict[str, str], expected: dict[str, Any]) -> None:
    assert Edit.from_text(text).given() == expected


@pytest.mark.parametrize("view", ["rear-left", "REAR_LEFT", "back left", " rear  left "])
def test_view_when_spelled_differently_then_one_value(view: str) -> None:
    assert Rotate(object="car", view=view).view == "rear left"


def test_aliases_when_both_names_agree_then_accepted_and_when_not_then_rejected() -> None:
    assert Edit.from_dict({"steps": 4, "num_inference_steps": 4}).sampling.num_inference_steps == 4
    with pytest.raises(InvalidInputError, match="`steps` and `num_inference_steps`"):
        Edit.from_dict({"steps": 4, "num_inference_steps": 5})


def test_field_when_unknown_then_the_nearest_is_named() -> None:
    with pytest.raises(UnknownFieldError, match="did you mean `num_inference_steps`"):
        Edit.from_dict({"num_inference_step": 4})
    with pytest.raises(UnknownFieldError, match="view"):
        Move.from_dict({"view": "left"})


def test_record_when_written_by_an_older_version_then_read() -> None:
    old = {
        "command": "move",
        "object": "blue car",
        "box": [8, 16, 40, 48],
        "box_form": "xyxy",
        "style": "documented",
        "prompt": "Move the blue car into the red box and finally remove the red box.",
        "negative": None,
        "model": "tiny",
        "version": "0.1.0",
        "steps": 4,
        "guidance": 1.0,
        "width": 96,
        "height": 64,
        "base_size": 96,
        "fit": "crop",
        "restore": True,
        "preserve": False,
        "region": None,
        "device": "cpu",
        "dtype": "float32",
        "lora": None,
        "input_sha256": "00",
        "seed": 7,
    }

    record = Record.from_dict(old)

    assert record.edit.to_dict() == {
        "kind": "move",
        "object": "blue car",
        "box": [8, 16, 40, 48],
        "box_form": "xyxy",
        "prompt_style": "documented",
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "seed": 7,
        "size": "96x64",
        "fit": "crop",
        "restore": True,
        "preserve": False,
    }
    assert record.made_with["model"] == "tiny"
    assert "command" not in record.made_with


@pytest.mark.parametrize(
    "data", [None, 5, "text", [1, 2], {}, {"kind": 5}, {"kind": "edit"}, {"kind": "paint"}]
)
def test_record_when_it_is_no_edit_then_one_sentence(data: Any) -> None:
    with pytest.raises(InvalidInputError):
        Record.from_dict(data)


def test_advice_when_off_the_trained_grid_or_a_small_box_then_one_sentence_each() -> None:
    assert len(Camera(yaw=44).advice()) == 1
    assert Camera(yaw=45).advice() == []
    assert len(Move(object="heart", box=(0, 0, 1, 50)).advice(ImageSize(100, 100))) == 1
    assert Describe().advice() == []


def test_import_when_fresh_then_neither_torch_nor_diffusers() -> None:
    heavy = "{'torch', 'diffusers', 'transformers'}"
    code = f"import sys, joyimage.edits; sys.exit(' '.join({heavy} & set(sys.modules)) or None)"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
