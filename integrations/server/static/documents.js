// Libraries and their documents at the side: choosing, making, listing, deleting, and how far each has been read.
import { call, events, json } from "/static/api.js";
import { $, icon, iconButton, make } from "/static/dom.js";
import { choices, keepChoices } from "/static/kept.js";
import { announce, asked, confirmed, guarded, onLanguage, say } from "/static/look.js";
import { openDocument } from "/static/source.js";

const state = { listed: new Map(), libraries: [], most: Infinity, following: null };

export const libraryName = () => $("library").value;
export const largest = () => state.most;
const query = (more = {}) => `?${new URLSearchParams({ ...(libraryName() && { library: libraryName() }), ...more })}`;

// -- libraries -----------------------------------------------------------------------------------------------------

export async function loadLibraries() {
  const told = await json("/v1/libraries");
  state.libraries = told.data.map((one) => one.id);
  state.most = told.max_upload ?? Infinity;
  const chosen = state.libraries.includes(choices.library) ? choices.library : state.libraries[0];
  $("library").replaceChildren(...state.libraries.map((name) => new Option(name, name, false, name === chosen)));
  await loadDocuments();
}

async function newLibrary() {
  const name = await asked(say("new-library"), say("library-name"), { button: "create" });
  if (!name) return;
  const made = await json("/v1/libraries", { method: "POST", body: { name } });
  choices.library = made.id;
  keepChoices();
  await loadLibraries();
}

async function deleteLibrary() {
  const name = libraryName();
  if (!name || !(await confirmed(say("delete-library-sure", { name })))) return;
  await call(`/v1/libraries/${encodeURIComponent(name)}`, { method: "DELETE" });
  choices.library = "";
  keepChoices();
  await loadLibraries();
  $("library").focus();
}

// -- the list ------------------------------------------------------------------------------------------------------

async function loadDocuments() {
  const library = libraryName();
  const { data } = await json(`/v1/documents${query()}`);
  if (library !== libraryName()) return; // another was chosen meanwhile
  const before = state.listed;
  state.listed = new Map(data.map((one) => [one.id, one]));
  for (const one of data) tellEnd(before.get(one.id), one);
  show();
  follow();
}

// Whether there are any. Where none is listed, another client may have added some meanwhile.
export async function hasDocuments() {
  if (!state.listed.size) await (libraryName() ? loadDocuments() : loadLibraries());
  return state.listed.size > 0;
}

// Rows that are there already stay, and what has the focus keeps it.
function show() {
  const held = document.activeElement;
  const rows = new Map([...$("documents").children].map((item) => [item.dataset.id, item]));
  $("documents").replaceChildren(...[...state.listed.values()].map((one) => drawn(rows.get(one.id) ?? row(one), one)));
  if ($("documents").contains(held)) held.focus({ preventScroll: true });
  $("no-documents").hidden = state.listed.size > 0;
}

// A document that is there now, or has come further.
export function put(one) {
  const before = state.listed.get(one.id);
  state.listed.set(one.id, one);
  const item = drawn(rowOf(one.id) ?? row(one), one);
  if (!before) $("documents").prepend(item);
  tellEnd(before, one);
  $("no-documents").hidden = true;
  follow();
}

const rowOf = (id) => [...$("documents").children].find((child) => child.dataset.id === id);
const isOver = (one) => one.status === "ready" || one.status === "failed";

// For whoever does not see it.
function tellEnd(before, one) {
  if (before && isOver(one) && !isOver(before)) announce(`${one.name}: ${about(one).textContent}`);
}

function row({ id, name }) {
  const now = () => state.listed.get(id);
  const open = () => openDocument({ ...now(), library: libraryName() });
  return make("li", { "data-id": id }, icon("file"),
    make("div", { className: "about" },
      make("button", { type: "button", className: "name", text: name, title: `${say("open")}: ${name}`, onclick: open }), make("span")),
    iconButton("trash", `${say("delete")}: ${name}`, () => guarded(() => remove(now()))));
}

// What changes in a row; its buttons stay, so that neither the focus nor a click is lost.
function drawn(item, one) {
  item.className = `document ${one.status}`;
  item.querySelector("button.name").disabled = one.status === "failed" || !one.passages;
  item.querySelector(".about > span").replaceWith(about(one));
  return item;
}

function about(one) {
  if (one.status === "failed") return make("span", { className: "error", text: `${say("failed")}: ${one.error}` });
  if (isOver(one)) return make("span", { className: "quiet", text: `${sizeOf(one.size)} · ${say(one.passages === 1 ? "one-passage" : "passages", { count: one.passages })}` });
  const share = one.total ? Math.round((100 * one.done) / one.total) : 0;
  return progressOf(one.name, say(one.status, { share }), one.status === "embedding" ? share : undefined);
}

// A bar with words under it; without a share it only moves.
export function progressOf(name, text, share) {
  const bar = make("progress", { max: 100, "aria-label": say("progress-of", { name }) });
  if (share !== undefined) bar.value = share;
  return make("span", { className: "quiet" }, bar, text);
}

export function sizeOf(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  const step = Math.min(3, Math.floor(Math.log(Math.max(bytes, 1)) / Math.log(1000)));
  const form = { style: "unit", unit: units[step], unitDisplay: "narrow", maximumFractionDigits: step > 1 ? 1 : 0 };
  return new Intl.NumberFormat(choices.language, form).format(bytes / 1000 ** step);
}

async function remove(one) {
  if (!(await confirmed(say(one.uploaded ? "delete-document" : "remove-document", { name: one.name })))) return;
  await call(`/v1/documents/${one.id}${query()}`, { method: "DELETE" });
  state.listed.delete(one.id);
  rowOf(one.id)?.remove();
  $("no-documents").hidden = state.listed.size > 0;
  $("choose-files").focus();
}

// -- progress ------------------------------------------------------------------------------------------------------

// One stream tells of every document that is being read: browsers keep few connections to one server.
async function follow() {
  const library = libraryName();
  if (state.following === library || ![...state.listed.values()].some((one) => one.uploaded && !isOver(one))) return;
  state.following = library;
  try {
    for await (const one of events(`/v1/documents/events${query()}`)) {
      if (library !== libraryName()) return;
      if (one.deleted) {
        state.listed.delete(one.id);
        rowOf(one.id)?.remove();
      } else put(one);
    }
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 2000));
  } finally {
    if (state.following === library) state.following = null;
  }
  if (library === libraryName()) await guarded(loadDocuments);
}

export function documents() {
  onLanguage(() => {
    $("documents").replaceChildren();
    show();
  });
  $("new-library").onclick = () => guarded(newLibrary);
  $("delete-library").onclick = () => guarded(deleteLibrary);
  $("library").onchange = () => {
    choices.library = libraryName();
    keepChoices();
    guarded(loadDocuments);
  };
}
