// Markdown → elements, made node by node: what stands in a text never becomes HTML, an image is never fetched.
// Every piece of text knows where it stood in the source, so that a passage of the source can be marked.
import { make } from "/static/dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const UNDERLINE = /^ {0,3}(=+|-{2,})[ \t]*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const QUOTE = /^ {0,3}> ?/;
const BAR = /^ {0,3}\|?(?:[ \t]*:?-+:?[ \t]*\|)+(?:[ \t]*:?-+:?[ \t]*)?$/;
const INLINE = new RegExp(
  [
    "(`+)(?<code>[^`]+)\\1(?!`)", "\\*\\*(?=\\S)(?<strong>[^*\\n]*(?:\\*(?!\\*)[^*\\n]+)*\\S?)\\*\\*",
    "(?<![\\w*])\\*(?=[^\\s*])(?<em>[^*\\n]+)\\*(?![\\w*])", "(?<![\\w_])_(?=[^\\s_])(?<under>[^_\\n]+)_(?!\\w)",
    "~~(?=\\S)(?<del>[^~\\n]+)~~", "!?\\[(?<link>[^\\[\\]\\n]*)\\]\\((?<url>[^()\\s]*)(?: +\"[^\"\\n]*\")?\\)",
    "<(?<bare>https?:[^<>\\s]+)>", "\\[(?<cite>\\d{1,3})\\]", "\\\\(?<literal>[!-/:-@\\[-`{-~])",
  ].join("|"),
  "g",
);
const LONGEST = 20_000; // characters of a paragraph in which emphasis is looked for
const DEEPEST = 20; // quotations and lists inside one another; what is deeper stays text

// `source` drawn as Markdown into a fragment. Options: `mark`, [from, to) of the source to be marked; `cite`, what
// stands for a source number (null: the number as it is); `breaks`, whether a line's end is shown as one.
export function render(source, { mark = [0, 0], cite = () => null, breaks = false, plain = false } = {}) {
  const drawing = { mark, cite, breaks, depth: 0 };
  const root = document.createDocumentFragment();
  const lines = linesOf(source);
  if (plain) root.append(make("div", { className: "as-is" }, ...inline(drawing, lines, ["cite"])));
  else blocks(drawing, root, lines);
  return root;
}

export const isMarkdown = (file) => /\.(md|markdown|mdown)$/i.test(file);

// Lines with the place where each begins.
function linesOf(source) {
  let at = 0;
  return source.split("\n").map((text) => {
    const line = { text, at };
    at += text.length + 1;
    return line;
  });
}

const cut = (line, count) => ({ text: line.text.slice(count), at: line.at + Math.min(count, line.text.length) });

// -- blocks --------------------------------------------------------------------------------------------------------

function blocks(drawing, parent, lines) {
  const nests = drawing.depth < DEEPEST;
  let at = 0;
  while (at < lines.length) {
    const { text } = lines[at];
    if (!text.trim()) at += 1;
    else if (FENCE.test(text)) at = fence(drawing, parent, lines, at);
    else if (HEADING.test(text)) at = heading(drawing, parent, lines, at);
    else if (RULE.test(text)) parent.append(make("hr")), (at += 1);
    else if (nests && QUOTE.test(text)) at = quotation(drawing, parent, lines, at);
    else if (nests && ITEM.test(text)) at = list(drawing, parent, lines, at);
    else if (text.includes("|") && BAR.test(lines[at + 1]?.text ?? "")) at = table(drawing, parent, lines, at);
    else at = paragraph(drawing, parent, lines, at);
  }
}

const deeper = (drawing) => ({ ...drawing, depth: drawing.depth + 1 });

function fence(drawing, parent, lines, at) {
  const [, opening] = FENCE.exec(lines[at].text);
  let end = at + 1;
  while (end < lines.length && !(FENCE.exec(lines[end].text)?.[1].startsWith(opening) && !FENCE.exec(lines[end].text)[2].trim())) end += 1;
  parent.append(make("pre", {}, make("code", {}, ...inline(drawing, lines.slice(at + 1, end), []))));
  return end + 1;
}

function heading(drawing, parent, lines, at) {
  const [, hashes, words = ""] = HEADING.exec(lines[at].text);
  const from = words ? lines[at].text.indexOf(words, hashes.length) : 0;
  titled(drawing, parent, hashes.length, [{ text: words, at: lines[at].at + from }]);
  return at + 1;
}

// The page's own headings are h1 and h2.
function titled(drawing, parent, level, lines) {
  parent.append(make(`h${Math.min(6, level + 2)}`, { className: `level-${level}` }, ...inline(drawing, lines)));
}

function quotation(drawing, parent, lines, at) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end].text)) end += 1;
  const inner = make("blockquote");
  blocks(deeper(drawing), inner, lines.slice(at, end).map((line) => cut(line, QUOTE.exec(line.text)[0].length)));
  parent.append(inner);
  return end;
}

function list(drawing, parent, lines, at) {
  const [, , bullet] = ITEM.exec(lines[at].text);
  const ordered = /\d/.test(bullet);
  const whole = make(ordered ? "ol" : "ul", ordered ? { start: Number.parseInt(bullet, 10) } : {});
  while (at < lines.length) {
    const found = ITEM.exec(lines[at].text);
    if (!found || /\d/.test(found[2]) !== ordered || RULE.test(lines[at].text)) break;
    const width = found[0].length;
    const inside = [cut(lines[at], width)];
    at += 1;
    while (at < lines.length && goesOn(lines, at, found[1].length)) {
      inside.push(cut(lines[at], Math.min(width, lines[at].text.search(/\S|$/))));
      at += 1;
    }
    whole.append(item(drawing, inside));
  }
  parent.append(whole);
  return at;
}

// Whether a line belongs to the item above it: it is indented, or it is a gap before one that is.
function goesOn(lines, at, indent) {
  const { text } = lines[at];
  if (text.trim()) return text.search(/\S/) > indent || !(ITEM.test(text) || starts(text) || !lines[at - 1].text.trim());
  return lines[at + 1]?.text.trim() && lines[at + 1].text.search(/\S/) > indent;
}

const starts = (text) => FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text);

function item(drawing, lines) {
  const inner = make("li");
  blocks(deeper(drawing), inner, lines);
  const only = inner.children.length === 1 && inner.firstElementChild;
  if (only?.tagName === "P") only.replaceWith(...only.childNodes);
  return inner;
}

function table(drawing, parent, lines, at) {
  const rows = [lines[at]];
  let end = at + 2;
  while (end < lines.length && lines[end].text.includes("|")) rows.push(lines[end++]);
  const [head, ...body] = rows.map((line, index) => {
    const cells = cellsOf(line).map((cell) => make(index ? "td" : "th", {}, ...inline(drawing, [cell])));
    return make("tr", {}, ...cells);
  });
  const whole = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  parent.append(make("div", { className: "wide", tabIndex: 0 }, whole));
  return end;
}

/** The cells of a row, the empty ones too; a bar at either end is only its margin. */
function cellsOf(line) {
  const start = /^\s*\|?/.exec(line.text)[0].length;
  const end = /(?:(?<!\\)\|)?\s*$/.exec(line.text).index;
  let at = start;
  return line.text.slice(start, end).split(/(?<!\\)\|/).map((cell) => {
    const words = cell.trim();
    const found = { text: words, at: line.at + at + cell.indexOf(words) };
    at += cell.length + 1;
    return found;
  });
}

function paragraph(drawing, parent, lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].text.trim() && !UNDERLINE.test(lines[end].text)) {
    if (starts(lines[end].text) || ITEM.test(lines[end].text)) break;
    end += 1;
  }
  const under = UNDERLINE.exec(lines[end]?.text ?? "");
  const own = lines.slice(at, end).map((line) => cut(line, line.text.search(/\S|$/)));
  if (under && lines[end].text.trim()) {
    titled(drawing, parent, under[1][0] === "=" ? 1 : 2, own);
    return end + 1;
  }
  parent.append(make("p", {}, ...inline(drawing, own)));
  return end;
}

// -- inside a block ------------------------------------------------------------------------------------------------

// `kinds` names what is looked for besides text: everything, or only source numbers, or nothing.
function inline(drawing, lines, kinds) {
  const text = lines.map((line) => line.text).join("\n");
  const places = [];
  for (const line of lines) for (let index = 0; index <= line.text.length; index += 1) places.push(line.at + index);
  const breaks = drawing.breaks && !kinds;
  const run = { drawing, text, places, kinds: text.length > LONGEST ? (kinds ?? ["cite"]) : kinds, breaks };
  return pieces(run, 0, text.length);
}

function pieces(run, from, to) {
  const found = [];
  let at = from;
  if (run.kinds?.length !== 0) {
    for (const match of run.text.slice(from, to).matchAll(INLINE)) {
      const element = special(run, match, from + match.index);
      if (!element) continue;
      found.push(...words(run, at, from + match.index), element);
      at = from + match.index + match[0].length;
    }
  }
  return [...found, ...words(run, at, to)];
}

// The element of what was found, or null to leave it as text.
function special(run, match, at) {
  const { code, strong, em, under, del, link, url, bare, cite, literal } = match.groups;
  if (cite !== undefined) return run.drawing.cite(Number(cite));
  if (run.kinds) return null;
  const inside = (value) => [at + match[0].indexOf(value), at + match[0].indexOf(value) + value.length];
  if (code !== undefined) return make("code", {}, ...words(run, ...inside(code)));
  if (strong) return make("strong", {}, ...pieces(run, ...inside(strong)));
  if (em ?? under) return make("em", {}, ...pieces(run, ...inside(em ?? under)));
  if (del) return make("del", {}, ...pieces(run, ...inside(del)));
  if (literal !== undefined) return make("span", {}, ...words(run, at + 1, at + 2));
  if (bare) return anchor(bare, words(run, at + 1, at + 1 + bare.length));
  return match[0].startsWith("!") ? make("em", {}, ...words(run, ...inside(link))) : anchor(url, pieces(run, ...inside(link)));
}

// Only addresses of the web; the browser says nothing of this page to them.
function anchor(url, children) {
  if (!/^https?:\/\//i.test(url)) return make("span", {}, ...children);
  return make("a", { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

// Text from `from` to `to`, what lies in the mark inside <mark>, line ends as <br> where they are shown.
function words(run, from, to) {
  const [first, last] = run.drawing.mark;
  const found = [];
  let at = from;
  while (at < to) {
    const inMark = run.places[at] >= first && run.places[at] < last;
    let end = at;
    while (end < to && (run.places[end] >= first && run.places[end] < last) === inMark) end += 1;
    const nodes = broken(run, run.text.slice(at, end));
    found.push(...(inMark ? [make("mark", {}, ...nodes)] : nodes));
    at = end;
  }
  return found;
}

function broken(run, text) {
  if (!run.breaks || !text.includes("\n")) return [document.createTextNode(text)];
  return text.split("\n").flatMap((line, index) => (index ? [make("br"), line] : [line]));
}
