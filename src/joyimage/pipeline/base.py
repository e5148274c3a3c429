"""The steps that all pipelines share: check, encode, draw, denoise, decode."""

# Annotations are real types here, as in `parts.py`.

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from joyimage.acceleration.parallel import EditGroup, GuidanceGroup
from joyimage.acceleration.presets import EXACT, PRESETS, TURBO, SpeedPreset
from joyimage.acceleration.step_reuse import check_preset, reusing_steps
from joyimage.acceleration.tensor_parallel import TensorGroup
from joyimage.advice import advise
from joyimage.compat.torch import without_compiler
from joyimage.devices import GUIDANCE, TENSOR
from joyimage.edits import Defaults
from joyimage.edits.parts import unused_negative_prompt
from joyimage.errors import InvalidInputError
from joyimage.pipeline.adapters import defaults_of
from joyimage.pipeline.callbacks import TENSOR_NAMES, StepCallback
from joyimage.pipeline.calls import DefaultGuidance, DefaultSchedule, DefaultSpeed, DefaultSteps
from joyimage.pipeline.candidates import Halving
from joyimage.pipeline.checks import check_callback, check_parts, checked_prompt_count
from joyimage.pipeline.conditioning import Conditioning, encode_conditioning
from joyimage.pipeline.images import (
    ModelImage,
    to_pixels,
)
from joyimage.pipeline.inputs import PromptInputs, SamplingInputs
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.pipeline.parts import PipelineParts
from joyimage.pipeline.schedule import TURBO_SCHEDULE, Scheduler, set_schedule, shifted
from joyimage.pipeline.vae import encode_frame
from joyimage.types import ImageSize, LatentSize

LAYOUTS: dict[str, type[GuidanceGroup] | type[TensorGroup]] = {GUIDANCE: GuidanceGroup, TENSOR: TensorGroup}
"""How processes share an edit."""


class JoyImagePipeline(PipelineParts):
    """Base of the JoyAI-Image-Edit pipelines: the state of a call and its steps."""

    takes_several_images: ClassVar[bool] = False
    """Whether the call's argument is `images`, a list of references, rather than `image`."""

    _default_negative_prompt: ClassVar[str] = ""
    _callback_tensor_inputs: ClassVar[list[str]] = list(TENSOR_NAMES)  # diffusers' name

    speed_presets: dict[str, SpeedPreset] = PRESETS
    """What each value of `speed` leaves out; `joyimage calibrate` measures them for a checkpoint."""

    processes: EditGroup | None = None
    """The processes that share an edit; see `parallel`."""

    # State of the running call.
    _speed: str = EXACT
    _interrupt: bool = False
    _guidance_scale: float = 1.0
    _num_timesteps: int = 0
    halving: Halving | None = None  # set while candidates run
    _current_timestep: Tensor | None = None

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the running call, or of the last one."""
        return self._guidance_scale

    @property
    def speed(self) -> str:
        """Speed preset of the running call, or of the last one."""
        return self._speed

    @property
    def preset(self) -> SpeedPreset:
        """What the running call leaves out, or the last one."""
        return self._preset_of(self._speed)

    @property
    def defaults(self) -> Defaults:
        """What a call uses where the caller gives nothing: the active turbo adapter's, or the checkpoint's own."""
        recipe = self.transformer.active_recipe()
        if recipe is None:
            return Defaults(
                num_inference_steps=self.config["default_num_inference_steps"],
                guidance_scale=self.config["default_guidance_scale"],
            )
        return defaults_of(recipe)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the running call has an unconditional branch."""
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        """Whether the loop ends after the current step; set `_interrupt` to ask for it."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the running call, or of the last one."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the running step, which step caches ask for; None outside of the loop."""
        return self._current_timestep

    @current_timestep.setter
    def current_timestep(self, timestep: Tensor | None) -> None:
        self._current_timestep = timestep

    def check_inputs(
        self,
        prompt: str | list[str] | None,
        height: int | None,
        width: int | None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_embeds_mask: Tensor | None = None,
        negative_prompt_embeds_mask: Tensor | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        **settings: Any,
    ) -> int:
        """Reject arguments that a call cannot work with; they are named as in `JoyImageEditPipeline.__call__`.

        Returns:
            Number of prompts.

        Raises:
            InvalidTypeError: An argument is of a wrong type.
            InvalidInputError: An argument is out of range or does not fit another.
        """
        prompts = PromptInputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            prompt_embeds_mask=prompt_embeds_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_embeds_mask=negative_prompt_embeds_mask,
        )
        callback = StepCallback.of(None, callback_on_step_end_tensor_inputs)
        return self._checked_call(prompts, SamplingInputs(height=height, width=width, **settings), callback)[
            0
        ]

    def _checked_call(
        self, prompts: PromptInputs, sampling: SamplingInputs, callback: StepCallback
    ) -> tuple[int, SamplingInputs]:
        """Check what does not depend on images.

        Returns:
            Number of prompts; and `sampling` with the checkpoint's own defaults where the caller gave none.

        Raises:
            InvalidTypeError: An argument is of a wrong type.
            InvalidInputError: An argument is out of range or does not fit another.
        """
        check_callback(callback.function, callback.tensor_names, self._callback_tensor_inputs)
        check_parts(self)
        sampling = self._with_defaults(sampling)
        self._check_speed(sampling.speed)
        num_prompts = checked_prompt_count(prompts, sampling, text_dim=self.transformer.config["text_dim"])
        if prompts.has_negative and sampling.guidance_scale <= 1:
            advise(unused_negative_prompt(sampling.guidance_scale))
        return num_prompts, sampling.as_plain_numbers()

    def _with_defaults(self, sampling: SamplingInputs) -> SamplingInputs:
        """Return how to sample, with the defaults of the adapter or checkpoint where the caller gave nothing."""
        defaults, changes = self.defaults, dict[str, Any]()
        if isinstance(sampling.num_inference_steps, DefaultSteps):
            changes["num_inference_steps"] = defaults.num_inference_steps
        if isinstance(sampling.guidance_scale, DefaultGuidance):
            changes["guidance_scale"] = defaults.guidance_scale
        if isinstance(sampling.speed, DefaultSpeed):
            changes["speed"] = defaults.speed
        if isinstance(sampling.schedule, DefaultSchedule) and defaults.speed == TURBO:
            changes["schedule"] = TURBO_SCHEDULE
        return replace(sampling, **changes)

    def parallel(self, num_processes: int, layout: str = GUIDANCE) -> None:
        """Share every edit with other processes.

        All processes load the same pipeline and make the same calls; all of them return the images. Draws, latents,
        guidance scale and interruption are those of process 0. A process that ends, ends the others within 10 s.

        Args:
            num_processes: 2, 4 or 8, which `torchrun --nproc-per-node` has started and `torch.distributed` has
                connected. 1 ends the sharing where nothing is divided.
            layout: "guidance": each process runs one guidance branch of a step, and from 4 processes on a part of its
                tokens. "tensor": each holds a slice of the transformer's layers and runs all branches, for devices
                that cannot hold the whole transformer; load the pipeline in host memory, call this, and move it to the
                device. Adapters are sliced with their layers, also those loaded later; quantized layers are not
                sliced. What is divided stays so until the pipeline is loaded again.

        Raises:
            InvalidInputError: Another number of processes is connected, the layout does not exist, or the model cannot
                be divided so.
        """
        if layout not in LAYOUTS:
            raise InvalidInputError(f"`layout` is {layout!r}; expected {', '.join(LAYOUTS)}.")
        if num_processes != 1:
            self.processes = LAYOUTS[layout].join(num_processes, without_compiler(self.transformer))
        elif self.processes is not None and self.processes.divided is not None:
            raise InvalidInputError(
                f"`num_processes` is 1, but {self.processes.divided} are divided; load the pipeline again."
            )
        else:
            self.processes = None

    def follow(self, processes: EditGroup, like: Tensor) -> None:
        """Take over from process 0 whether the loop ends, and the guidance scale."""
        interrupt, scale = processes.share_settings(float(self._interrupt), self._guidance_scale, like=like)
        self._interrupt, self._guidance_scale = bool(interrupt), scale

    def _check_speed(self, name: str) -> None:
        """Reject a speed preset that this pipeline does not have, or cannot run now.

        Raises:
            InvalidInputError: It does not exist, needs an adapter, or meets a step cache of the caller.
        """
        if name == TURBO:
            if self.transformer.active_recipe() is None:
                raise InvalidInputError(
                    f'`speed` is "{TURBO}", which needs a turbo adapter, and none is active; load one with '
                    f"`load_lora_weights`, or choose one of {', '.join(self.speed_presets)}."
                )
        elif not isinstance(cast("object", name), str) or name not in self.speed_presets:
            raise InvalidInputError(
                f"`speed` is {name!r}; expected one of {', '.join((*self.speed_presets, TURBO))}."
            )
        check_preset(self.transformer, name, self._preset_of(name))

    def _preset_of(self, name: str) -> SpeedPreset:
        """Return what a preset leaves out; "turbo" computes all of its few steps."""
        return SpeedPreset() if name == TURBO else self.speed_presets[name]

    def _latent_shape(self, size: ImageSize) -> tuple[int, ...]:
        """Return the shape of one output's latents, `[C, 1, H/8, W/8]`."""
        latent = LatentSize.of(size, self.vae_scale_factor_spatial)
        return self.transformer.config["in_channels"], 1, latent.height, latent.width

    @contextmanager
    def _running(self, sampling: SamplingInputs) -> Generator[torch.device]:
        """Hold the state of a call, and free what belongs to it at the end.

        Args:
            sampling: How the call samples, checked.

        Yields:
            The device that the call runs on.
        """
        self._guidance_scale = sampling.guidance_scale
        self._speed = sampling.speed
        self._interrupt = False
        try:
            recipe = self.transformer.active_recipe()
            with (
                reusing_steps(self.transformer, self.preset),
                shifted(cast("Scheduler", self.scheduler), recipe and recipe.shift),
                self.transformer.scaled_adapters(float((sampling.attention_kwargs or {}).get("scale", 1))),
            ):
                yield self.compute_device
        finally:
            self.maybe_free_model_hooks()  # empties step caches as well

    def _encode_conditioning(
        self,
        prompts: PromptInputs,
        images: list[list[ModelImage]] | None,
        sampling: SamplingInputs,
        num_prompts: int,
        device: torch.device,
    ) -> Conditioning:
        """Encode the prompts of both guidance branches about the images of each prompt."""

        def encode_batch(texts: list[str], num_branches: int) -> tuple[Tensor, Tensor]:
            groups = None if images is None else images * num_branches
            return self._encode_texts(texts, groups, device, sampling.max_sequence_length)

        return encode_conditioning(
            prompts,
            encode_batch,
            device,
            num_prompts=num_prompts,
            num_images_per_prompt=sampling.num_images_per_prompt,
            default_negative_prompt=self._default_negative_prompt,
            guided=self.do_classifier_free_guidance,
        )

    def _set_schedule(self, sampling: SamplingInputs, device: torch.device) -> None:
        """Set the noise levels of a call."""
        scheduler = cast("Scheduler", self.scheduler)
        set_schedule(
            scheduler,
            sampling.num_inference_steps,
            device,
            timesteps=sampling.timesteps,
            sigmas=sampling.sigmas,
            schedule=sampling.schedule,
        )
        self._num_timesteps = len(scheduler.timesteps)

    def _encode_images(
        self, images: Sequence[ModelImage], device: torch.device
    ) -> dict[str, DiagonalGaussianDistribution]:
        """Return the VAE's posterior of each distinct image, by its digest."""
        dtype = next(self.vae.parameters()).dtype
        posteriors: dict[str, DiagonalGaussianDistribution] = {}
        for image in images:
            if image.digest in posteriors:
                continue

            def compute(image: ModelImage = image) -> DiagonalGaussianDistribution:
                return encode_frame(self.vae, to_pixels([image.rgb], device, dtype))

            key = ("posterior", self.vae, dtype, device, image.digest)
            posteriors[image.digest] = (
                compute() if self._feature_cache is None else self._feature_cache.get_or_compute(key, compute)
            )
        return posteriors

    def _output(
        self,
        images: Any,
        size: ImageSize,
        *,
        return_dict: bool,
        masks: Any = None,
    ) -> JoyImageEditPipelineOutput | tuple[Any]:
        """Return the result of a call, as an object or as a tuple."""
        if not return_dict:
            return (images,)
        return JoyImageEditPipelineOutput(
            images=images, height=size.height, width=size.width, interrupted=self._interrupt, masks=masks
        )
