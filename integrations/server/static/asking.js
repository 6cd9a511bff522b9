// Asking and answering: streams into the conversation that asked, also while another one is shown.
import { Refused, events, json } from "/static/api.js";
import { $, copyText, save } from "/static/dom.js";
import { hasDocuments, libraryName } from "/static/documents.js";
import { asMarkdown } from "/static/export.js";
import { choices, keepTalk, newTalk, talks } from "/static/kept.js";
import { announce, guarded, notice, say, told } from "/static/look.js";
import { fill, shown } from "/static/messages.js";
import { asRequest } from "/static/settings.js";
import { openSource } from "/static/source.js";

const SAVE_EVERY = 2000; // ms between two times that a growing answer is kept
const running = new Map(); // conversation's id → AbortController
const hooks = { changed: () => {} };
// A reload shows what was shown; another tab begins anew.
let current = talks.find(({ id }) => id === sessionStorage.getItem("hanpaca.shown")) ?? newTalk();

// What was being written when the page was closed.
for (const one of talks) for (const entry of one.said) if (entry.pending) Object.assign(entry, { pending: undefined, stopped: "broken-off" });

export const talk = () => current;
export const onTalks = (redraw) => (hooks.changed = redraw);

// -- showing -------------------------------------------------------------------------------------------------------

const actions = {
  open: openSource,
  again: () => again(),
  edit: (one, text) => ask(text, current.said.indexOf(one)),
  async copy(text, button) {
    await copyText(text);
    button.focus();
    button.classList.add("did");
    announce(say("copied"));
    setTimeout(() => button.classList.remove("did"), 1200);
  },
};

export function showTalk() {
  const { said } = current;
  sessionStorage.setItem("hanpaca.shown", current.id);
  $("said").replaceChildren(...said.map((one, index) => shown(one, actions, index === said.length - 1)));
  $("welcome").hidden = said.length > 0;
  $("title").textContent = titleOf(current);
  $("export").disabled = !said.length;
  showBusy();
  $("talk").scrollTop = $("talk").scrollHeight;
}

export const titleOf = (one) => one.said.find(({ role }) => role === "user")?.content.slice(0, 80) || say("untitled");
export const isRunning = (one) => running.has(one.id);

export function choose(one) {
  current = one || newTalk();
  showTalk();
  hooks.changed();
}

function showBusy() {
  const busy = isRunning(current);
  const held = document.activeElement === (busy ? $("send") : $("stop"));
  $("stop").hidden = !busy;
  $("send").hidden = busy;
  $("talk").setAttribute("aria-busy", String(busy));
  if (held) (busy ? $("stop") : $("question")).focus();
}

// -- what the user does --------------------------------------------------------------------------------------------

export const stop = (one = current) => running.get(one.id)?.abort();

export function exportTalk() {
  save(`hanpaca-${current.id}.md`, "text/markdown", asMarkdown(current));
}

export function exportAll() {
  save("hanpaca-conversations.json", "application/json", JSON.stringify(talks, null, 2));
}

// Asks; `at` is the place of an earlier question that this one takes, with all that followed it. Returns whether it was
// asked.
export async function ask(text, at = current.said.length) {
  const asking = current;
  const { mode } = choices;
  const ready = mode === "chat" || (await guarded(hasDocuments));
  if (ready === false) notice(say("no-documents-yet", { name: libraryName() }));
  if (!ready || asking !== current || isRunning(current)) return false;
  current.said.splice(at, Infinity, { role: "user", content: text, mode });
  respond(current);
  return true;
}

function again() {
  const at = current.said.findLastIndex(({ role }) => role === "user");
  if (at >= 0) ask(current.said[at].content, at);
}

// -- answering -----------------------------------------------------------------------------------------------------

async function respond(asking) {
  const { mode, library } = { mode: choices.mode, library: libraryName() };
  const answer = { role: "assistant", content: "", mode, library, pending: true };
  const messages = historyOf(asking.said);
  asking.said.push(answer);
  const controller = new AbortController();
  running.set(asking.id, controller);
  keep(asking);
  showTalk();
  hooks.changed();
  announce(say("answering"));
  const draw = drawing(asking, answer);
  try {
    if (mode === "search") await search(messages.at(-1).content, answer, controller.signal);
    else await stream(messages, answer, controller.signal, () => draw());
  } catch (error) {
    if (error.name === "AbortError") answer.stopped = "stopped";
    else answer.error = told(error);
  }
  delete answer.pending;
  running.delete(asking.id);
  keep(asking);
  if (asking === current) finished(answer);
  announce(outcome(answer));
  hooks.changed();
}

// How an answer ended, for whoever does not see it.
function outcome({ error, stopped, content, passages }) {
  if (error) return say("answer-failed", { text: error });
  if (stopped) return say(stopped);
  return say("answered", { text: content || say(passages?.length ? "made-search" : "nothing") });
}

function finished(answer) {
  const log = $("talk");
  const atEnd = isAtEnd(log);
  fill($("said").lastElementChild, answer, actions, true);
  if (answer.passages) $("said").lastElementChild.scrollIntoView({ block: "start" }); // the best one comes first
  else if (atEnd) log.scrollTop = log.scrollHeight;
  showBusy();
}

function keep(one) {
  if (!keepTalk(one)) notice(say("full"));
}

const isAtEnd = (log) => log.scrollHeight - log.scrollTop - log.clientHeight < 80;

// Draws the growing answer at most once a frame, and keeps it every two seconds.
function drawing(asking, answer) {
  let waiting = false;
  let kept = Date.now();
  return () => {
    if (Date.now() - kept > SAVE_EVERY) {
      kept = Date.now();
      keepTalk(asking);
    }
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (asking !== current || !answer.pending) return;
      const log = $("talk");
      const atEnd = isAtEnd(log);
      fill($("said").lastElementChild, answer, actions, true);
      if (atEnd) log.scrollTop = log.scrollHeight;
    });
  };
}

// What was said before, as the model sees it: questions that have a written answer, and the last one.
function historyOf(said) {
  const messages = [];
  said.forEach((one, index) => {
    const answered = said[index + 1];
    const counts = index === said.length - 1 || (answered?.role === "assistant" && answered.content && !answered.passages);
    if (one.role === "user" && counts) messages.push({ role: "user", content: one.content });
    if (one.role === "user" && counts && answered) messages.push({ role: "assistant", content: answered.content });
  });
  return messages;
}

async function stream(messages, answer, signal, draw) {
  const body = asRequest(messages, answer.mode, answer.library);
  for await (const piece of events("/v1/chat/completions", { method: "POST", body, signal, last: "[DONE]" })) {
    if (piece.error) throw new Refused(200, piece.error);
    const choice = piece.choices[0];
    answer.content += choice?.delta.content || "";
    if (choice?.finish_reason === "length") answer.cut = true;
    if (piece.sources) Object.assign(answer, { sources: withLibrary(piece.sources, answer), notes: piece.notes, made: piece.mode });
    draw();
  }
}

async function search(query, answer, signal) {
  const body = { query, library: answer.library };
  const found = await json("/v1/search", { method: "POST", body, signal });
  const kept = ({ document, file, member, page, line, start, end, text, headings }) => (
    { document, file, member, page, line, start, end, text, headings });
  answer.passages = withLibrary(found.data.map(kept), answer);
  if (!found.data.length) answer.content = say("nothing");
  else if (!found.answerable) answer.notes = [say("doubtful")];
}

// A source opens from the library that it came from, whichever is chosen then.
const withLibrary = (sources, answer) => sources.map((source) => ({ ...source, library: answer.library }));
