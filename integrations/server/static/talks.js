// The list of conversations at the side.
import { choose, exportAll, isRunning, onTalks, renew, stop, talk, titleOf } from "/static/asking.js";
import { $, iconButton, make } from "/static/dom.js";
import { choices, dropTalk, talks, watchOtherTabs } from "/static/kept.js";
import { closeSide } from "/static/layout.js";
import { confirmed, onLanguage, say } from "/static/look.js";

let drawn = ""; // what the list says

function show() {
  const now = JSON.stringify([choices.language, talks.map((one) => [one.id, titleOf(one), one === talk(), isRunning(one)])]);
  if (now === drawn) return; // the focus stays where it is
  drawn = now;
  $("talks").replaceChildren(...talks.map((one) => {
    const name = titleOf(one);
    const open = make("button", { type: "button", className: "name", text: name, title: name, onclick: () => pick(one) });
    if (one === talk()) open.setAttribute("aria-current", "true");
    if (isRunning(one)) open.classList.add("running");
    return make("li", {}, open, iconButton("trash", `${say("delete")}: ${name}`, () => remove(one, name)));
  }));
  $("export-all").disabled = !talks.length;
}

function pick(one) {
  choose(one);
  closeSide();
}

async function remove(one, name) {
  if (!(await confirmed(say("delete-talk", { name })))) return;
  stop(one);
  dropTalk(one);
  if (one === talk()) choose(null);
  else show();
  $("new").focus();
}

export function conversations() {
  onTalks(show);
  onLanguage(show);
  watchOtherTabs(isRunning, () => {
    renew();
    show();
  });
  $("new").onclick = () => {
    pick(null);
    $("question").focus();
  };
  $("export-all").onclick = exportAll;
}
