"""A job's record as clients see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joyimage.edits import Describe
from joyimage.serving.jobs.plan import PlanTask, load_task, steps_made
from joyimage.serving.jobs.task import Task, UnreadableJobError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from joyimage.serving.jobs.records import Job


def job_record(
    job: Job,
    *,
    progress: tuple[int, int] | None,
    position: int | None,
    address: Callable[[str, int], str],
) -> dict[str, Any]:
    """Return a job's record as clients see it.

    Args:
        job: The job.
        progress: Number of the last finished step, and number of steps; None before the first.
        position: Place of a queued job; None for others.
        address: Returns the address of one of the job's "images", "masks" or "inputs".
    """
    result = job.result or {}
    try:
        task = load_task(job.task)
    except UnreadableJobError:
        task = None
    plan = None
    if isinstance(task, PlanTask):
        plan, task = _steps(job, task, address), None
    edit = None if task is None else task.edit
    sampling = None if edit is None or isinstance(edit, Describe) else edit.sampling
    given_prompt = None if edit is None else edit.given().get("prompt")
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "state": job.state,
        "position": position,
        "progress": None if progress is None else {"step": progress[0], "steps": progress[1]},
        "restarted": job.restarted,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "expires_at": job.expires_at,
        "edit": None if task is None else task.given,
        "plan": plan,
        "has_mask": task is not None and task.has_mask,
        "seed": result.get("seed", None if sampling is None else sampling.seed),
        "steps": None if sampling is None else sampling.num_inference_steps,
        "guidance": None if sampling is None else sampling.guidance_scale,
        "width": result.get("width"),
        "height": result.get("height"),
        "prompt": result.get("prompt") or given_prompt,
        "text": result.get("text"),
        "checks": result.get("checks"),
        "verdicts": result.get("verdicts"),
        "candidates": result.get("candidates"),
        "memory": result.get("memory"),
        "reused": result.get("reused"),
        "warnings": [] if task is None else warnings_of(task, result),
        "images": [address("images", n) for n in range(job.count("images"))],
        "masks": [address("masks", n) for n in range(job.count("masks"))],
        "inputs": [address("inputs", n) for n in range(job.count("inputs"))],
        "error": job.error and _error(job.error),
    }


def warnings_of(task: Task, result: Mapping[str, Any]) -> list[str]:
    """Return what the client should know of a job: what was noticed when it came, and when it ran."""
    return list(dict.fromkeys([*task.warnings, *result.get("warnings", ())]))


def _error(error: dict[str, Any]) -> dict[str, Any]:
    """Return message and code of an error, and the step of a plan that failed, from 1."""
    where = {"plan_step": error["plan_step"]} if "plan_step" in error else {}
    return {"message": error.get("message"), "code": error.get("code"), **where}


def _steps(job: Job, plan: PlanTask, address: Callable[[str, int], str]) -> list[dict[str, Any]]:
    """Return the steps of a plan as clients see them."""
    made = steps_made(job)
    states = {"succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled", "running": "running"}
    steps: list[dict[str, Any]] = []
    for number, task in enumerate(plan.steps):
        known = made[number] if number < len(made) else {}
        given = task.edit.given()
        if known:
            state = "succeeded"
        elif number == len(made):
            state = states.get(job.state, "queued")
        else:
            state = "not_run" if job.is_finished else "queued"
        image, mask = known.get("image"), known.get("mask")
        steps.append(
            {
                "kind": task.kind,
                "state": state,
                "edit": task.given,
                "has_mask": task.has_mask,
                "seed": known.get("seed", given.get("seed")),
                "steps": given.get("num_inference_steps"),
                "guidance": given.get("guidance_scale"),
                "width": known.get("width"),
                "height": known.get("height"),
                "prompt": known.get("prompt") or task.edit.given().get("prompt"),
                **{
                    name: known.get(name) for name in ("checks", "verdicts", "candidates", "memory", "reused")
                },
                "warnings": warnings_of(task, known),
                "image": None if image is None or image >= job.count("images") else address("images", image),
                "mask": None if mask is None or mask >= job.count("masks") else address("masks", mask),
            }
        )
    return steps
