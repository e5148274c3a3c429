"""Download a published model: with progress, resumable, and every file checked against the hub's checksum.

huggingface_hub starts a file anew in each process; files of 30 GB deserve better, so the part that has arrived is
kept here, by its checksum, and continued by huggingface_hub's own transfer.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.utils import build_hf_headers  # pyright: ignore[reportUnknownVariableType]

from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.pipeline.hub import HUB_ERRORS, HUB_ID, PUBLISHED_MODEL, hub_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COMFY = "Comfy-Org/JoyAI-Image-Edit"
_PARTIAL_FOLDER = ".joyimage-download"
_FOLDER_SUFFIXES = {".json", ".safetensors", ".txt", ".jinja", ".md"}
"""Suffixes of the files of a checkpoint folder: no pickles, no example images."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A published model in one format.

    Attributes:
        repository: Hub id.
        gigabytes: Size of each file by its name, in GB of 10^9 bytes; one entry "" for a whole folder.
        parts: Part of the model → name of its file; empty for a whole folder.
    """

    repository: str
    gigabytes: dict[str, float]
    parts: dict[str, str]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files; empty for a whole folder."""
        return tuple(self.parts.values())

    def __str__(self) -> str:
        return _listed({name or "the whole folder": size for name, size in self.gigabytes.items()})


def _folder(repository: str) -> Variant:
    return Variant(repository=repository, gigabytes={"": 50.3}, parts={})


def _single_files(transformer: tuple[str, float], text_encoder: tuple[str, float]) -> Variant:
    vae = ("wan_2.1_vae.safetensors", 0.25)
    return Variant(
        repository=_COMFY,
        gigabytes=dict((transformer, text_encoder, vae)),
        parts={"transformer": transformer[0], "text_encoder": text_encoder[0], "vae": vae[0]},
    )


VARIANTS = {
    "bf16": _folder(PUBLISHED_MODEL),
    "plus": _folder("jdopensource/JoyAI-Image-Edit-Plus-Diffusers"),
    "int8": _single_files(
        ("joyai_image_edit_int8_convrot.safetensors", 16.43),
        ("qwen3vl_8b_joyimage_edit_int8_convrot.safetensors", 10.06),
    ),
    "bf16-files": _single_files(
        ("joyai_image_edit_bf16.safetensors", 32.5), ("qwen3vl_8b_joyimage_edit_bf16.safetensors", 17.0)
    ),
}
"""Name → published files of the model."""


@dataclass(frozen=True, kw_only=True)
class _HubFile:
    """A file of a repository.

    Attributes:
        name: Path in the repository.
        num_bytes: Size of the file.
        sha256: Checksum of its content; None for a small file, which git stores itself.
        git_sha1: git's own checksum of a small file.
    """

    name: str
    num_bytes: int
    sha256: str | None
    git_sha1: str | None

    def is_content_of(self, path: Path) -> bool:
        """Tell whether a file has the size and the checksum that the hub states."""
        if path.stat().st_size != self.num_bytes:
            return False
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % self.num_bytes)
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest() == (self.sha256 or self.git_sha1)


def download(
    what: str,
    output: Path | None = None,
    *,
    files: Sequence[str] = (),
    revision: str | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> tuple[Path, ...]:
    """Download a published model, or continue a download that was interrupted.

    Args:
        what: A name of `VARIANTS`, or a hub id.
        output: Folder to write to; the repository's name in the working folder if None.
        files: Names of the files to download; those of the variant, or the whole folder, if empty.
        revision: Branch, tag or commit; the main branch if None.
        announce: Called with one line about each file.

    Returns:
        The files, in place and checked.

    Raises:
        CheckpointError: The hub does not have the files, cannot be reached, or sent something else.
        InvalidInputError: `what` is unknown, or another file or too little room is where the files go.
    """
    variant = VARIANTS.get(what)
    if variant is None and not HUB_ID.match(what):
        raise InvalidInputError(
            f"`what` is {what!r}; expected {', '.join(VARIANTS)}, or a hub id such as {_COMFY}."
        )
    repository = what if variant is None else variant.repository
    wanted = tuple(files) or (() if variant is None else variant.files)
    needed = str(variant) if variant is not None and not files else ", ".join(wanted) or "the whole folder"
    commit, found = _find_files(repository, wanted, revision, needed)
    output = Path(PurePosixPath(repository).name) if output is None else output
    missing = [file for file in found if not _is_in_place(file, output, announce)]
    _check_room(missing, output)
    for number, file in enumerate(missing, start=1):
        announce(f"{file.name} ({number} of {len(missing)}, {_size(file.num_bytes)})")
        _download_file(repository, commit, file, output)
    if (output / _PARTIAL_FOLDER).is_dir():
        shutil.rmtree(output / _PARTIAL_FOLDER)
    return tuple(output / file.name for file in found)


def _find_files(
    repository: str, names: Sequence[str], revision: str | None, needed: str
) -> tuple[str, list[_HubFile]]:
    """Return the commit, and the files of a repository that are to be downloaded.

    Args:
        repository: Hub id.
        names: Names or paths of the files; empty for a checkpoint folder.
        revision: Branch, tag or commit.
        needed: What messages say is needed.

    Raises:
        CheckpointError: The hub cannot be reached, or lacks a file.
    """
    advice = (
        f"Nothing was downloaded. Needed from https://huggingface.co/{repository}: {needed}. Download them on a"
        " machine that reaches the hub, and copy them here."
    )
    if HF_HUB_OFFLINE:
        raise CheckpointError(f"The hub is switched off (HF_HUB_OFFLINE=1): unset it. {advice}")
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
    except HUB_ERRORS as error:
        reason = hub_reason(error)
        raise CheckpointError(f"{reason[0].upper()}{reason[1:]}. {advice}") from error
    siblings = cast("list[Any]", info.siblings or [])
    stored = {one.rfilename: one for one in siblings if ".." not in PurePosixPath(one.rfilename).parts}
    if names:
        paths = [path for name in names for path in stored if path == name or path.endswith(f"/{name}")]
        absent = [name for name in names if not any(f"/{path}".endswith(f"/{name}") for path in paths)]
        if absent:
            raise CheckpointError(
                f"{repository} has no file {absent[0]}; it has {', '.join(sorted(stored)[:20])}."
            )
    else:
        paths = [path for path in stored if PurePosixPath(path).suffix in _FOLDER_SUFFIXES]
    return str(info.sha), [_hub_file(stored[path]) for path in paths]


def _hub_file(sibling: Any) -> _HubFile:
    sha256 = None if sibling.lfs is None else sibling.lfs.sha256
    return _HubFile(
        name=sibling.rfilename, num_bytes=int(sibling.size), sha256=sha256, git_sha1=sibling.blob_id
    )


def _is_in_place(file: _HubFile, output: Path, announce: Callable[[str], None]) -> bool:
    """Tell whether a file was downloaded before.

    Raises:
        InvalidInputError: Another file has its name.
    """
    path = output / file.name
    if not path.exists():
        return False
    announce(f"{file.name} is here already; checking it")
    if not file.is_content_of(path):
        raise InvalidInputError(
            f"{path} exists, and is not the file of that name on the hub ({_size(file.num_bytes)}). Move it away,"
            " or choose another folder with --output."
        )
    return True


def _check_room(files: Sequence[_HubFile], output: Path) -> None:
    """Check that the files fit on the disk.

    Raises:
        InvalidInputError: They do not.
    """
    partial = output / _PARTIAL_FOLDER
    arrived = sum(path.stat().st_size for path in partial.glob("*")) if partial.is_dir() else 0
    needed = sum(file.num_bytes for file in files) - arrived
    folder = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InvalidInputError(
            f"The files take {_size(needed)}, and {folder} has {_size(free)} free. Choose another disk with --output."
        )


def _download_file(repository: str, commit: str, file: _HubFile, output: Path) -> None:
    """Download a file, or what is missing of it, and put it in place when its checksum is right.

    Raises:
        CheckpointError: The transfer broke off, or the content is not what the hub promised.
    """
    partial = output / _PARTIAL_FOLDER / f"{file.sha256 or file.git_sha1}"
    partial.parent.mkdir(parents=True, exist_ok=True)
    arrived = partial.stat().st_size if partial.is_file() else 0
    try:
        with partial.open("ab") as opened:
            http_get(
                hf_hub_url(repository, file.name, revision=commit),
                opened,
                resume_size=arrived,
                headers=build_hf_headers(),
                expected_size=file.num_bytes,
                displayed_filename=PurePosixPath(file.name).name,
            )
    except (*HUB_ERRORS, HfHubHTTPError) as error:
        arrived = partial.stat().st_size
        raise CheckpointError(
            f"The download of {file.name} broke off after {_size(arrived)} of {_size(file.num_bytes)}. Run the same"
            " command again to continue."
        ) from error
    if not file.is_content_of(partial):
        partial.unlink()
        raise CheckpointError(
            f"The downloaded {file.name} does not have the checksum that the hub states, so it was removed. Run the"
            " same command again to download it anew."
        )
    target = output / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(target)


def _listed(gigabytes: dict[str, float]) -> str:
    return ", ".join(f"{name} ({size:.1f} GB)" for name, size in gigabytes.items())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 10**8 else f"{num_bytes / 1e6:.1f} MB"
