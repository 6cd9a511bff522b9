// The page: conversations kept in this browser, answers as they are written, documents and the passages they cite.
// Everything that came from a user, a model or a document is set as text, never as HTML.
import { Refused, call, events, json, setToken } from "/static/api.js";
import { WORDS } from "/static/words.js";

const $ = (id) => document.getElementById(id);
const kept = JSON.parse(localStorage.getItem("hanpaca") || "{}");
const state = {
  language: kept.language || (navigator.language.startsWith("zh") ? "zh" : "en"),
  theme: kept.theme || "",
  talks: kept.talks?.length ? kept.talks : [{ id: Date.now(), said: [] }],
  current: 0,
};
let running = null;

const say = (key) => WORDS[state.language][key];
const talk = () => state.talks[state.current];

function keep() {
  const { language, theme, talks } = state;
  localStorage.setItem("hanpaca", JSON.stringify({ language, theme, talks }));
}

function make(tag, text, className) {
  const element = document.createElement(tag);
  element.textContent = text ?? "";
  if (className) element.className = className;
  return element;
}

// -- language and theme ------------------------------------------------------------------------------------------

function dress() {
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  $("language").textContent = say("other");
  $("language").lang = state.language === "zh" ? "en" : "zh-CN";
  $("question").placeholder = say("question");
  showTalks();
  showTalk();
}

// -- conversations -----------------------------------------------------------------------------------------------

function showTalks() {
  $("talks").replaceChildren(
    ...state.talks.map((one, index) => {
      const item = make("li");
      const open = make("button", one.said[0]?.content.slice(0, 40) || say("untitled"));
      if (index === state.current) open.setAttribute("aria-current", "true");
      open.onclick = () => choose(index);
      const remove = make("button", "×");
      remove.setAttribute("aria-label", `${say("delete")}: ${open.textContent}`);
      remove.onclick = () => {
        state.talks.splice(index, 1);
        if (!state.talks.length) state.talks.push({ id: Date.now(), said: [] });
        choose(0);
      };
      item.append(open, remove);
      return item;
    }),
  );
}

function choose(index) {
  running?.abort();
  state.current = index;
  keep();
  showTalks();
  showTalk();
}

function showTalk() {
  $("talk").replaceChildren(...talk().said.map(shown));
  $("talk").scrollTop = $("talk").scrollHeight;
}

function shown(one) {
  const element = make("div", "", `said ${one.role}`);
  fill(element, one);
  return element;
}

// An answer's text with its source numbers as buttons, then notes, passages and errors.
function fill(element, one) {
  element.replaceChildren();
  const sources = new Map((one.sources || []).map((source) => [source.number, source]));
  for (const part of one.content.split(/(\[\d+\])/)) {
    const source = sources.get(Number(part.slice(1, -1)));
    element.append(/^\[\d+\]$/.test(part) && source ? citation(source) : part);
  }
  for (const passage of one.passages || []) element.append(passageOf(passage));
  for (const note of one.notes || []) element.append(make("div", note, "note"));
  if (one.error) element.append(make("div", one.error, "error"));
}

function citation(source) {
  const button = make("button", `[${source.number}]`, "cite");
  button.type = "button";
  button.title = `${source.file}, ${place(source)}`;
  button.setAttribute("aria-label", `${say("source")} ${source.number}: ${button.title}`);
  button.onclick = () => openSource(source);
  return button;
}

const place = (source) => {
  const where = source.page ? `${say("page")} ${source.page}` : `${say("line")} ${source.line}`;
  return source.member ? `${source.member}, ${where}` : where;
};

function passageOf(hit) {
  const box = make("div", "", "passage");
  const open = make("button", `${hit.file}, ${place(hit)}`, "cite");
  open.type = "button";
  open.onclick = () => openSource(hit);
  box.append(open, make("div", hit.text));
  return box;
}

// -- asking ------------------------------------------------------------------------------------------------------

async function ask() {
  const answer = { role: "assistant", content: "" };
  const asked = talk().said.map(({ role, content }) => ({ role, content: content || "…" }));
  talk().said.push(answer);
  const element = shown(answer);
  $("talk").append(element);
  running = new AbortController();
  busy(true);
  try {
    if ($("mode").value === "search") await search(asked.at(-1).content, answer);
    else for await (const piece of events("/v1/chat/completions", request(asked))) take(piece, answer, element);
  } catch (error) {
    if (error.name === "AbortError") answer.notes = [say("stopped")];
    else answer.error = await told(error);
  }
  running = null;
  fill(element, answer);
  busy(false);
  keep();
  showTalks();
}

function request(messages) {
  const body = {
    messages, stream: true, max_tokens: Number($("length").value) || 512,
    temperature: Number($("temperature").value),
  };
  const mode = $("mode").value;
  if (mode !== "chat") Object.assign(body, { use_documents: true, mode, library: $("library").value || undefined });
  return { method: "POST", body, signal: running.signal };
}

function take(piece, answer, element) {
  if (piece.error) throw new Error(piece.error.message);
  answer.content += piece.choices[0]?.delta.content || "";
  if (piece.sources) Object.assign(answer, { sources: piece.sources, notes: piece.notes });
  const log = $("talk");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  fill(element, answer);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

async function search(query, answer) {
  const body = { query, library: $("library").value || undefined };
  const found = await json("/v1/search", { method: "POST", body, signal: running.signal });
  answer.passages = found.data.map(({ document, file, page, line, start, end, text }) => (
    { document, file, page, line, start, end, text }));
  if (!found.data.length) answer.content = say("nothing");
}

function busy(is) {
  $("stop").hidden = !is;
  $("send").hidden = is;
  $("again").disabled = $("edit").disabled = is;
  $("talk").setAttribute("aria-busy", String(is));
}

// What is said before the last question, whose text is returned.
function takeBack() {
  const at = talk().said.findLastIndex((one) => one.role === "user");
  if (at < 0) return "";
  const [last] = talk().said.splice(at);
  return last.content;
}

function submit(text) {
  if (!text.trim() || running) return;
  talk().said.push({ role: "user", content: text.trim() });
  keep();
  showTalk();
  showTalks();
  ask();
}

// -- documents ---------------------------------------------------------------------------------------------------

const query = () => ($("library").value ? `?library=${encodeURIComponent($("library").value)}` : "");

async function showLibraries() {
  const { data } = await json("/v1/libraries");
  $("library").replaceChildren(...data.map((library) => new Option(library.id, library.id)));
}

async function showDocuments() {
  if (!$("library").options.length) await showLibraries();
  const listed = (await json(`/v1/documents${query()}`)).data;
  $("documents").replaceChildren(...listed.map(documentItem));
  for (const one of listed) if (!["ready", "failed"].includes(one.status)) follow(one.id);
}

function documentItem(one) {
  const item = make("li");
  item.dataset.id = one.id;
  const name = make("span", one.name);
  name.title = one.error || one.name;
  const remove = make("button", "×");
  remove.setAttribute("aria-label", `${say("delete")}: ${one.name}`);
  remove.onclick = () => guarded(async () => {
    await call(`/v1/documents/${one.id}${query()}`, { method: "DELETE" });
    item.remove();
  });
  item.append(name, make("span", progress(one), one.status === "failed" ? "error" : "quiet"), remove);
  return item;
}

function progress(one) {
  if (one.status === "ready") return "";
  const share = one.status === "embedding" && one.total ? ` ${Math.round((100 * one.done) / one.total)} %` : "";
  return say(one.status) + share;
}

async function follow(id) {
  for await (const one of events(`/v1/documents/${id}/events${query()}`)) {
    const item = [...$("documents").children].find((child) => child.dataset.id === id);
    if (!item || one.error?.message) return;
    item.replaceWith(documentItem(one));
  }
}

async function upload(files) {
  for (const file of files) {
    const form = new FormData();
    if ($("library").value) form.append("library", $("library").value);
    form.append("file", file);
    await guarded(() => call("/v1/documents", { method: "POST", body: form }));
  }
  $("files").value = "";
  await guarded(showDocuments);
}

// The passage as it stands in its document, the quotation marked.
async function openSource(source) {
  const [from, to] = [source.start, source.end];
  const path = `/v1/documents/${source.document}/text?start=${from}&end=${to}`;
  const library = query().replace("?", "&");
  await guarded(async () => {
    const found = await json(path + library);
    const drawn = source.page && (await json(path.replace("/text?", "/page?") + library).catch(() => null));
    const characters = Array.from(found.text); // offsets count characters, as Python does
    const cut = (start, end) => characters.slice(start - found.start, end - found.start).join("");
    const mark = make("mark", cut(from, to));
    $("source-name").textContent = `${source.file}, ${place(source)}`;
    $("source-text").replaceChildren(cut(found.start, from), mark, cut(to, found.start + characters.length));
    $("source-page").replaceChildren(...(drawn ? pictureOf(drawn) : []));
    $("source").hidden = false;
    ($("source-page").querySelector(".spot") || mark).scrollIntoView({ block: "center" });
    $("source-name").focus({ preventScroll: true });
  });
}

// A page of a PDF as it looks, with a box over each line of the quotation.
function pictureOf(drawn) {
  const picture = make("img");
  picture.src = `data:image/png;base64,${drawn.png}`;
  picture.alt = `${say("page")} ${drawn.page} / ${drawn.pages}`;
  [picture.width, picture.height] = [drawn.width, drawn.height];
  const spots = drawn.rectangles.map(([left, top, right, bottom]) => {
    const spot = make("span", "", "spot");
    const share = (part) => `${100 * part}%`;
    Object.assign(spot.style, {
      left: share(left), top: share(top), width: share(right - left), height: share(bottom - top),
    });
    return spot;
  });
  return [picture, ...spots];
}

// -- errors and the token ------------------------------------------------------------------------------------------

async function told(error) {
  if (error instanceof Refused && error.status === 401) await askToken();
  return error.message;
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    $("talk").append(make("div", await told(error), "said error"));
  }
}

function askToken() {
  return new Promise((resolve) => {
    $("token-dialog").onclose = () => {
      setToken($("token").value.trim());
      resolve();
      start();
    };
    if (!$("token-dialog").open) $("token-dialog").showModal();
  });
}

async function start() {
  await guarded(async () => {
    const { data } = await json("/v1/models");
    $("model").textContent = data.find((model) => model.kind !== "embedding")?.id || "";
    await showDocuments();
  });
}

// -- what the user does ----------------------------------------------------------------------------------------------

$("ask").onsubmit = (event) => {
  event.preventDefault();
  submit($("question").value);
  $("question").value = "";
};
$("question").onkeydown = (event) => {
  // Enter sends, but not while an input method composes Chinese.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) $("ask").onsubmit(event);
};
$("stop").onclick = () => running?.abort();
$("again").onclick = () => submit(takeBack());
$("edit").onclick = () => {
  $("question").value = takeBack();
  keep();
  showTalk();
  $("question").focus();
};
$("new").onclick = () => {
  state.talks.unshift({ id: Date.now(), said: [] });
  choose(0);
};
$("export").onclick = () => {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(talk(), null, 2)], { type: "application/json" }));
  link.download = `hanpaca-${talk().id}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
};
$("language").onclick = () => {
  state.language = state.language === "zh" ? "en" : "zh";
  keep();
  dress();
  guarded(showDocuments);
};
$("theme").onclick = () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = state.theme || (dark ? "dark" : "light");
  state.theme = now === "dark" ? "light" : "dark";
  keep();
  document.documentElement.dataset.theme = state.theme;
};
$("show-side").onclick = () => {
  const open = $("side").classList.toggle("open");
  $("show-side").setAttribute("aria-expanded", String(open));
};
$("close").onclick = () => ($("source").hidden = true);
$("library").onchange = () => guarded(showDocuments);
$("files").onchange = () => upload($("files").files);
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") upload(event.dataTransfer.files);
  });
}

dress();
start();
