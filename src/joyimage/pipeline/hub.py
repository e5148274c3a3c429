"""Find a checkpoint: a registered name, a folder on this machine, or an id on the hub."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from joyimage.checkpoints import registered_folder, registered_names
from joyimage.errors import CheckpointError
from joyimage.model.file_kind import describe_as_model

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

PUBLISHED_MODEL = "jdopensource/JoyAI-Image-Edit-Diffusers"
"""Hub id of the published checkpoint in the layout that is read here."""

_ORIGINAL_IDS = {"jdopensource/JoyAI-Image-Edit": PUBLISHED_MODEL}
"""Hub id of a checkpoint in the original code's layout → hub id of its weights in the published layout."""

_HTTPError: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
"""Base of all errors of the HTTP library that the installed huggingface_hub uses."""

HUB_ERRORS = (OSError, _HTTPError, HFValidationError, EntryNotFoundError)
"""What huggingface_hub, its HTTP library and diffusers raise for what is not on the hub or does not arrive."""

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


def find_folder(model: str) -> Path | None:
    """Return the folder of a checkpoint on this machine, or None if `model` is a hub id.

    Args:
        model: A checkpoint folder, a hub id, or a registered name.

    Raises:
        CheckpointError: It is none of the three.
    """
    folder = registered_folder(model)
    if folder is not None:
        return folder
    path = Path(model)
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(describe_as_model(path))
    if model in _ORIGINAL_IDS:
        raise CheckpointError(
            f"{model} has the layout of the original code: use {_ORIGINAL_IDS[model]}, or download it and run"
            " `joyimage convert FOLDER OUTPUT`."
        )
    if not HUB_ID.match(model):
        raise CheckpointError(
            f"There is no folder {model}: expected a checkpoint folder, a hub id such as {PUBLISHED_MODEL},"
            f" or {' or '.join(map(repr, registered_names()))}."
        )
    return None


def fetch_index(model: str, kwargs: Mapping[str, Any]) -> Path:
    """Return the `model_index.json` of a hub id, downloaded where the cache lacks it.

    It comes before the weights: it tells in one small request whether the hub has the checkpoint.

    Args:
        model: The hub id.
        kwargs: Arguments of `from_pretrained`; those for the hub are passed on.

    Raises:
        CheckpointError: The file is neither in the cache nor on the hub, or the hub cannot be reached.
    """
    names = ("cache_dir", "revision", "token", "force_download", "local_files_only")
    hub = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    with hub_errors(model):
        path: str = cast("Any", hf_hub_download)(model, "model_index.json", **hub)
        return Path(path)


@contextmanager
def download_hint(model: str) -> Generator[None]:
    """Add to a message about a downloaded checkpoint how to download it again.

    Raises:
        CheckpointError: That of the block, with the hint.
    """
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{error} Run `hf download {model} --force-download`.") from error


@contextmanager
def hub_errors(model: str) -> Generator[None]:
    """Raise one sentence for what huggingface_hub, its HTTP library and diffusers say about a model.

    Raises:
        CheckpointError: The model cannot be downloaded.
    """
    try:
        yield
    except HUB_ERRORS as error:
        size = "about 50 GB, " if model == PUBLISHED_MODEL else ""
        raise CheckpointError(
            f"{model} is not a folder on this machine, and {hub_reason(error)}. Download it with"
            f" `hf download {model}` ({size}into the local cache), or give the folder that has it."
        ) from error


def hub_reason(error: BaseException) -> str:
    """Return what went wrong with the hub, from the first error of a chain that says so."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for kinds, reason in (
        ((GatedRepoError,), "the hub requires you to accept its terms and log in (`hf auth login`)"),
        ((RepositoryNotFoundError,), "the hub has no such public model"),
        ((RevisionNotFoundError,), "the hub has no such revision of it"),
        ((EntryNotFoundError,), "it has no model_index.json on the hub"),
    ):
        if any(isinstance(one, kinds) and not isinstance(one, LocalEntryNotFoundError) for one in chain):
            return reason
    if HF_HUB_OFFLINE:
        return "the hub is switched off (HF_HUB_OFFLINE=1)"
    return "the hub cannot be reached"
