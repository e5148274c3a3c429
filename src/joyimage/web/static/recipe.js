/**
 * How a result was made: as a record for its file, and as commands that make it again elsewhere. Fields, their types
 * and their options come from the JSON Schema of the edits, so that a new field needs nothing here.
 */

import { curlFile, pythonLiteral, quote, quotePath } from "./quote.js";

/** @import { Job, Model, Results, Schema, SchemaProperty, Schemas } from "./types.js" */

const ROUTES = {
  edit: "/v1/images/edits",
  generate: "/v1/images/generations",
  move: "/v1/spatial/move",
  rotate: "/v1/spatial/rotate",
  camera: "/v1/spatial/camera",
  describe: "/v1/describe",
};

const MASK = "mask.png";
const REGION = "region.png"; // of the command line: white where the image may change, not transparent

/**
 * Return the names of the files in the commands: no two are the same, on a disk that tells no capitals from small letters either.
 *
 * @param {"shell" | "python" | "curl"} language
 * @param {string[]} inputs Names of the image files that went in.
 * @returns {{inputs: string[], mask: string, output: string}}
 */
export function fileNames(language, inputs) {
  const taken = new Set();
  const free = (/** @type {string} */ name) => {
    const [, stem, ending] = /** @type {RegExpExecArray} */ (/^(.*?)(\.\w+)?$/s.exec(name));
    let found = name;
    for (let n = 2; taken.has(found.toLowerCase()); n += 1) found = `${stem}-${n}${ending ?? ""}`;
    taken.add(found.toLowerCase());
    return found;
  };
  return { inputs: inputs.map(free), mask: free(language === "shell" ? REGION : MASK), output: free("result.png") };
}

/** Tell whether a mask went into a result. @param {Pick<Results, "job" | "request">} results */
export function isMasked({ job, request }) {
  return Boolean(request?.mask ?? job.has_mask);
}

/**
 * Return the fields of the edit that made one result, as text: those of the request, with what the server decided.
 *
 * A job that another page asked for carries its own request. What neither knows stays out: unknown is no default.
 *
 * @param {Omit<Results, "pictures">} results
 * @param {Schemas} schemas
 * @returns {Record<string, string>}
 */
export function madeFields({ job, request, selected }, schemas) {
  const { properties } = schemas[job.kind];
  /** @type {Record<string, string>} */
  const fields = {};
  for (const name of Object.keys(properties)) {
    const value = job.edit?.[name] ?? request?.fields[name];
    if (name !== "kind" && value !== undefined && value !== null) fields[name] = asText(value);
  }
  if (properties.prompt && fields.prompt === undefined && job.prompt !== null) fields.prompt = job.prompt;
  if (job.kind === "describe") return fields;
  delete fields.num_images; // one result is made again
  if (job.candidates) for (const name of ["num_candidates", "until", "max_attempts"]) delete fields[name];
  if (job.seed !== null) fields.seed = String(job.seed + selected);
  if (job.steps !== null) fields.num_inference_steps = String(job.steps);
  if (job.guidance !== null) fields.guidance_scale = String(job.guidance);
  return fields;
}

/**
 * Return the record of a result, as the command line writes and reads it.
 *
 * @param {Omit<Results, "pictures"> & {pictures: {width: number, height: number}[]}} results
 * @param {Schemas} schemas
 * @param {Model} model
 * @param {string | null} inputDigest SHA-256 of the image that was sent.
 */
export function makeRecord(results, schemas, model, inputDigest) {
  const { job, pictures, selected } = results;
  const { properties } = schemas[job.kind];
  const fields = Object.entries(madeFields(results, schemas));
  return {
    ...(job.prompt === null ? {} : { prompt: job.prompt }),
    model: model.id,
    version: model.version,
    width: pictures[selected].width,
    height: pictures[selected].height,
    base_size: model.base_size ?? null,
    device: model.device ?? null,
    dtype: model.dtype ?? null,
    input_sha256: inputDigest,
    kind: job.kind,
    ...Object.fromEntries(fields.map(([name, text]) => [name, asValue(text, properties[name])])),
  };
}

/**
 * Return the SHA-256 of a file in hexadecimal; null on plain http, where browsers compute none.
 *
 * @param {Blob} file
 */
export async function digest(file) {
  if (!crypto.subtle) return null;
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Write the commands that make the chosen result again.
 *
 * @param {Results} results
 * @param {Schemas} schemas
 * @param {"shell" | "python" | "curl"} language
 * @param {string} server Its address.
 * @param {boolean} hasKey Whether the server wants a key.
 * @param {string[]} names Of the image files that went in, as far as they are known. `fileNames` tells them apart.
 * @returns {string}
 */
export function writeCommands(results, schemas, language, server, hasKey, names) {
  const { job, request } = results;
  const schema = schemas[job.kind];
  const made = madeFields(results, schemas);
  const hasMask = isMasked(results);
  // Images that the server no longer has went in all the same.
  const numImages = job.kind === "generate" ? 0 : Math.max(1, request?.pictures.length ?? 0);
  const inputs = Array.from({ length: numImages }, (_, n) => names[n] ?? (n ? `reference-${n}.png` : "input.png"));
  const { inputs: files, mask, output } = fileNames(language, inputs);
  if (hasMask && language === "shell") made.region = mask;
  const fields = Object.entries(made);
  if (language === "python") return writePython(job.kind, schema, fields, files, output, server, hasKey, hasMask ? mask : null);
  if (language === "curl") return writeCurl(job.kind, fields, files, output, server, hasKey, hasMask ? mask : null);
  return writeShell(job.kind, schema, fields, files, output, server, hasKey);
}

/**
 * @param {Job["kind"]} kind @param {Schema} schema @param {[string, string][]} fields @param {string[]} files
 * @param {string} result @param {string} server @param {boolean} hasKey
 */
function writeShell(kind, schema, fields, files, result, server, hasKey) {
  const words = files.slice(0, 1).map(quotePath);
  const options = files.slice(1).map((file) => `--ref=${quote(file)}`);
  let isByName = false;
  for (const [name, text] of fields) {
    const property = schema.properties[name];
    const flag = property["x-flag"] ?? null;
    // A word that begins with a dash would be read as an option; what comes after one that is given by name is too.
    isByName ||= flag === null && text.startsWith("-");
    if (flag === null && !isByName) words.push(quote(text));
    else if (flag === null) options.push(`--${name}=${quote(text)}`);
    else if (property.type === "boolean") options.push(text === "true" ? flag : `--no-${flag.slice(2)}`);
    else if (property.items?.type === "string") for (const one of asValue(text, property)) options.push(`${flag}=${quote(one)}`);
    else options.push(`${flag}=${quote(text)}`);
  }
  const key = hasKey ? "JOYIMAGE_API_KEY=your-key " : "";
  const output = kind === "describe" ? "" : ` -o ${result}`;
  return [`${key}joyimage ${kind} ${words.join(" ")}${output}`, ...wrap(options), `--server ${server}`].join(" \\\n  ");
}

/**
 * @param {Job["kind"]} kind @param {Schema} schema @param {[string, string][]} fields @param {string[]} files
 * @param {string} result @param {string} server @param {boolean} hasKey @param {string | null} mask Name of its file.
 */
function writePython(kind, schema, fields, files, result, server, hasKey, mask) {
  return [
    "from pathlib import Path",
    "",
    "from joyimage.client import Client",
    "",
    `with Client(${JSON.stringify(server)}${hasKey ? ', api_key="your-key"' : ""}) as client:`,
    "    job = client.run(",
    `        ${JSON.stringify(kind)},`,
    `        ${JSON.stringify(files)},`,
    ...fields.map(([name, text]) => `        ${name}=${pythonLiteral(asValue(text, schema.properties[name]))},`),
    ...(mask ? [`        mask=${JSON.stringify(mask)},`] : []),
    "    )",
    kind === "describe" ? "    print(job.text)" : `    Path(${JSON.stringify(result)}).write_bytes(client.images(job)[0])`,
  ].join("\n");
}

/**
 * @param {Job["kind"]} kind @param {[string, string][]} fields @param {string[]} files
 * @param {string} result @param {string} server @param {boolean} hasKey @param {string | null} mask Name of its file.
 */
function writeCurl(kind, fields, files, result, server, hasKey, mask) {
  const parts = [
    `curl -s ${server}${ROUTES[kind]}`,
    ...(hasKey ? ['-H "Authorization: Bearer $JOYIMAGE_API_KEY"'] : []),
    ...files.map((file) => curlFile("image", file)),
    ...(mask ? [curlFile("mask", mask)] : []),
    ...fields.map(([name, text]) => `--form-string ${quote(`${name}=${text}`)}`),
  ];
  const rest = kind === "describe" ? "jq -r .text" : `jq -r '.data[0].b64_json' | base64 -d > ${result}`;
  return `${parts.join(" \\\n  ")} \\\n  | ${rest}`;
}

/** Put four options on each line. @param {string[]} options */
function wrap(options) {
  const lines = [];
  for (let start = 0; start < options.length; start += 4) lines.push(options.slice(start, start + 4).join(" "));
  return lines;
}

/** Write a value as a form has it: lists of numbers with commas, other lists as JSON. @param {unknown} value */
function asText(value) {
  if (!Array.isArray(value)) return String(value);
  if (value.length === 1) return String(value[0]);
  return value.every((one) => typeof one === "number") ? value.join(",") : JSON.stringify(value);
}

/** Read the text of a field as its type says. @param {string} text @param {SchemaProperty} property @returns {any} */
export function asValue(text, property) {
  if (property.type === "integer" || property.type === "number") return Number(text);
  if (property.type === "boolean") return text === "true";
  if (property.type === "string") return text;
  const numbers = text.split(",").map(Number);
  if (property.items?.type === "string") return text.startsWith("[") ? JSON.parse(text) : [text];
  return numbers.length === 4 && numbers.every(Number.isFinite) ? numbers : text;
}
