// Small pieces of page. Everything that comes from the server is put in as text, never as HTML.

/** Make an element: attributes that begin with "on" are listeners; children are text or elements. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export const byId = (id) => document.getElementById(id);
export const cell = (text, kind) => element("td", kind ? { class: kind } : {}, text);
export const number = (value) => Number(value).toLocaleString("en-US", { maximumFractionDigits: 1 });

/** Fill a table's body, or say that there is nothing. */
export function fill(body, rows, columns, nothing) {
  body.replaceChildren(...(rows.length
    ? rows
    : [element("tr", {}, element("td", { class: "empty", colspan: columns }, nothing))]));
}

export function shorten(value, length = 160) {
  const text = JSON.stringify(value) ?? "";
  return text.length > length ? `${text.slice(0, length)}…` : text;
}
