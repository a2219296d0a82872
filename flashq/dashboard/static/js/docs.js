// Shows /openapi.json to people.

import { byId, element } from "./elements.js";

let schemas = {};

/** Say a schema in one line. */
function inWords(schema) {
  if (!schema || !Object.keys(schema).length) return "any";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(inWords).join(" | ");
  if (schema.type === "array") return `[${inWords(schema.items)}]`;
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  if (schema.type === "object" && schema.properties) return "object";
  return schema.type ?? "any";
}

/** Make a text's parts between backticks code. */
function prose(text) {
  return element("p", {}, ...text.split("`").map(
    (part, place) => (place % 2 ? element("code", {}, part) : part)));
}

function bounds(schema) {
  const known = schema.anyOf ? schema.anyOf.find((one) => one.type !== "null") ?? schema : schema;
  const low = known.minimum ?? known.minLength;
  const high = known.maximum ?? known.maxLength;
  if (high === Number.MAX_SAFE_INTEGER) return low === undefined ? "" : `from ${low}`;
  return low === undefined && high === undefined ? "" : `${low ?? ""} … ${high ?? ""}`;
}

function fieldsTable(rows) {
  return element("table", {},
    element("thead", {}, element("tr", {},
      ...["Name", "Type", "", "Bounds"].map((name) => element("th", {}, name)))),
    element("tbody", {}, ...rows.map(([name, schema, note]) => element("tr", {},
      element("td", {}, element("code", {}, name)),
      element("td", {}, inWords(schema)),
      element("td", {}, note),
      element("td", {}, bounds(schema))))));
}

/** Show an object's members, and those of objects in it when they are opened. */
function members(schema, depth = 0) {
  const full = schema.$ref ? schemas[schema.$ref.split("/").pop()] ?? {} : schema;
  if (!full.properties) return element("p", {}, inWords(schema));
  const required = new Set(full.required ?? []);
  const box = element("div", {}, fieldsTable(Object.entries(full.properties).map(
    ([name, field]) => [name, field, required.has(name) ? "required" : ""])));
  if (depth < 3) {
    for (const [name, field] of Object.entries(full.properties)) {
      const inner = [field, field.items, ...(field.anyOf ?? [])]
        .find((one) => one && (one.$ref || one.properties));
      if (inner) box.append(opened(`${name}: ${inWords(inner)}`, () => members(inner, depth + 1)));
    }
  }
  return box;
}

/** A part that is made when it is opened. */
function opened(title, make) {
  const details = element("details", {}, element("summary", {}, title));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(make());
  });
  return details;
}

function operation(path, method, described) {
  const box = element("section", { class: "card operation", id: described.operationId },
    element("h3", {}, element("span", { class: `verb ${method}` }, method.toUpperCase()), path),
    prose(described.summary));
  if (described.description) box.append(prose(described.description));
  if (described["x-role"]) box.append(element("p", {}, `Role: ${described["x-role"]}`));
  if (described.parameters) {
    box.append(fieldsTable(described.parameters.map((one) => [
      one.name, one.schema, `${one.in}${one.required ? ", required" : ""}. ${one.description ?? ""}`,
    ])));
  }
  const body = described.requestBody?.content["application/json"];
  if (body) box.append(opened("Body", () => members(body.schema)));
  const answer = described.responses["200"].content;
  const json = answer["application/json"];
  box.append(json
    ? opened("Answer", () => members(json.schema))
    : element("p", {}, `Answer: ${Object.keys(answer).join(", ")}`));
  return box;
}

function show(document_) {
  schemas = document_.components.schemas;
  byId("version").textContent = document_.info.version;
  const about = document_.info.description.split("\n\n").slice(1);
  byId("about").replaceChildren(...about.map(prose));
  const wanted = byId("filter").value.toLowerCase();
  const index = [];
  const operations = [];
  for (const tag of document_.tags) {
    const entries = [];
    for (const [path, methods] of Object.entries(document_.paths)) {
      for (const [method, described] of Object.entries(methods)) {
        const text = `${method} ${path} ${described.summary}`.toLowerCase();
        if (!described.tags.includes(tag.name) || !text.includes(wanted)) continue;
        operations.push(operation(path, method, described));
        entries.push(element("li", {},
          element("a", { href: `#${described.operationId}` }, `${method.toUpperCase()} ${path}`)));
      }
    }
    if (entries.length) {
      index.push(element("h2", { title: tag.description }, tag.name), element("ul", {}, ...entries));
    }
  }
  byId("index").replaceChildren(...index);
  byId("operations").replaceChildren(...operations);
}

const answer = await (await fetch("/openapi.json")).json();
show(answer);
byId("filter").addEventListener("input", () => show(answer));
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
