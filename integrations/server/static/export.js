// A conversation as a Markdown file, its sources as notes under each answer. Knows nothing of what is shown.
import { say } from "/static/look.js";
import { place } from "/static/messages.js";

export function asMarkdown(talk) {
  return `${talk.said.map((one) => (one.role === "user" ? `## ${oneLine(one.content)}` : answer(one))).join("\n\n")}\n`;
}

const oneLine = (text) => text.replace(/\s*\n\s*/g, " ");
const quoted = (text) => text.split("\n").map((line) => `> ${line}`).join("\n");

function answer(one) {
  const parts = [one.content];
  for (const hit of one.passages || []) parts.push(`${quoted(hit.text)}\n>\n> — ${hit.file}, ${place(hit)}`);
  for (const note of [...(one.notes || []), one.stopped && say(one.stopped), one.error]) if (note) parts.push(`*${note}*`);
  const list = (one.sources || []).map((source) => `- [${source.number}] ${source.file}, ${place(source)}: “${oneLine(source.quote)}”`);
  if (list.length) parts.push(`${say("sources")}:\n\n${list.join("\n")}`);
  return parts.filter(Boolean).join("\n\n");
}
