/**
 * Controls for the fields of an edit that the page has no control of its own for. A field that is new in the JSON Schema
 * appears here by itself.
 */

import { byId } from "./dom.js";

/** @import { Kind, SchemaProperty, Schemas } from "./types.js" */

/** Fields that the page never asks for, and what it always sends: boxes are drawn from corner to corner. */
export const FIXED = { box_form: "xyxy" };

/** What the ids of the controls begin with that are made here. */
export const MADE = "field-";

export class Fields {
  constructor() {
    this.parents = [byId("more-fields", HTMLElement), byId("more-question-fields", HTMLElement)];
    /** @type {Map<string, {label: HTMLElement, input: HTMLInputElement | HTMLSelectElement}>} */
    this.controls = new Map();
    /** @type {Schemas | null} */
    this.schemas = null;
  }

  /** Build the controls that are missing. @param {Schemas} schemas @param {Kind} kind The kind that is shown. */
  setSchemas(schemas, kind) {
    this.schemas = schemas;
    const own = new Set([...document.querySelectorAll("[data-field]")].flatMap((one) => (/** @type {HTMLElement} */ (one).dataset.field ?? "").split(" ")));
    for (const { properties } of Object.values(schemas)) {
      for (const [name, property] of Object.entries(properties)) {
        if (name === "kind" || name in FIXED || own.has(name) || this.controls.has(name)) continue;
        this.controls.set(name, this.build(name, property));
      }
    }
    this.setKind(kind);
  }

  /** Show the fields of a kind only. @param {Kind} kind */
  setKind(kind) {
    const properties = this.schemas?.[kind]?.properties ?? {};
    for (const [name, { label }] of this.controls) label.hidden = !(name in properties);
    for (const parent of this.parents) parent.hidden = [...parent.children].every((label) => label instanceof HTMLElement && label.hidden);
  }

  /** Return what is filled in, as text, for a kind. @param {Kind} kind @returns {Record<string, string>} */
  read(kind) {
    const properties = this.schemas?.[kind]?.properties ?? {};
    /** @type {Record<string, string>} */
    const fields = {};
    for (const [name, { input }] of this.controls) {
      if (name in properties && input.value.trim()) fields[name] = input.value.trim();
    }
    return fields;
  }

  /** Empty all controls: nothing is given. */
  reset() {
    for (const { input } of this.controls.values()) input.value = "";
  }

  /** @param {string} name @param {SchemaProperty} property */
  build(name, property) {
    const label = document.createElement("label");
    label.className = "setting";
    label.textContent = title(name);
    const choices = property.enum ?? (property.type === "boolean" ? ["true", "false"] : null);
    const input = document.createElement(choices ? "select" : "input");
    input.id = `${MADE}${name}`;
    input.dataset.field = name;
    if (input instanceof HTMLSelectElement) {
      input.add(new Option("default", ""));
      for (const choice of choices ?? []) input.add(new Option(choice, choice));
    } else if (property.type === "integer" || property.type === "number") {
      input.type = "number";
      input.step = property.type === "integer" ? "1" : "any";
      if (property.minimum !== undefined) input.min = String(property.minimum);
      if (property.maximum !== undefined) input.max = String(property.maximum);
    }
    const hint = document.createElement("span");
    hint.className = "hint";
    hint.id = `${input.id}-hint`;
    hint.textContent = property.description;
    input.setAttribute("aria-describedby", hint.id);
    label.append(input, hint);
    // Questions have no settings beside these.
    this.parents[name in (this.schemas?.describe.properties ?? {}) ? 1 : 0].append(label);
    return { label, input };
  }
}

/** Turn a field's name into a label. @param {string} name */
function title(name) {
  const words = name.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}
