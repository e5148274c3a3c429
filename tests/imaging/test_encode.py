"""Image files are written whole or not at all, with the record inside, where and how the user's system wants it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

import pytest
from PIL import Image, PngImagePlugin

from joyimage.errors import ImageError
from joyimage.imaging import (
    SUFFIXES,
    check_output,
    clear_partial,
    read_record,
    write_image,
    write_text,
    write_whole,
)

RECORD = {
    "kind": "edit",
    "prompt": "Färbe das Herz 橙色 \U0001f9e1",
    "seed": 2**53 - 1,
    "negative_prompt": None,
}
IMAGE = Image.new("RGB", (32, 16), "red")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".PNG"])
def test_record_when_written_in_any_format_then_read_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"made{suffix}"

    write_image(IMAGE, path, RECORD)

    assert read_record(path) == RECORD
    with Image.open(path) as image:
        assert image.size == (32, 16)


def test_record_when_the_format_holds_none_or_none_is_wanted_then_none(tmp_path: Path) -> None:
    write_image(IMAGE, tmp_path / "a.bmp", RECORD)
    write_image(IMAGE, tmp_path / "a.png")

    assert read_record(tmp_path / "a.bmp") is None
    assert read_record(tmp_path / "a.png") is None


def test_record_when_too_large_for_a_jpeg_then_the_image_is_written_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="only PNG holds it"):
        write_image(IMAGE, tmp_path / "a.jpg", {"prompt": "x" * 70_000})

    assert read_record(tmp_path / "a.jpg") is None


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "5", '"text"', "null", "NaN", "[" * 100_000])
def test_record_when_it_is_no_object_then_one_sentence_with_the_file(tmp_path: Path, text: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("joyimage", text)
    path = tmp_path / "made.png"
    IMAGE.save(path, pnginfo=info)

    if not text:
        assert read_record(path) is None
        return
    with pytest.raises(ImageError, match=r"record in .*made\.png can't be read"):
        read_record(path)


def test_metadata_when_given_then_kept_and_nothing_else_of_the_input(tmp_path: Path) -> None:
    image = IMAGE.copy()
    image.info = {
        "dpi": (72, 72),
        "comment": b"private",
        "exif": b"Exif\0\0II*\0",
        "xmp": b"<gps/>",
        "icc_profile": b"x",
    }
    for name in ("a.jpg", "a.png", "a.tiff"):
        write_image(image, tmp_path / name, RECORD, dpi=(300, 300), date="2026:01:31 12:00:00")

        with Image.open(tmp_path / name) as made:
            assert [round(float(number)) for number in made.info["dpi"]] == [300, 300]
            assert made.getexif().get_ifd(0x8769)[0x9003] == "2026:01:31 12:00:00"
        content = (tmp_path / name).read_bytes()
        assert b"private" not in content
        assert b"gps" not in content


def test_transparency_when_the_format_has_none_then_on_white(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.bmp"):
        write_image(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), tmp_path / name)

        with Image.open(tmp_path / name) as made:
            assert made.convert("L").getextrema()[0] > 250  # pyright: ignore[reportOperatorIssue]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002, 0o000])
def test_mode_when_the_file_is_new_then_as_the_umask_says_and_kept_afterwards(
    tmp_path: Path, umask: int
) -> None:
    path = tmp_path / "made.png"
    before = os.umask(umask)
    try:
        write_image(IMAGE, path)
        assert mode_of(path) == 0o666 & ~umask
        path.chmod(0o600)
        write_image(IMAGE, path)
    finally:
        os.umask(before)

    assert mode_of(path) == 0o600


def test_secret_when_written_then_never_readable_by_others(tmp_path: Path) -> None:
    write_whole(tmp_path / "key", lambda file: file.write(b"x"), mode=0o600)

    assert mode_of(tmp_path / "key") == 0o600


def test_link_when_written_to_then_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target.png", tmp_path / "link.png"
    link.symlink_to(target)

    write_image(IMAGE, link)
    write_image(IMAGE, link, RECORD)

    assert link.is_symlink()
    assert read_record(target) == RECORD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "link.png"]


def test_name_when_as_long_as_the_system_allows_then_written_and_when_longer_then_rejected(
    tmp_path: Path,
) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    write_image(IMAGE, path)

    assert path.exists()
    with pytest.raises(ImageError, match="too long"):
        check_output(tmp_path / ("n" * 252 + ".png"))


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_file_when_writing_fails_then_the_old_one_stays_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "made.txt"
    write_text(path, "old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        if moment == "write":
            fail()

    if moment == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    if moment == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ImageError, match="No space left"):
        write_whole(path, write)

    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["made.txt"]


def test_partial_when_a_process_was_killed_then_cleared_and_others_stay(tmp_path: Path) -> None:
    path, other = tmp_path / "made.png", tmp_path / "other.png"

    def die(file: IO[bytes]) -> None:
        file.write(b"half")
        left = next(
            one
            for one in tmp_path.iterdir()
            if one.name.startswith(".joyimage-") and not one.name.endswith("x")
        )
        left.rename(tmp_path / f"{left.name}x")  # as if no one came to clean up

    for one in (path, other):
        with pytest.raises(ImageError):
            write_whole(one, die)
    assert len(list(tmp_path.iterdir())) == 2
    clear_partial(path)

    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "name", ["made", "made.gif", "made.heic", "missing/made.png", "folder.png", "file.txt/made.png"]
)
def test_output_when_it_cannot_be_written_then_rejected_before_the_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").write_text("x")
    before = sorted(tmp_path.iterdir())

    with pytest.raises(ImageError, match="output"):
        check_output(tmp_path / name)

    assert sorted(tmp_path.iterdir()) == before


def test_output_when_checked_then_nothing_is_left_and_every_format_is_accepted(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        check_output(tmp_path / f"made{suffix}")

    assert list(tmp_path.iterdir()) == []


def test_output_when_the_folder_is_not_writable_then_rejected(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="can't be written"):
        check_output(Path("/sys/made.png"))
