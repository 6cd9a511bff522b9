// The panel beside the chat: a document at the passage that was cited, the quotation marked. A PDF's page is shown as it
// looks, Markdown as it reads, everything else as it stands.
import { json } from "/static/api.js";
import { $, iconButton, make } from "/static/dom.js";
import { closePanel, showPanel } from "/static/layout.js";
import { guarded, onLanguage, say } from "/static/look.js";
import { isMarkdown, render } from "/static/markdown.js";
import { place } from "/static/messages.js";

const MORE = 6000; // characters that "more" adds on either side
let open = null; // what the panel shows: a source, and how far around it

// From the list of documents: its beginning.
export function openDocument(one) {
  const page = one.kind === "pdf" ? "1" : null;
  return openSource({ document: one.id, library: one.library, file: one.name, page, line: 1, start: 0, end: 0 });
}

export const openSource = (source) => guarded(async () => {
  const own = { source, around: 0, page: null };
  open = own;
  showPanel();
  $("source-name").textContent = source.file;
  $("source-page").replaceChildren();
  $("source-text").replaceChildren();
  $("source-place").textContent = place(source);
  try {
    await Promise.all([drawText(own), source.page ? drawPage(own, null) : null]);
  } catch (error) {
    if (open === own) closePanel();
    throw error;
  }
  if (open === own) toMark();
});

function toMark() {
  const mark = $("source-page").querySelector(".spot") ?? $("source-text").querySelector("mark");
  if (mark) mark.scrollIntoView({ block: "center" });
  else $("source").scrollTop = 0;
}

const pathOf = ({ source }, what, asked) => (
  `/v1/documents/${source.document}/${what}?${new URLSearchParams({ ...asked, ...(source.library && { library: source.library }) })}`);

// -- the text ------------------------------------------------------------------------------------------------------

async function drawText(own) {
  const { start, end, file, page } = own.source;
  const asked = { start: Math.max(0, start - own.around), end: end + own.around };
  const found = await json(pathOf(own, "text", asked));
  if (open !== own) return;
  const mark = [start, end].map((offset) => units(found.text, offset - found.start));
  const body = isMarkdown(file) ? make("div", { className: "text" }, render(found.text, { mark })) : asItStands(found.text, mark);
  const more = () => make("button", { type: "button", className: "quiet more", text: say("show-more"), onclick: () => widen(own) });
  $("source-text").replaceChildren(...[
    page ? make("h3", { text: say("text-of-page") }) : null, found.start > 0 ? more() : null, body, found.more ? more() : null,
  ].filter(Boolean));
}

function asItStands(text, [from, to]) {
  const mark = to > from ? make("mark", { text: text.slice(from, to) }) : "";
  return make("div", { className: "as-is" }, text.slice(0, from), mark, text.slice(to));
}

// Where the character of this number begins: Python counts characters, JavaScript UTF-16 units.
function units(text, characters) {
  let at = 0;
  for (let left = characters; left > 0 && at < text.length; left -= 1) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return at;
}

const widen = (own) => guarded(async () => {
  own.around += MORE;
  const before = $("source-text").querySelector("mark")?.getBoundingClientRect().top;
  await drawText(own);
  const after = $("source-text").querySelector("mark")?.getBoundingClientRect().top;
  if (before !== undefined && after !== undefined) $("source").scrollTop += after - before;
});

// -- a page --------------------------------------------------------------------------------------------------------

// Draws the page that holds the passage, or another one; a document without pages to draw shows only its text.
async function drawPage(own, page) {
  const { start, end } = own.source;
  const asked = end > start ? { start, end, ...(page && { page }) } : { page: page ?? 1 };
  const drawn = await json(pathOf(own, "page", asked)).catch((error) => {
    if (error.name === "AbortError" || error.status !== 400) throw error;
    return null;
  });
  if (open !== own || !drawn) return;
  own.page = drawn.page;
  $("source-place").textContent = say("page", { number: drawn.page });
  $("source-page").replaceChildren(turning(own, drawn), picture(drawn));
}

function turning(own, { page, pages }) {
  const turn = (to) => guarded(() => drawPage(own, to));
  const before = iconButton("left", say("previous-page"), () => turn(page - 1));
  const after = iconButton("right", say("next-page"), () => turn(page + 1));
  [before.disabled, after.disabled] = [page <= 1, page >= pages];
  return make("div", { className: "turning" }, before, make("span", { text: say("page-of", { number: page, count: pages }) }), after);
}

// The page as it looks, with a box over each line of the quotation.
function picture({ png, page, pages, width, height, rectangles, marked }) {
  const alt = `${say("page-of", { number: page, count: pages })}${marked ? `: ${marked}` : ""}`;
  const whole = make("div", { className: "sheet" }, make("img", { src: `data:image/png;base64,${png}`, alt, width, height }));
  for (const [left, top, right, bottom] of rectangles) {
    const spot = make("span", { className: "spot" });
    const share = (part) => `${100 * part}%`;
    Object.assign(spot.style, { left: share(left), top: share(top), width: share(right - left), height: share(bottom - top) });
    whole.append(spot);
  }
  return whole;
}

export function sources() {
  onLanguage(() => open && !$("source").hidden && openSource(open.source));
}
