"""`JoyImageEditPlusPipeline`: edit with several reference pictures, each at its own size."""

# Annotations are real types here, as in `edit.py`.

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from PIL.Image import Image
from torch import Tensor

from joyimage.errors import InvalidInputError
from joyimage.pipeline.calls import DefaultGuidance, DefaultSteps, serialized
from joyimage.pipeline.denoise import denoise, group_references
from joyimage.pipeline.edit import JoyImageEditPipeline
from joyimage.pipeline.images import is_nested, to_pictures
from joyimage.pipeline.inputs import check_divisible, check_latents
from joyimage.pipeline.latents import Generators, draw_noise, draw_posterior, resolve_dtype
from joyimage.pipeline.output import JoyImageEditPipelineOutput
from joyimage.pipeline.schedule import set_schedule

_NEGATIVE_PROMPT = " "  # As trained: one blank, where Edit has none.


class JoyImageEditPlusPipeline(JoyImageEditPipeline):
    """Edit by instruction with several references, such as a person, a dress and a place.

    Every reference goes in at the trained size nearest to its own shape; the output takes any size that 16
    divides. Arguments of the constructor as in `JoyImageEditPipeline`.
    """

    _picture_argument = "images"
    _published_steps = 30
    _takes_fit = False

    @serialized
    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = DefaultSteps(30),
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float = DefaultGuidance(4.0),
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        max_sequence_length: int = 4096,
        enable_denormalization: bool = True,
        schedule: str = "diffusers",
        reference_latents: str = "mode",
        latents_dtype: str | torch.dtype | None = None,
    ) -> JoyImageEditPipelineOutput | tuple[Any]:
        """Make a picture from `images` as `prompt` says; without images, from the prompt alone.

        Args:
            images: References of any kind that `JoyImageEditPipeline` takes: a list, which every prompt gets,
                or one list per prompt, whose lengths may differ.
            prompt: What to do.
            height: Height of the output in pixels, divisible by 16; with `width`. None: of the trained size
                that the last reference has.
            width: Width of the output in pixels.
            num_inference_steps: Number of denoising steps. Where it is not given, the checkpoint's own: 30 for the
                published one.
            timesteps: Custom timesteps; their number is the number of steps.
            sigmas: Custom noise levels, likewise.
            guidance_scale: Classifier-free guidance; off at 1 and below. Where it is not given, the checkpoint's
                own: 4.0 for the published one.
            negative_prompt: What to stay away from; None is one blank.
            num_images_per_prompt: Outputs per prompt.
            generator: One for all outputs or one each; it covers every draw.
            latents: The target's starting noise, `[outputs, C, 1, H/8, W/8]`.
            prompt_embeds: Made by `encode_prompt` or `encode_prompt_multiple_images`; then without `prompt`.
            prompt_embeds_mask: Goes with it.
            negative_prompt_embeds: Likewise for the negative prompt.
            negative_prompt_embeds_mask: Goes with it.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: Whether to return the output object; else a tuple.
            callback_on_step_end: `f(pipe, step, timestep, tensors) -> tensors`, or a `PipelineCallback`.
            callback_on_step_end_tensor_inputs: Tensors it is given; None: the target's latents.
            max_sequence_length: Most tokens kept with pictures.
            enable_denormalization: Whether latents are standardized with the VAE's statistics.
            schedule: "diffusers" or "jd", see `set_schedule`.
            reference_latents: "mode" or "sample" of the VAE's posterior.
            latents_dtype: Precision of latents and guidance between steps; None: that of the embeddings.

        Returns:
            Pictures in the order prompt 0 first to last output, prompt 1, and so on.

        Raises:
            TypeError: An argument is of a wrong type.
            InvalidInputError: An argument is out of range or doesn't fit another.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        callback_tensors = callback_on_step_end_tensor_inputs or ["latents"]
        num_inference_steps, guidance_scale = self._own_defaults(num_inference_steps, guidance_scale)

        # 1. Refuse what can't work.
        num_prompts = self.check_inputs(
            prompt,
            height,
            width,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            prompt_embeds_mask,
            negative_prompt_embeds_mask,
            callback_tensors,
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
            output_type=output_type,
            schedule=schedule,
            reference_latents=reference_latents,
        )
        num_inference_steps, num_images_per_prompt = int(num_inference_steps), int(num_images_per_prompt)
        height, width = (None if side is None else int(side) for side in (height, width))
        check_divisible(height, width, 2 * self.vae_scale_factor_spatial)
        groups = None if images is None else _share_out(images, num_prompts)
        num_outputs = num_prompts * num_images_per_prompt
        if height is not None and width is not None:
            size = height, width
        else:
            last = [group[-1] for group in groups] if groups else None
            size = self.image_processor.choose_size(last)
        check_latents(latents, (num_outputs, *self._latent_shape(size)))

        # 2. Bring each reference to its own size.
        if groups is not None:
            fitted = {id(picture): self._fit(picture) for group in groups for picture in group}
            groups = [[fitted[id(picture)] for picture in group] for group in groups]
        self._guidance_scale = guidance_scale
        self._interrupt = False
        device = self._execution_device

        try:
            # 3. Read pictures and prompts.
            embeds, masks = self._encode_branches(
                num_prompts,
                {"prompt_embeds": prompt, "negative_prompt_embeds": negative_prompt or _NEGATIVE_PROMPT},
                {
                    "prompt_embeds": (prompt_embeds, prompt_embeds_mask),
                    "negative_prompt_embeds": (negative_prompt_embeds, negative_prompt_embeds_mask),
                },
                groups,
                device,
                max_sequence_length,
                num_images_per_prompt,
                has_negative=self.do_classifier_free_guidance,
            )

            # 4. Set the noise levels.
            set_schedule(
                self.scheduler,
                num_inference_steps,
                device,
                timesteps=timesteps,
                sigmas=sigmas,
                schedule=schedule,
            )
            self._num_timesteps = len(self.scheduler.timesteps)

            # 5. Draw each output's noise and its references' latents.
            dtype = resolve_dtype(latents_dtype, embeds["prompt_embeds"])
            noise: list[Tensor] = []
            references: list[list[Tensor]] = []
            posteriors: dict[str, Any] = {}
            for output in range(num_outputs):
                own = [generator[output]] if isinstance(generator, list) else generator
                if latents is None:
                    noise.append(draw_noise((1, *self._latent_shape(size)), own, device, dtype))
                else:
                    noise.append(latents[output : output + 1].to(device, dtype))
                references.append(
                    [
                        self._draw_reference(
                            picture, posteriors, own, reference_latents, enable_denormalization
                        ).to(dtype)
                        for picture in (groups[output // num_images_per_prompt] if groups else ())
                    ]
                )

            # 6. Denoise.
            target = denoise(
                self,
                torch.stack(noise),
                group_references(references, device),
                embeds,
                masks,
                callback=callback_on_step_end,
                callback_tensors=callback_tensors,
                show=lambda latents: latents[:, 0],
                unshow=lambda latents: latents.unsqueeze(1),
            )

            # 7. Decode the target.
            pictures: Any = self._decode(target, output_type, enable_denormalization)
        finally:
            self._finish()
        if not return_dict:
            return (pictures,)
        return JoyImageEditPipelineOutput(
            images=pictures, height=size[0], width=size[1], interrupted=self._interrupt
        )

    def _fit(self, picture: Image) -> Image:
        return self.image_processor.fit(picture, *self.image_processor.choose_size([picture]))

    def _draw_reference(
        self,
        picture: Image,
        posteriors: dict[str, Any],
        generator: Generators,
        how: str,
        enable_denormalization: bool,
    ) -> Tensor:
        """Return a reference's latents `[C, 1, H, W]`; `posteriors` keeps what is encoded already."""
        posterior = self._encode_picture(picture, self._execution_device, posteriors)
        latents = draw_posterior([posterior], [0], generator, how)
        return (self.normalize_latents(latents) if enable_denormalization else latents)[0]


def _share_out(images: Any, num_prompts: int) -> list[list[Image]]:
    """Give every prompt its references.

    Raises:
        TypeError: A picture is none.
        InvalidInputError: There are lists for another number of prompts, or an empty one.
    """
    if not is_nested(images):
        return [to_pictures(images, "images")] * num_prompts
    if len(images) != num_prompts:
        raise InvalidInputError(
            f"`images` holds {len(images)} lists for {num_prompts} prompts; expected one list for each, "
            "or one flat list for all."
        )
    return [to_pictures(group, "images") for group in images]
