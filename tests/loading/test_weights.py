"""Files of weights: shards, sizes, what can't be written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from joyimage.errors import CheckpointError
from joyimage.model.checkpoint.shards import (
    find_weight_files,
    parse_size,
    read_headers,
    read_weights,
    write_weights,
)

if TYPE_CHECKING:
    from pathlib import Path


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(min_value=0, max_value=50), min_size=1, max_size=8),
    limit_bytes=st.integers(min_value=1, max_value=400),
)
def test_write_weights_then_read_weights_gives_the_same(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], limit_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    weights = {f"part.{number}": torch.randn(length) for number, length in enumerate(lengths)}

    write_weights(weights, folder, "model", limit_bytes)

    files = find_weight_files(folder, "model")
    read = read_weights(files)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], value) for key, value in weights.items())
    assert {key: stored.shape for key, stored in read_headers(folder, "model").items()} == {
        key: tuple(value.shape) for key, value in weights.items()
    }
    for file in files:
        held = [weights[key].nbytes for key in read_weights([file])]
        assert sum(held) <= limit_bytes or len(held) == 1


def test_write_weights_when_tensors_share_memory_writes_each(tmp_path: Path) -> None:
    whole = torch.arange(10.0)

    write_weights({"first": whole[:5], "second": whole[5:], "turned": whole.view(2, 5).T}, tmp_path, "model")

    read = read_weights(find_weight_files(tmp_path, "model"))
    assert read["second"].tolist() == [5, 6, 7, 8, 9]
    assert torch.equal(read["turned"], whole.view(2, 5).T)


def test_write_weights_when_the_file_cannot_be_written_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()

    with pytest.raises(OSError, match=re.escape(str(tmp_path / "model.safetensors"))):
        write_weights({"weight": torch.zeros(1)}, tmp_path, "model")


def test_read_weights_when_two_files_have_one_key_names_it(tmp_path: Path) -> None:
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for file in files:
        save_file({"weight": torch.zeros(1)}, file)

    with pytest.raises(CheckpointError, match=r"second\.safetensors has `weight`, which another file"):
        read_weights(files)


@pytest.mark.parametrize(
    ("size", "expected"), [("5GB", 5 * 10**9), ("300KB", 300_000), ("1.5 mb", 1_500_000), (12, 12)]
)
def test_parse_size_reads_units(size: str | int, expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["5", "", "GB", "-1GB", "5TB", "five GB"])
def test_parse_size_when_it_is_none_says_what_one_looks_like(size: str) -> None:
    with pytest.raises(ValueError, match="`max_shard_size` must be a number and one of KB, MB and GB"):
        parse_size(size)
