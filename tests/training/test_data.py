"""Training pairs from every documented form, and what is wrong with them before anything is loaded."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from joyimage.errors import InvalidInputError
from joyimage.spatial.red_box import find_red_boxes
from joyimage.training.config import DataConfig
from joyimage.training.data.alignment import find_shift, shift_image
from joyimage.training.data.examples import Example, ImageSource
from joyimage.training.data.sources import read_examples, section_of_folder
from joyimage.training.framing import Checkpoint, frame_example
from joyimage.training.order import draw_batches
from tests.training.pairs import CAPTION, scene, write_pairs

if TYPE_CHECKING:
    from pathlib import Path

TINY = Checkpoint(model="tiny", takes_several=False, base_size=96)
SEVERAL = Checkpoint(model="plus", takes_several=True, base_size=96)


def save(path: Path, number: int = 0, size: tuple[int, int] = (96, 96)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(number)).resize(size).save(path)
    return path


def read(section: DataConfig) -> list[Example]:
    return read_examples([section])[0]


def names(example: Example) -> tuple[str, list[str]]:
    return example.target.path.name, [one.path.name for one in example.references]


def test_folders_when_partners_have_the_same_names_then_paired_with_captions_beside_them(
    tmp_path: Path,
) -> None:
    write_pairs(tmp_path, 3)
    (tmp_path / "target/0001.txt").write_text("Something else.\n")

    found = read(
        DataConfig(target=tmp_path / "target", control=(tmp_path / "control",), caption=CAPTION, held_out=0)
    )

    assert [names(one) for one in found] == [(f"000{n}.png", [f"000{n}.png"]) for n in range(3)]
    assert [one.caption for one in found] == [CAPTION, "Something else.", CAPTION]


def test_folders_when_references_are_numbered_or_in_several_folders_then_in_order(tmp_path: Path) -> None:
    save(tmp_path / "t/a.png")
    for name in ("r/a_0.png", "r/a_1.png", "r/a_10.png", "r2/a.jpg"):
        save(tmp_path / name)

    (one,) = read(
        DataConfig(target=tmp_path / "t", control=(tmp_path / "r", tmp_path / "r2"), caption="x", held_out=0)
    )

    assert names(one)[1] == ["a_0.png", "a_1.png", "a_10.png", "a.jpg"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "control/0001.png").unlink(), r"1 of 3 images .* no reference: .*0001"),
        (lambda folder: save(folder / "target/0001.jpg"), "two images of one name"),
        (lambda folder: [one.unlink() for one in (folder / "target").iterdir()], "holds no images"),
    ],
)
def test_folders_when_incomplete_then_the_message_lists_what_is_missing(
    tmp_path: Path, spoil: Any, words: str
) -> None:
    write_pairs(tmp_path, 3)
    spoil(tmp_path)

    with pytest.raises(InvalidInputError, match=words):
        read(DataConfig(target=tmp_path / "target", control=(tmp_path / "control",), caption="x"))


def test_folders_when_a_caption_is_missing_then_listed(tmp_path: Path) -> None:
    write_pairs(tmp_path, 2)

    with pytest.raises(InvalidInputError, match=r"no caption.*0000\.png, 0001\.png"):
        read(DataConfig(target=tmp_path / "target", control=(tmp_path / "control",)))


TABLES: dict[str, tuple[str, str]] = {
    "our rows": ("pairs.jsonl", '{"image": "b.png", "target": "a.png", "prompt": "P."}\n'),
    "musubi": ("m.jsonl", '{"image_path": "a.png", "control_path": "b.png", "caption": "P."}\n'),
    "musubi, several": (
        "m.jsonl",
        '{"image_path": "a.png", "control_path_1": "c.png", "control_path_0": "b.png", "caption": "P."}\n',
    ),
    "DiffSynth": ("metadata.csv", "image,edit_image,prompt\na.png,b.png,P.\n"),
    "our CSV": ("pairs.csv", "image,target,prompt\nb.png,a.png,P.\n"),
}


@pytest.mark.parametrize("form", TABLES)
def test_table_when_in_a_known_form_then_the_same_pair(tmp_path: Path, form: str) -> None:
    for number, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", number)
    name, content = TABLES[form]
    (tmp_path / name).write_text(content)

    (one,) = read(DataConfig(pairs=str(tmp_path / name), held_out=0))

    assert names(one) == ("a.png", ["b.png", "c.png"] if "several" in form else ["b.png"])
    assert one.caption == "P."


def test_table_when_simpletuners_backends_then_conditioning_folders_are_references(tmp_path: Path) -> None:
    write_pairs(tmp_path, 2)
    backends = [
        {
            "id": "edited",
            "instance_data_dir": "target",
            "conditioning_data": "plain",
            "instance_prompt": "P.",
        },
        {"id": "plain", "instance_data_dir": "control", "dataset_type": "conditioning"},
    ]
    (tmp_path / "multidatabackend.json").write_text(json.dumps(backends))

    found = read(DataConfig(pairs=str(tmp_path / "multidatabackend.json"), held_out=0))

    assert [names(one) for one in found] == [(f"000{n}.png", [f"000{n}.png"]) for n in range(2)]
    assert {one.caption for one in found} == {"P."}


@pytest.mark.parametrize(
    ("row", "prompt", "box"),
    [
        (
            {"object": "green heart", "box": [0.25, 0.25, 0.5, 0.5]},
            "Move the green heart into the red box and finally remove the red box.",
            (24, 24, 48, 48),
        ),
        ({"object": "car", "view": "left"}, "Rotate the car to show the left side view.", None),
        ({"yaw": 45}, None, None),
    ],
)
def test_table_when_a_row_is_a_spatial_edit_then_the_trained_prompt_and_the_box(
    tmp_path: Path, row: dict[str, Any], prompt: str | None, box: tuple[int, ...] | None
) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", 1)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"image": "b.png", "target": "a.png", **row}))

    (one,) = read(DataConfig(pairs=str(tmp_path / "pairs.jsonl"), held_out=0))
    framed = frame_example(one, TINY)

    assert one.box == box
    if prompt is not None:
        assert one.caption == prompt
    else:
        assert "45" in one.caption
    assert find_red_boxes(framed.references[0]) == ([] if box is None else [box])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"image": "b.png", "prompt": "P."}', "row 1: it lacks `target`"),
        ('{"image": "b.png", "target": "gone.png", "prompt": "P."}', r"row 1: there is no file .*gone\.png"),
        ('{"image": "b.png", "target": "a.png"}', "row 1: it lacks a prompt"),
        ('{"image": "b.png", "target": "a.png", "object": "x", "box": [1]}', "row 1: its `box`"),
        ("[1]", "row 1: it is list"),
        ("{", "not JSON"),
    ],
)
def test_table_when_a_row_is_no_pair_then_the_message_gives_file_and_row(
    tmp_path: Path, line: str, words: str
) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "pairs.jsonl").write_text(line)

    with pytest.raises(InvalidInputError, match=words):
        read(DataConfig(pairs=str(tmp_path / "pairs.jsonl")))


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(scene(number)).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_shard_when_as_spatialedit_then_the_last_image_is_the_target(tmp_path: Path) -> None:
    turns = {"conversations": [{"value": "<image>\nRotate it."}, {"value": "Done."}]}
    write_shard(
        tmp_path / "shard-0.tar",
        {"k.0.jpg": jpeg(0), "k.1.jpg": jpeg(1), "k.json": json.dumps(turns).encode()},
    )

    (one,) = read(DataConfig(pairs=str(tmp_path / "shard-*.tar"), held_out=0))

    assert one.caption == "Rotate it."
    assert np.abs(np.asarray(one.target.open(), float) - scene(1)).mean() < 5
    assert np.abs(np.asarray(one.references[0].open(), float) - scene(0)).mean() < 5


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"k.0.jpg": b"x", "k.json": b"{}"}, "1 image"),
        ({"k.0.jpg": b"x", "k.1.jpg": b"x"}, "lacks a prompt"),
        ({"k.0.jpg": b"x", "k.1.jpg": b"x", "k.json": b"{"}, "not JSON"),
        ({"readme": b"x"}, "holds no pairs"),
    ],
)
def test_shard_when_incomplete_then_the_message_names_shard_and_key(
    tmp_path: Path, members: dict[str, bytes], words: str
) -> None:
    write_shard(tmp_path / "s.tar", members)

    with pytest.raises(InvalidInputError, match=rf"s\.tar.*{words}"):
        read(DataConfig(pairs=str(tmp_path / "s.tar")))


def test_folder_of_pairs_when_given_alone_then_its_form_is_found(tmp_path: Path) -> None:
    write_pairs(tmp_path / "folders", 1)
    (tmp_path / "table").mkdir()
    (tmp_path / "table/metadata.csv").write_text("x")
    (tmp_path / "empty").mkdir()

    assert section_of_folder(tmp_path / "folders", "x").control == (tmp_path / "folders/control",)
    assert section_of_folder(tmp_path / "table").pairs == str(tmp_path / "table/metadata.csv")
    with pytest.raises(InvalidInputError, match="holds no pairs"):
        section_of_folder(tmp_path / "empty")
    with pytest.raises(InvalidInputError, match="no folder"):
        section_of_folder(tmp_path / "gone")


def test_held_out_when_pairs_are_added_then_every_pair_stays_on_its_side(tmp_path: Path) -> None:
    write_pairs(tmp_path, 24)
    section = DataConfig(
        target=tmp_path / "target", control=(tmp_path / "control",), caption="x", held_out=0.3
    )
    before = {one.name for one in read_examples([section])[1]}
    write_pairs(tmp_path, 12, first=24)

    training, held_out = read_examples([section])

    assert 2 <= len(before) <= 14
    assert before <= {one.name for one in held_out}
    assert not {one.name for one in training} & {one.name for one in held_out}


def example(target: Path, *references: Path) -> Example:
    return Example(
        target=ImageSource(path=target),
        references=tuple(ImageSource(path=one) for one in references),
        caption="x",
    )


def test_framing_when_images_are_wide_then_width_and_height_stay_apart(tmp_path: Path) -> None:
    pair = example(save(tmp_path / "a.png", size=(320, 160)), save(tmp_path / "b.png", size=(320, 160)))

    framed = frame_example(pair, TINY)

    width, height = framed.target.size
    assert width > height
    assert framed.references[0].size == (width, height)
    assert framed.notes == ()


def test_framing_when_shapes_differ_then_noted_and_several_references_need_plus(tmp_path: Path) -> None:
    tall, wide = save(tmp_path / "t.png", size=(96, 192)), save(tmp_path / "w.png", size=(192, 96))

    assert "unlike shapes" in " ".join(frame_example(example(tall, wide), TINY).notes)
    with pytest.raises(InvalidInputError, match="2 references; tiny takes one"):
        frame_example(example(tall, tall, wide), TINY)
    both = frame_example(example(wide, tall, wide), SEVERAL)
    assert both.references[0].size[0] < both.references[0].size[1]
    assert both.target.size == both.references[1].size


@given(
    across=st.integers(-6, 6),
    down=st.integers(-6, 6),
    number=st.integers(0, 40),
)
@settings(deadline=None, max_examples=25)
def test_shift_when_a_photo_is_moved_then_found_to_the_pixel_and_otherwise_not(
    across: int, down: int, number: int
) -> None:
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    image = coarse.resize((128, 128), Image.Resampling.BICUBIC)
    moved = shift_image(image, across, down)

    found = find_shift(np.asarray(image.convert("L")), np.asarray(moved.convert("L")))

    assert found == (None if (across, down) == (0, 0) else (across, down))


def test_alignment_when_wanted_then_the_target_is_moved_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).resize((96, 96))
    image.save(tmp_path / "b.png")
    shift_image(image, 3, -2).save(tmp_path / "a.png")
    pair = example(tmp_path / "a.png", tmp_path / "b.png")

    plain, aligned = frame_example(pair, TINY), frame_example(pair, TINY, align=True)

    assert "shifted by 3,-2 pixels" in plain.notes[0]
    difference = np.abs(np.asarray(aligned.target, float) - np.asarray(image, float))[8:-8, 8:-8]
    assert difference.max() == 0


@pytest.mark.parametrize("number", range(12))
def test_shift_when_a_scene_is_edited_in_place_then_none(number: int) -> None:
    from joyimage.tiny.worlds.scenes import generate

    case = generate("recolor", number)
    assert case.source is not None

    assert (
        find_shift(*(np.asarray(Image.fromarray(one).convert("L")) for one in (case.source, case.target)))
        is None
    )


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    batch_size=st.integers(1, 4),
    num=st.integers(1, 30),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=40)
def test_batches_when_drawn_then_one_shape_each_and_longer_runs_begin_with_shorter_ones(
    sizes: list[int], batch_size: int, num: int, seed: int
) -> None:
    groups = [list(range(sum(sizes[:n]), sum(sizes[: n + 1]))) for n in range(len(sizes))]
    shapes = [index % 2 for index in range(sum(sizes))]
    options = {"batch_size": batch_size, "seed": seed}

    short = draw_batches(groups, [1.0] * len(groups), shapes, num_batches=num, **options)
    long = draw_batches(groups, [1.0] * len(groups), shapes, num_batches=num + 7, **options)

    assert long[:num] == short
    assert all(len(batch) == batch_size and len({shapes[one] for one in batch}) == 1 for batch in long)


def test_batches_when_sections_have_weights_then_drawn_in_proportion() -> None:
    batches = draw_batches([[0, 1], [2, 3]], [3.0, 1.0], [0] * 4, batch_size=1, num_batches=80, seed=0)

    assert sum(one < 2 for (one,) in batches) == 60
    assert {one for (one,) in batches} == {0, 1, 2, 3}
