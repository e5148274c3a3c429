"""Speed presets: what each of them leaves out of the steps of an edit, as values.

"exact" leaves out nothing that changes the image. The others trade a stated amount of agreement with it for fewer
forwards; docs/speed.md has the prices.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SpeedPreset:
    """What an edit leaves out.

    Attributes:
        threshold: SeaCache's budget: how far the target may change, relative to itself and summed over the steps,
            before all blocks are computed again; None computes all blocks in every step.
        max_reused_steps: Maximum number of consecutive steps that reuse what the blocks added earlier.
        num_full_steps: Number of steps at the start that always compute all blocks.
        guidance_sigmas: Noise levels (from, to), both in [0, 1], between which there is guidance.
        guidance_period: The unconditional branch runs in one of so many steps with guidance; in the others, the
            difference between the branches is that of the last such step.
    """

    threshold: float | None = None
    max_reused_steps: int = 2
    num_full_steps: int = 1
    guidance_sigmas: tuple[float, float] = (0.0, 1.0)
    guidance_period: int = 1

    @property
    def reuses_steps(self) -> bool:
        """Whether a step cache runs."""
        return self.threshold is not None

    def has_guidance_at(self, sigma: float) -> bool:
        """Return whether there is guidance at a noise level."""
        start, end = self.guidance_sigmas
        return start <= sigma <= end

    def __str__(self) -> str:
        """Describe the preset for a reader."""
        parts: list[str] = []
        if self.reuses_steps:
            parts.append(
                f"SeaCache with threshold {self.threshold:g}, at most {self.max_reused_steps} consecutive reused steps"
            )
        if self.guidance_sigmas != (0.0, 1.0):
            start, end = self.guidance_sigmas
            parts.append(f"guidance at noise levels {start:g} to {end:g}")
        if self.guidance_period > 1:
            parts.append(f"unconditional branch in one of {self.guidance_period} steps")
        return "; ".join(parts) or "all blocks in every step"


EXACT = "exact"
TURBO = "turbo"

PRESETS: dict[str, SpeedPreset] = {
    EXACT: SpeedPreset(),
    "balanced": SpeedPreset(threshold=0.3, guidance_sigmas=(0.0, 0.9), guidance_period=2),
    "fast": SpeedPreset(threshold=0.4, guidance_sigmas=(0.0, 0.83), guidance_period=2),
}
"""Presets of a checkpoint that was not calibrated: measured on the embedded model, 16 steps, guidance 3."""
