// One message as elements: a question, or an answer with its sources, passages, notes and what can be done with it.
// Knows no server; what its buttons do is handed in.
import { composes, icon, iconButton, make } from "/static/dom.js";
import { say } from "/static/look.js";
import { isMarkdown, render } from "/static/markdown.js";

// A passage of an archive says which of its files it stands in.
export function place(source) {
  const where = source.page ? say("page", { number: source.page }) : say("line", { number: source.line });
  return source.member ? `${source.member}, ${where}` : where;
}

// `actions` has open(source), again(), edit(text), copy(text, button); `last` says whether nothing follows.
export function shown(one, actions, last) {
  const element = make("article", { className: `said ${one.role}` });
  fill(element, one, actions, last);
  return element;
}

// Draws a message anew into its element. What cannot be drawn (whatever a browser has kept) is shown as plain text.
export function fill(element, one, actions, last) {
  element.setAttribute("aria-label", say(one.role === "user" ? "you" : "answer"));
  try {
    element.replaceChildren(...(one.role === "user" ? question(element, one, actions) : answer(one, actions, last)));
  } catch (error) {
    console.error(error);
    element.replaceChildren(make("div", { className: "as-is", text: one.content }));
  }
}

// -- questions -----------------------------------------------------------------------------------------------------

function question(element, one, actions) {
  const row = make("div", { className: "actions" },
    iconButton("edit", say("edit"), () => editing(element, one, actions)),
    iconButton("copy", say("copy"), (event) => actions.copy(one.content, event.currentTarget)));
  return [make("div", { className: "bubble", text: one.content }), row];
}

function editing(element, one, actions) {
  const field = make("textarea", { value: one.content, rows: 3, "aria-label": say("edit") });
  const back = () => fill(element, one, actions, false);
  const send = () => field.value.trim() && actions.edit(one, field.value.trim());
  field.onkeydown = (event) => {
    if (event.key === "Escape") back();
    else if (event.key === "Enter" && !event.shiftKey && !composes(event)) event.preventDefault(), send();
  };
  element.replaceChildren(make("div", { className: "editing" }, field,
    make("div", { className: "row end" },
      make("button", { type: "button", text: say("cancel"), onclick: back }),
      make("button", { type: "button", className: "main", text: say("send"), onclick: send }))));
  field.focus();
}

// -- answers -------------------------------------------------------------------------------------------------------

function answer(one, actions, last) {
  const how = one.passages ? "search" : one.sources ? one.made : one.mode === "chat" ? "chat" : null;
  const parts = [make("div", { className: "how" }, icon("logo"), how ? make("span", { text: say(`made-${how}`) }) : null)];
  if (one.pending && !one.content && !one.passages) parts.push(waiting());
  else parts.push(body(one, actions));
  for (const hit of one.passages || []) parts.push(passage(hit, actions));
  for (const note of notes(one)) parts.push(make("div", { className: "note" }, render(note)));
  if (one.error) parts.push(make("p", { className: "error", text: one.error }));
  if (one.sources?.length) parts.push(sources(one, actions));
  if (!one.pending) parts.push(below(one, actions, last));
  return parts;
}

function waiting() {
  return make("p", { className: "waiting" }, make("span"), make("span"), make("span"),
    make("span", { className: "hidden", text: say("thinking") }));
}

// Quotations are shown as they stand, what a model writes as Markdown.
function body(one, actions) {
  const numbered = new Map((one.sources || []).map((source) => [source.number, source]));
  const cite = (number) => (numbered.has(number) ? citation(numbered.get(number), actions) : null);
  const plain = one.made === "extract" || one.mode === "extract";
  return make("div", { className: "text" }, render(one.content, { cite, breaks: true, plain }));
}

function notes(one) {
  const own = [...(one.notes || [])];
  if (one.stopped) own.push(say(one.stopped));
  if (one.cut) own.push(say("cut"));
  return own;
}

function citation(source, actions) {
  const where = `${source.file}, ${place(source)}`;
  return make("button", {
    type: "button", className: "cite", text: String(source.number), title: where,
    "aria-label": `${say("source")} ${source.number}: ${where}`, onclick: () => actions.open(source),
  });
}

function sources(one, actions) {
  const items = one.sources.map((source) => make("li", {},
    make("button", { type: "button", className: "source", onclick: () => actions.open(source) },
      make("span", { className: "number", text: String(source.number) }),
      make("span", { className: "file", text: source.file }), make("span", { className: "quiet", text: place(source) }))));
  return make("div", { className: "sources" }, make("h3", { text: say("sources") }), make("ol", {}, ...items));
}

function passage(hit, actions) {
  const path = hit.headings?.length ? hit.headings.join(" › ") : "";
  return make("section", { className: "passage" },
    make("button", { type: "button", className: "source", onclick: () => actions.open(hit) }, icon("file"),
      make("span", { className: "file", text: hit.file }), make("span", { className: "quiet", text: place(hit) })),
    path ? make("p", { className: "quiet path", text: path }) : null, quoted(hit));
}

// What can be scrolled is reached by the keyboard too.
function quoted({ file, text }) {
  return make("div", { className: "quoted text", tabIndex: 0 }, isMarkdown(file) ? render(text) : make("div", { className: "as-is", text }));
}

function below(one, actions, last) {
  const text = one.passages ? one.passages.map((hit) => `${hit.text}\n(${hit.file}, ${place(hit)})`).join("\n\n") : one.content;
  return make("div", { className: "actions" },
    last ? iconButton("again", say("again"), () => actions.again()) : null,
    text ? iconButton("copy", say("copy"), (event) => actions.copy(text, event.currentTarget)) : null);
}
