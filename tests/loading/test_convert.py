"""From JD's original checkpoint to the published layout."""

from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from joyimage.cli.commands import convert as command
from joyimage.errors import CheckpointError, InvalidInputError
from joyimage.pipeline import conversion
from joyimage.pipeline.conversion import convert
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.edit_plus import JoyImageEditPlusPipeline
from tests import random_models
from tests.loading.original import (
    WIDE_TRANSFORMER,
    make_original_vae,
    transformer_weights,
    vae_weights,
    write_original,
)
from tests.loading.test_transformer import assert_same_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return transformer_weights(random_models.make_reference_transformer(**WIDE_TRANSFORMER))


@pytest.fixture(scope="module")
def original(checkpoint: Path, weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Original checkpoint in safetensors; to be read only."""
    folder = tmp_path_factory.mktemp("original") / "JoyAI-Image-Edit"
    return write_original(folder, checkpoint, transformer=weights)


@pytest.fixture(scope="module")
def pickled(checkpoint: Path, weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Original checkpoint in pickles, the transformer wrapped; to be read only."""
    folder = tmp_path_factory.mktemp("pickled") / "JoyAI-Image-Edit"
    return write_original(folder, checkpoint, transformer=weights, suffix=".pth", wrapped=True)


def assert_nothing_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_original_vae_names_are_other_names() -> None:
    keys = set(vae_weights(make_original_vae()))

    assert {
        "conv1.weight",
        "encoder.downsamples.0.residual.2.weight",
        "decoder.upsamples.3.time_conv.bias",
    } <= keys
    assert not keys & set(make_original_vae().state_dict())


@pytest.mark.parametrize("kind", ["original", "pickled"])
def test_convert_gives_a_folder_that_loads_with_the_same_weights(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    source: Path = request.getfixturevalue(kind)

    written = convert(source, tmp_path / "out", allow_pickle=kind == "pickled", max_shard_size="1MB")

    pipe = JoyImageEditPipeline.from_pretrained(written)
    assert_same_weights(pipe.transformer, random_models.make_reference_transformer(**WIDE_TRANSFORMER))
    assert_same_weights(pipe.vae, make_original_vae())
    assert_same_weights(pipe.text_encoder, random_models.make_text_encoder(random_models.make_tokenizer()))
    assert pipe.scheduler.config["shift"] == 1.5
    assert pipe.processor.image_processor.patch_size == 16
    assert list(tmp_path.iterdir()) == [written]


def test_convert_writes_sharded_safetensors_only(pickled: Path, tmp_path: Path) -> None:
    written = convert(pickled, tmp_path / "out", allow_pickle=True, max_shard_size="1MB")

    suffixes = {path.suffix for path in written.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".jinja", ".txt", ".safetensors"}
    assert len(list((written / "transformer").glob("*-of-*.safetensors"))) > 1
    assert (written / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()


def test_convert_when_asked_for_plus_names_its_classes(original: Path, tmp_path: Path) -> None:
    written = convert(original, tmp_path / "out", plus=True)

    index = json.loads((written / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "JoyImageEditPlusPipeline"
    assert index["transformer"] == ["diffusers", "JoyImageEditPlusTransformer3DModel"]
    assert type(JoyImageEditPlusPipeline.from_pretrained(written)) is JoyImageEditPlusPipeline


def test_convert_when_weights_are_pickled_wants_to_be_allowed(pickled: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Wan2\.1_VAE\.pth is a pickle.*--allow-pickle"):
        convert(pickled, tmp_path / "out")

    assert_nothing_left(tmp_path)


class _Harmful:
    ran = False

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _run, ()


def _run() -> None:
    _Harmful.ran = True


def test_convert_when_a_pickle_holds_code_never_runs_it(original: Path, tmp_path: Path) -> None:
    file = tmp_path / "harmful.pth"
    torch.save({"model": _Harmful()}, file)
    target = tmp_path / "target"
    target.mkdir()

    with pytest.raises(CheckpointError, match=r"harmful\.pth holds objects other than weights"):
        convert(original, target / "out", transformer=file, allow_pickle=True)

    assert not _Harmful.ran
    assert_nothing_left(target)
    with file.open("rb"):
        torch.load(file, weights_only=False)
    assert _Harmful.ran  # the file would have run it


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2])])
def test_convert_when_a_pickle_is_broken_names_the_file(
    original: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "broken.pth"
    file.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"broken\.pth"):
        convert(original, tmp_path / "out", transformer=file, allow_pickle=True)

    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("part", ["vae", "transformer", "text_encoder"])
def test_convert_when_a_part_is_missing_names_the_option(original: Path, tmp_path: Path, part: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    others: dict[str, Any] = {
        "vae": original / "vae",
        "transformer": original / "transformer",
        "text_encoder": original / "JoyAI-Image-Und",
    }
    del others[part]

    with pytest.raises(CheckpointError, match=f"--{part.replace('_', '-')}"):
        convert(source, tmp_path / "out", **others)

    assert not (tmp_path / "out").exists()


def test_convert_when_parts_are_elsewhere_takes_them_from_there(original: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()

    written = convert(
        source,
        tmp_path / "out",
        transformer=original / "transformer" / "transformer.safetensors",
        vae=original / "vae",
        text_encoder=original / "JoyAI-Image-Und",
    )

    assert (written / "model_index.json").is_file()


def test_convert_when_heads_are_narrow_takes_the_config_given(
    original: Path, checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "narrow.pth"
    torch.save(transformer_weights(random_models.make_reference_transformer()), file)

    with pytest.raises(CheckpointError, match="can't tell their `rope_dim_list`"):
        convert(original, tmp_path / "out", transformer=file, allow_pickle=True)
    written = convert(
        original,
        tmp_path / "out",
        transformer=file,
        allow_pickle=True,
        transformer_config=checkpoint / "transformer" / "config.json",
    )

    pipe = JoyImageEditPipeline.from_pretrained(written)
    assert_same_weights(pipe.transformer, random_models.make_reference_transformer())


def test_convert_when_the_vae_is_none_names_the_key(original: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"transformer\.safetensors lacks `encoder\.conv1\.weight`"):
        convert(original, tmp_path / "out", vae=original / "transformer")

    assert_nothing_left(tmp_path)


def test_convert_when_the_output_exists_rejects(original: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`output` must be a new folder"):
        convert(original, tmp_path)


def test_convert_when_the_disk_is_full_leaves_nothing(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "write_weights", fail)

    with pytest.raises(OSError, match="No space left"):
        convert(original, tmp_path / "out")

    assert_nothing_left(tmp_path)


def test_command_converts_and_prints_the_folder(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.convert(original, tmp_path / "out")

    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    assert (tmp_path / "out" / "model_index.json").is_file()


def test_convert_when_the_source_is_a_file_says_what_it_is_and_how_to_give_it(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save({}, file)

    with pytest.raises(CheckpointError, match=r"model\.pth is a pickled PyTorch.*--transformer .*model\.pth"):
        convert(file, tmp_path / "out")


def test_convert_when_a_pickle_is_not_allowed_says_so_before_other_parts_are_read(
    original: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(original, tmp_path / "source")
    shutil.rmtree(source / "transformer")
    torch.save({}, tmp_path / "model.pth")
    (source / "JoyAI-Image-Und" / "tokenizer_config.json").unlink()

    with pytest.raises(CheckpointError, match=r"model\.pth is a pickle.*--allow-pickle"):
        convert(source, tmp_path / "out", transformer=tmp_path / "model.pth")


def test_convert_when_the_vae_is_published_with_its_config_takes_both(
    original: Path, checkpoint: Path, tmp_path: Path
) -> None:
    written = convert(original, tmp_path / "out", vae=checkpoint / "vae")

    published = JoyImageEditPipeline.from_pretrained(checkpoint).vae
    assert_same_weights(JoyImageEditPipeline.from_pretrained(written).vae, published)


def test_convert_when_the_shard_size_cannot_be_read_says_so_before_the_source_is_looked_at(
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidInputError, match="`max_shard_size` must be a number"):
        convert(tmp_path / "missing", tmp_path / "out", max_shard_size="many")
