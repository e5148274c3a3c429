/** How a result was made: as a record for its file, and as commands that make it again elsewhere. */

/** @import { Model, Results } from "./types.js" */

const ROUTES = {
  edit: "/v1/images/edits",
  generate: "/v1/images/generations",
  move: "/v1/spatial/move",
  rotate: "/v1/spatial/rotate",
  camera: "/v1/spatial/camera",
  describe: "/v1/describe",
};
const OPTIONS = { negative_prompt: "negative" }; // where the command line has another name
const FLAGS = ["restore", "preserve"];
// Given by name, not by option; and what the record of the run knows better than what was asked for.
const OWN = ["prompt", "object", "box", "view", "yaw", "pitch", "zoom", "wording", "n", "seed", "steps", "guidance"];

/**
 * Return the record of a result, with the names that the command line's records have.
 *
 * @param {Results} results
 * @param {Model} model
 * @param {string | null} inputDigest SHA-256 of the picture that was sent.
 */
export function makeRecord({ job, request, selected, pictures }, model, inputDigest) {
  const fields = request?.fields ?? {};
  /** @type {Record<string, unknown>} */
  const record = { command: job.kind };
  for (const name of ["object", "view", "zoom"]) if (fields[name]) record[name] = fields[name];
  for (const name of ["yaw", "pitch"]) if (fields[name]) record[name] = Number(fields[name]);
  if (fields.box) record.box = fields.box.split(",").map(Number);
  return {
    ...record,
    prompt: job.prompt,
    negative: fields.negative_prompt ?? null,
    model: model.id,
    version: model.version,
    steps: job.steps,
    guidance: job.guidance,
    width: pictures[selected].width,
    height: pictures[selected].height,
    base_size: model.base_size ?? null,
    ...(job.kind === "generate"
      ? {}
      : { fit: fields.fit ?? "crop", restore: fields.restore === "true", preserve: fields.preserve === "true" }),
    device: model.device ?? null,
    dtype: model.dtype ?? null,
    lora: fields.lora ?? null,
    input_sha256: inputDigest,
    seed: (job.seed ?? 0) + selected,
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
 * @param {"shell" | "python" | "curl"} language
 * @param {string} server Its address.
 * @param {boolean} hasKey Whether the server wants a key.
 * @returns {string}
 */
export function writeCommands({ job, request, selected }, language, server, hasKey) {
  const fields = request?.fields ?? {};
  const others = Object.entries(fields).filter(([name]) => !OWN.includes(name));
  const made = { seed: String((job.seed ?? 0) + selected), steps: String(job.steps), guidance: String(job.guidance) };
  const spatial = ["object", "box", "view", "yaw", "pitch", "zoom"].filter((name) => fields[name] !== undefined);
  const numPictures = request?.pictures.length ?? (job.kind === "generate" ? 0 : 1);
  const files = Array.from({ length: numPictures }, (_, n) => (n ? `reference-${n}.png` : "picture.png"));
  const prompt = fields.prompt ?? (job.kind === "edit" || job.kind === "generate" ? (job.prompt ?? "") : undefined);
  const wording = fields.wording && fields.wording !== "documented" ? fields.wording : undefined;

  if (language === "shell") {
    const named = job.kind === "camera" ? [] : spatial;
    const options = [
      ...spatial.filter((name) => !named.includes(name)).map((name) => `--${name}=${quote(fields[name])}`),
      ...others.filter(([name]) => !FLAGS.includes(name)).map(([name, value]) =>
        `--${OPTIONS[/** @type {keyof typeof OPTIONS} */ (name)] ?? name}=${quote(value)}`),
      ...others.filter(([name]) => FLAGS.includes(name)).map(([name]) => `--${name}`),
      ...Object.entries(made).map(([name, value]) => `--${name}=${value}`),
      ...(wording ? [`--style=${wording}`] : []),
    ];
    const words = [...files.slice(0, 1), ...(prompt === undefined ? [] : [quote(prompt)]), ...named.map((name) => quote(fields[name]))];
    const key = hasKey ? "JOYIMAGE_API_KEY=your-key " : "";
    return [`${key}joyimage ${job.kind} ${words.join(" ")} -o result.png`, ...wrap(options), `--server ${server}`].join(" \\\n  ");
  }
  const sent = {
    ...(prompt === undefined ? {} : { prompt }),
    ...Object.fromEntries(spatial.map((name) => [name, fields[name]])),
    ...Object.fromEntries(others),
    ...(wording ? { wording } : {}),
    ...made,
  };
  if (language === "python") {
    const call = Object.entries(sent).map(([name, value]) => `        ${name}=${literal(name, value)},`);
    return [
      "from pathlib import Path",
      "",
      "from joyimage.client import Client",
      "",
      `with Client(${JSON.stringify(server)}${hasKey ? ', api_key="your-key"' : ""}) as client:`,
      "    job = client.run(",
      `        ${JSON.stringify(job.kind)},`,
      `        ${JSON.stringify(files)},`,
      ...call,
      "    )",
      '    Path("result.png").write_bytes(client.images(job)[0])',
    ].join("\n");
  }
  const parts = [
    `curl -s ${server}${ROUTES[job.kind]}`,
    ...(hasKey ? ['-H "Authorization: Bearer $JOYIMAGE_API_KEY"'] : []),
    ...files.map((file) => `-F image=@${file}`),
    ...Object.entries(sent).map(([name, value]) => `--form-string ${quote(`${name}=${value}`)}`),
  ];
  return `${parts.join(" \\\n  ")} \\\n  | jq -r '.data[0].b64_json' | base64 -d > result.png`;
}

/** Put some options on each line. @param {string[]} options */
function wrap(options) {
  const lines = [];
  for (let start = 0; start < options.length; start += 4) lines.push(options.slice(start, start + 4).join(" "));
  return lines;
}

/** Quote a word for a shell where it needs it. @param {string} word */
function quote(word) {
  return /^[\w.,:=/-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Write a value as Python does. @param {string} name @param {string} value */
function literal(name, value) {
  if (name === "box") return `[${value.split(",").join(", ")}]`;
  if (value === "true") return "True";
  const isText = ["prompt", "negative_prompt", "object", "view", "zoom", "size", "fit", "lora", "model", "wording"].includes(name);
  return isText ? JSON.stringify(value) : value;
}
