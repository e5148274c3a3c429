/** Text as a shell, curl and Python read it, letter by letter. */

/** Quote a word for a POSIX shell where it needs it; zsh takes one that begins with "=" for a command. @param {string} word */
export function quote(word) {
  return /^[\w.,:/-][\w.,:=/-]*$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Quote the path of a file that is an argument of its own: one that begins with a dash would be an option. @param {string} path */
export function quotePath(path) {
  return quote(path.startsWith("-") ? `./${path}` : path);
}

/** Write curl's option for a file in a form. @param {string} field @param {string} path */
export function curlFile(field, path) {
  // Between double quotes curl takes commas and semicolons as they are.
  const isPlain = /^[\w./-]+$/.test(path);
  return `-F ${quote(isPlain ? `${field}=@${path}` : `${field}=@"${path.replaceAll(/(["\\])/g, "\\$1")}"`)}`;
}

/** Write a value as Python does. @param {unknown} value @returns {string} */
export function pythonLiteral(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  return JSON.stringify(value);
}
