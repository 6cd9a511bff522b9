// Asking and answering: streams into the conversation that asked, also while another one is shown.
import { Refused, events, json } from "/static/api.js";
import { $, copyText, save } from "/static/dom.js";
import { hasDocuments, libraryName } from "/static/documents.js";
import { asMarkdown } from "/static/export.js";
import { breakOff, choices, isAnswered, keepTalk, newTalk, takeStored, talks } from "/static/kept.js";
import { announce, guarded, notice, say, told } from "/static/look.js";
import { fill, shown } from "/static/messages.js";
import { asRequest } from "/static/settings.js";
import { openSource } from "/static/source.js";

const SAVE_EVERY = 2000; // ms between two times that a growing answer is kept
const running = new Map(); // conversation's id → AbortController
const hooks = { changed: () => {} };
// A reload shows what was shown; another tab begins anew.
let current = talks.find(({ id }) => id === sessionStorage.getItem("hanpaca.shown")) ?? newTalk();
let drawn = []; // its messages that are shown

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
  sessionStorage.setItem("hanpaca.shown", current.id);
  drawn = [];
  draw();
  showBusy();
  $("talk").scrollTop = $("talk").scrollHeight;
}

// Draws the messages that are not shown yet; the others stay, with the focus and what is being edited.
function draw() {
  const { said } = current;
  const elements = [...$("said").children];
  const isLast = (index, all) => index === all.length - 1;
  said.forEach((one, index) => {
    if (one === drawn[index] && isLast(index, said) === isLast(index, drawn)) return;
    const element = shown(one, actions, isLast(index, said));
    if (elements[index]) elements[index].replaceWith(element);
    else $("said").append(element);
  });
  for (const surplus of elements.slice(said.length)) surplus.remove();
  drawn = [...said];
  $("welcome").hidden = said.length > 0;
  $("title").textContent = titleOf(current);
  $("export").disabled = !said.length;
}

// Shows what another tab has made of the conversation.
export function renew() {
  if (isRunning(current)) return;
  if (current.said.length && !talks.includes(current)) current = newTalk(); // it was deleted there
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  current.said = current.said.map((one, index) => (same(one, drawn[index]) ? drawn[index] : one));
  staying(draw);
}

// Does what changes the height of the messages; whoever was at their end is there afterwards.
function staying(work) {
  const log = $("talk");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  work();
  if (atEnd) log.scrollTop = log.scrollHeight;
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
// asked: not while an answer is being written, here or in another tab.
export async function ask(text, at) {
  const asking = current;
  const { mode } = choices;
  const ready = mode === "chat" || (await guarded(hasDocuments));
  if (ready === false) notice(say("no-documents-yet", { name: libraryName() }));
  if (!ready || asking !== current || isRunning(current)) return false;
  takeStored(current);
  if (isAnswered(current)) {
    notice(say("other-tab"));
    return false;
  }
  breakOff(current);
  current.said.splice(at ?? current.said.length, Infinity, { role: "user", content: text, mode });
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
  const keeping = setInterval(() => keepTalk(asking), SAVE_EVERY);
  try {
    if (mode === "search") await search(messages.at(-1).content, answer, controller.signal);
    else await stream(messages, answer, controller.signal, growing(asking, answer));
  } catch (error) {
    const ended = error.name === "AbortError" ? { stopped: "stopped" } : { error: told(error) };
    if (!answer.stopped) Object.assign(answer, ended); // else the page was left, and that is told
  }
  clearInterval(keeping);
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
  staying(() => fill($("said").lastElementChild, answer, actions, true));
  if (answer.passages) $("said").lastElementChild.scrollIntoView({ block: "start" }); // the best one comes first
  showBusy();
}

function keep(one) {
  if (!keepTalk(one)) notice(say("full"));
}

// What draws the growing answer, at most once a frame.
function growing(asking, answer) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (asking === current && answer.pending) staying(() => fill($("said").lastElementChild, answer, actions, true));
    });
  };
}

// Whoever opens the page again, or has it open in another tab, sees that nobody writes any more.
addEventListener("pagehide", () => {
  for (const one of talks.filter(isRunning)) {
    stop(one);
    breakOff(one);
    keepTalk(one);
  }
});

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
