/**
 * What the server sends and what the page holds.
 *
 * @typedef {"edit" | "move" | "rotate" | "camera" | "generate" | "describe"} Kind
 * @typedef {"queued" | "running" | "succeeded" | "failed" | "cancelled"} JobState
 * @typedef {Pick<Job, "kind" | "seed" | "steps" | "guidance" | "width" | "height" | "prompt" | "checks" | "verdicts" | "candidates" | "memory" | "warnings" | "has_mask" | "edit"> & {state: JobState, image: string | null, mask: string | null}} JobStep
 *   One step of a plan.
 * @typedef {[number, number, number, number]} Box Left, top, right, bottom in pixels of the picture.
 *
 * @typedef {object} Check
 * @property {string} summary
 * @property {number} changed
 * @property {"done" | "failed" | "not judged"} [verdict]
 *
 * @typedef {object} Verdict What the model and the pixels say of one result.
 * @property {string} summary
 * @property {number | null} done
 * @property {number | null} kept
 *
 * @typedef {object} Intent The spatial edit that free words ask for.
 * @property {Kind} kind
 * @property {string} shown
 *
 * @typedef {object} Job
 * @property {string} id
 * @property {Kind} kind
 * @property {JobState} state
 * @property {number | null} position
 * @property {{step: number, steps: number} | null} progress
 * @property {number} restarted
 * @property {number} created_at
 * @property {number | null} started_at
 * @property {number | null} finished_at
 * @property {number | null} expires_at
 * @property {number | null} seed
 * @property {number | null} steps
 * @property {number | null} guidance
 * @property {number | null} width
 * @property {number | null} height
 * @property {string | null} prompt
 * @property {string | null} text
 * @property {Check[] | null} checks
 * @property {Verdict[] | null} [verdicts] Missing from older servers.
 * @property {{seed: number}[] | null} [candidates] All of them, the chosen one first; missing from older servers.
 * @property {string | null} memory
 * @property {string[]} [warnings] Values without effect or hardly trained; missing from older servers.
 * @property {string[]} images
 * @property {string[]} [inputs] Missing from older servers.
 * @property {boolean} [has_mask] Whether a mask went in; missing from older servers.
 * @property {Record<string, unknown> | null} [edit] The edit as it was asked for; missing from older servers.
 * @property {{message: string, code: string | null} | null} error
 * @property {JobStep[] | null} [plan] The steps of a plan, in order; missing from older servers.
 * @property {{job: string, number: number}} [part] Where this is one step of a plan: the plan's job, and the step from 0.
 *
 * @typedef {object} SchemaProperty One field of an edit.
 * @property {string} [type]
 * @property {string} description
 * @property {string[]} [enum]
 * @property {number} [minimum]
 * @property {number} [maximum]
 * @property {{type: string}} [items]
 * @property {string | null} [x-flag] Its option on the command line; null where it is an argument.
 *
 * @typedef {object} Schema
 * @property {Record<string, SchemaProperty>} properties
 * @typedef {Record<Kind, Schema>} Schemas By kind of edit.
 *
 * @typedef {object} JobEvent
 * @property {JobState} state
 * @property {number} [step]
 * @property {number} [steps] Missing where a step of a plan has made its image.
 * @property {number} [plan_step] From 1; of a plan.
 * @property {number} [plan_steps]
 * @property {string} [preview] A data URL.
 * @property {Job} [job] With the last event.
 *
 * @typedef {object} Limits
 * @property {number} max_image_bytes
 * @property {number} max_image_pixels
 * @property {number} max_images
 * @property {number} max_outputs
 * @property {number} max_steps
 *
 * @typedef {object} Model
 * @property {string} id
 * @property {string} version
 * @property {Limits} limits
 * @property {string} [device] Missing, like all below, while the model is being loaded.
 * @property {string} [dtype]
 * @property {number} [base_size]
 * @property {number} [default_steps]
 * @property {number} [default_guidance]
 * @property {boolean} [takes_several_images]
 * @property {string[]} [loras]
 * @property {Record<string, {num_inference_steps: number, guidance_scale: number}>} [lora_defaults] What turbo adapters set. Missing from older servers.
 * @property {string[]} [speeds] Missing from older servers.
 * @property {string[]} [sizes]
 *
 * @typedef {{model: Model, schemas: Schemas}} Known What the server has said of its model and of the fields of edits.
 *
 * @typedef {object} Health
 * @property {boolean} is_ready
 * @property {string | null} problem
 * @property {boolean} needs_key
 *
 * @typedef {object} Parsed
 * @property {{kind: "move" | "rotate" | "camera", object?: string, view?: string, yaw?: number, pitch?: number, zoom?: string} | null} edit
 * @property {string | null} problem
 * @property {Intent | null} [intent] Missing from older servers.
 *
 * @typedef {object} Picture A picture in this page.
 * @property {string} id
 * @property {Blob} blob The file as it is sent.
 * @property {number} width Upright.
 * @property {number} height
 * @property {string} name
 * @property {string} url Of the file, or of a smaller copy where it is huge.
 * @property {string} thumbnail
 *
 * @typedef {object} Request One run, everything that is sent.
 * @property {Kind} kind
 * @property {Record<string, string>} fields
 * @property {string[]} pictures Ids of pictures.
 * @property {import("./region.js").Mask} [mask] What may change.
 *
 * @typedef {object} Results What came out of a run.
 * @property {Job} job
 * @property {Request | null} request Null where another page asked for it.
 * @property {Picture[]} pictures
 * @property {number} selected
 *
 * @typedef {object} Pending A run that has not ended.
 * @property {string} key Keeps it from running twice.
 * @property {Request} request
 * @property {string | null} jobId Null until the server has said that it has it.
 * @property {string} project Id of the project that its results belong to.
 * @property {string | null} parent Id of the attempt whose result it starts from; null for the root.
 * @property {number} from Which of the parent's results.
 * @property {string} place Id of the attempt that was shown when it was started.
 * @property {Record<string, string | boolean>} form What the controls said.
 * @property {string | null} [step] Key of the step of a plan that it is for.
 * @property {{key: string, number: number}} [plan] Where the whole plan is one job: what keeps that from running twice, and
 *   the step in it, from 0.
 * @property {string | null} [after] Key of the run whose result it starts from; null once that is known.
 * @property {import("./geometry.js").Size} [drawnOn] Of the image that its box and its mask were drawn on.
 */
export {};
