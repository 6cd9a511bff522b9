// Small helpers for elements. Text is always set as text: nothing from outside is ever parsed as HTML.
const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

// Whether a key belongs to an input method that composes Chinese; Safari says so of its Enter by 229 alone.
export const composes = (event) => event.isComposing || event.keyCode === 229;

export function make(tag, { text, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  if (text !== undefined) element.textContent = text;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// One of the symbols in index.html.
export function icon(name) {
  const element = document.createElementNS(SVG, "svg");
  element.setAttribute("class", "icon");
  element.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  element.append(use);
  return element;
}

// A button that shows only an icon; its name is for screen readers and the pointer that rests on it.
export function iconButton(name, label, onclick, className = "plain") {
  return make("button", { type: "button", className, title: label, "aria-label": label, onclick }, icon(name));
}

// Browsers lend the clipboard only to pages with TLS or on this machine; the old way works elsewhere.
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).catch(() => {});
  const field = make("textarea", { value: text, className: "hidden" });
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  return undefined;
}

export function save(name, type, content) {
  const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
