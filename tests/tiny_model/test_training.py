"""The training program from nothing to a checkpoint that loads, at a few steps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from joyimage.errors import CheckpointError
from joyimage.model import attention
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.prompts import prefix_length
from joyimage.tiny import vae as tiny_vae
from joyimage.tiny.checkpoint import build_image_processor, build_tokenizer, build_vae
from joyimage.tiny.language import STREAM_SCALE
from joyimage.tiny.objective import ExplicitAttnProcessor, use_explicit_attention
from joyimage.tiny.pairs import GROUPS, render_pairs
from joyimage.tiny.train import train_tiny
from joyimage.tiny.worlds.scenes import TASKS, generate
from joyimage.training.text_states import encode_prompts, to_patches
from joyimage.training.trainer import averaged_weights
from tests import random_models

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("short_corpus")


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory, short_corpus: None) -> Path:
    """A run of two VAE steps and, in two goes, three editing steps."""
    path = tmp_path_factory.mktemp("run")
    train_tiny(path, stage="vae", vae_steps=2, progress=False)
    train_tiny(path, stage="edit", edit_steps=1, num_pairs=64, progress=False)
    train_tiny(path, stage="edit", edit_steps=2, num_pairs=64, progress=False)
    train_tiny(path, stage="export", progress=False)
    return path


def test_training_when_run_then_logs_every_stage_and_resumes(run_path: Path) -> None:
    entries = [json.loads(line) for line in (run_path / "log.jsonl").read_text().splitlines()]

    assert [(entry["stage"], entry["step"]) for entry in entries] == [("vae", 2), ("edit", 1), ("edit", 2)]
    assert all(np.isfinite(entry["loss"]) for entry in entries)


def test_training_when_exported_then_checkpoint_loads_with_its_own_defaults_and_edits(run_path: Path) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(run_path / "checkpoint")
    case = generate("remove", 900_000)

    output: Any = pipe(image=case.source_image, prompt=case.prompt, num_inference_steps=1, guidance_scale=1.0)

    assert pipe.config["default_num_inference_steps"] == 4
    assert output.images[0].size == (96, 96)
    size_bytes = sum(file.stat().st_size for file in (run_path / "checkpoint").rglob("*") if file.is_file())
    assert size_bytes < 25_000_000


def test_training_when_latents_are_kept_then_read_only_for_the_same_vae(run_path: Path) -> None:
    (kept,) = run_path.glob("latents-*.safetensors")

    before = kept.stat().st_mtime_ns
    train_tiny(run_path, stage="edit", edit_steps=2, num_pairs=64, progress=False)

    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stage": "polish"}, "`stage`"),
        ({"edit_steps": 0}, "`edit_steps`"),
        ({"num_pairs": -1}, "`num_pairs`"),
    ],
)
def test_training_when_an_argument_is_wrong_then_rejected(
    tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        train_tiny(tmp_path / "run", **arguments)

    assert not (tmp_path / "run").exists()


def test_training_when_no_vae_was_trained_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="vae stage"):
        train_tiny(tmp_path, stage="edit", num_pairs=8, progress=False)


def test_training_when_the_embedded_model_continues_then_latents_and_answers_stay(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for stage in ("vae", "edit"):
        train_tiny(path, stage=stage, vae_steps=2, edit_steps=2, num_pairs=16, start="tiny", progress=False)
    train_tiny(path, stage="export", start="tiny", progress=False)

    before = JoyImageEditPipeline.from_pretrained("tiny")
    after = JoyImageEditPipeline.from_pretrained(path / "checkpoint")

    def changed(part: str) -> set[str]:
        old, new = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        return {name for name in old if not torch.equal(old[name], new[name])}

    assert not changed("text_encoder")
    assert not any("_name_or_path" in file.read_text() for file in path.glob("checkpoint/*/config.json"))
    assert {name.split(".")[0] for name in changed("vae")} <= {"decoder", "post_quant_conv"}
    assert changed("vae")
    assert changed("transformer")


def test_decoder_loss_when_edges_are_soft_then_their_contrast_tells() -> None:
    sharp = torch.from_numpy(generate("add", 1).target).permute(2, 0, 1)[None].float() / 127.5 - 1
    soft = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1, count_include_pad=False)

    contrasts = [tiny_vae._contrast(image) for image in (sharp, soft)]

    assert contrasts[0].shape == (1, 3, 24, 24)
    assert float(contrasts[1].mean()) < 0.8 * float(contrasts[0].mean())
    assert float(tiny_vae._contrast(torch.zeros_like(sharp)).max()) == pytest.approx(0.01)


def test_pairs_when_rendered_then_every_task_and_the_same_again(tmp_path: Path) -> None:
    pairs = render_pairs(tmp_path, 24, progress=False)
    again = render_pairs(tmp_path, 24, progress=False)

    assert {TASKS[task] for task in pairs.tasks} == set(TASKS) == {task for group in GROUPS for task in group}
    assert np.array_equal(pairs.targets, again.targets)
    case = generate(TASKS[0], 0)
    assert np.array_equal(pairs.targets[0], case.target)
    assert pairs.prompts[0] == case.prompt


def test_tokenizer_when_conversations_begin_then_prefix_keeps_its_length() -> None:
    tokenizer = build_tokenizer()

    system = prefix_length(tokenizer)

    for task in TASKS:
        prompt = generate(task, 7).prompt
        assert tokenizer.decode(tokenizer(prompt).input_ids) == prompt
    assert 20 < system < 60
    assert len(tokenizer) < 700


def test_patches_when_cut_then_as_the_image_processor_does() -> None:
    images = [generate("recolor", seed).source for seed in (1, 2)]

    got = to_patches(torch.from_numpy(np.stack([image for image in images if image is not None])))

    from PIL import Image

    images = [Image.fromarray(image) for image in images if image is not None]
    expected = build_image_processor()(images=images, return_tensors="pt")["pixel_values"]
    assert torch.allclose(got, expected, atol=1e-6)


def test_prompts_when_encoded_in_a_batch_then_as_the_pipeline_encodes_them(run_path: Path) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(run_path / "checkpoint")
    cases = [generate("move", 3), generate("remove", 4)]
    expected = [
        pipe.encode_prompt_multiple_images(case.prompt, images=[case.source_image])[0] for case in cases
    ]
    tokenizer = pipe.tokenizer
    image = "<|vision_start|>" + "<|image_pad|>" * 9 + "<|vision_end|>"
    from joyimage.tiny.checkpoint import SYSTEM_TURN

    texts = [
        f"{SYSTEM_TURN}<|im_start|>user\n{image}{case.prompt}<|im_end|>\n<|im_start|>assistant\n"
        for case in cases
    ]
    tokens = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    pixels = torch.from_numpy(np.stack([np.asarray(case.source_image) for case in cases]))

    with torch.no_grad():
        states, mask = encode_prompts(
            pipe.text_encoder,
            tokens,
            pixels,
            prefix_length(tokenizer),
            tokenizer.get_vocab()[str(tokenizer.pad_token)],
        )

    for row, alone in enumerate(expected):
        length = alone.shape[1]
        assert mask is None or int(mask[row].sum()) == length
        assert torch.allclose(states[row, :length], alone[0], atol=1e-4)


def test_explicit_attention_when_masked_then_agrees_with_the_kernel() -> None:
    query, key, value = (torch.randn(2, 7, 3, 8) for _ in range(3))
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 5:] = False

    for chosen in (None, mask):
        got = ExplicitAttnProcessor().attend(query, key, value, chosen)
        assert torch.allclose(got, attention.attend(query, key, value, chosen), atol=1e-5)


def test_explicit_attention_when_used_then_of_that_transformer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels: list[str] = []
    attend = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *args, **kw: (kernels.append(""), attend(*args, **kw))[1])
    trained, other = random_models.make_transformer(), random_models.make_transformer()
    torch.manual_seed(0)
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(1, 2, 16, 1, 4, 4),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 5, trained.config["text_dim"]),
        "return_dict": False,
    }

    use_explicit_attention(trained)
    explicit = trained(**inputs)[0]

    assert kernels == []
    assert torch.allclose(explicit, other(**inputs)[0], atol=1e-5)
    assert len(kernels) == len(other.double_blocks)


def test_posterior_when_exported_then_a_twentieth_of_the_noise_is_left(run_path: Path) -> None:
    pipe = JoyImageEditPipeline.from_pretrained(run_path / "checkpoint")
    raw = build_vae().eval()
    raw.load_state_dict(averaged_weights(run_path, "vae", "vae"))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1

    with torch.no_grad():
        mean, log_variance = tiny_vae.encode_moments(raw, pixels)
        shipped_mean, shipped_log_variance = tiny_vae.encode_moments(pipe.vae, pixels)

    assert torch.allclose(shipped_mean, mean, atol=0.02)  # fp16 weights
    ratio = (shipped_log_variance - log_variance).mul(0.5).exp()
    assert torch.allclose(ratio, torch.tensor(1 / 20), atol=2e-3)


def test_training_when_it_starts_from_a_checkpoint_then_its_vae_stays_and_new_scenes_are_seen(
    run_path: Path, tmp_path: Path
) -> None:
    start = run_path / "checkpoint"

    made = train_tiny(
        tmp_path,
        edit_steps=1,
        num_pairs=64,
        read_steps=1,
        num_readings=64,
        start=str(start),
        progress=False,
    )

    before, after = (JoyImageEditPipeline.from_pretrained(folder) for folder in (start, made))
    for name, tensor in before.vae.state_dict().items():
        assert torch.equal(tensor, after.vae.state_dict()[name]), name
    weights = dict(after.transformer.state_dict())
    weights["condition_embedder.text_embedder.linear_1.weight"] *= STREAM_SCALE  # reading states this small
    moved = [
        float((tensor - weights[name]).abs().max())
        for name, tensor in before.transformer.state_dict().items()
    ]
    assert max(moved) > 0
    assert max(moved) < 0.1  # continued, not drawn anew
    assert (tmp_path / "pairs-64-from-100000").is_dir()


def test_pairs_when_rendered_then_some_prompts_leave_the_color_out_where_the_shape_says_enough(
    tmp_path: Path,
) -> None:
    pairs = render_pairs(tmp_path, 400, progress=False)

    for task in ("remove", "replace", "move"):
        prompts = [p for p, number in zip(pairs.prompts, pairs.tasks, strict=True) if TASKS[number] == task]
        cases = [generate(task, seed) for seed in range(len(prompts))]
        short = [prompt != case.prompt for prompt, case in zip(prompts, cases, strict=True)]
        assert 0.2 < sum(short) / len(short) < 0.6
        for prompt, case, is_short in zip(prompts, cases, short, strict=True):
            assert case.subject is not None
            if is_short:
                assert case.subject.color not in prompt.split(" with ")[0]
                assert sum(one.shape == case.subject.shape for one in case.before) == 1
