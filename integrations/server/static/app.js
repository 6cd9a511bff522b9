// Puts the page together; each part is a file beside this one.
import { ask, exportTalk, showTalk, stop } from "/static/asking.js";
import { onTokenNeeded } from "/static/api.js";
import { documents, loadLibraries } from "/static/documents.js";
import { $, composes } from "/static/dom.js";
import { choices, keepChoices } from "/static/kept.js";
import { layout } from "/static/layout.js";
import { asked, dress, guarded, onLanguage, say, switches } from "/static/look.js";
import { hasModel, loadModels, settings } from "/static/settings.js";
import { sources } from "/static/source.js";
import { conversations } from "/static/talks.js";
import { uploads } from "/static/uploads.js";

// -- asking --------------------------------------------------------------------------------------------------------

async function submit(event) {
  event?.preventDefault();
  const text = $("question").value.trim();
  if (!text || !$("stop").hidden) return;
  if (!(await ask(text))) return;
  $("question").value = "";
  grow();
}

// The field is as high as what stands in it, up to a limit of the style sheet.
function grow() {
  $("question").style.height = "auto";
  $("question").style.height = `${$("question").scrollHeight + 2}px`;
}

function form() {
  $("ask").onsubmit = submit;
  $("question").oninput = grow;
  $("question").onkeydown = (event) => {
    // Enter sends, but not while an input method composes Chinese.
    if (event.key === "Enter" && !event.shiftKey && !composes(event)) submit(event);
  };
  $("stop").onclick = () => stop();
  $("export").onclick = exportTalk;
}

// -- the ways to answer --------------------------------------------------------------------------------------------

function showMode() {
  for (const radio of document.querySelectorAll("[name=mode]")) radio.checked = radio.value === choices.mode;
  const hint = choices.mode === "chat" ? "ask-model" : choices.mode === "search" ? "ask-search" : "ask-documents";
  $("question").placeholder = say(hint);
  $("mode-help").textContent = say(`${choices.mode}-help`);
}

function modes() {
  const chosen = (mode) => {
    choices.mode = mode;
    keepChoices();
    showMode();
  };
  for (const radio of document.querySelectorAll("[name=mode]")) radio.onchange = () => chosen(radio.value);
  for (const card of document.querySelectorAll("[data-mode]")) {
    card.onclick = () => {
      chosen(card.dataset.mode);
      $("question").focus();
    };
  }
  onLanguage(showMode);
}

function withoutModel() {
  if (hasModel()) return;
  document.querySelector("[name=mode][value=chat]").disabled = true;
  document.querySelector("[data-mode=chat]").disabled = true;
  if (choices.mode === "chat") choices.mode = "auto";
  showMode();
}

// -- the beginning -------------------------------------------------------------------------------------------------

onTokenNeeded((wrong) => asked(say("token-title"), say("token"), {
  secret: true, problem: wrong ? say("token-wrong") : "", button: "unlock", needed: true,
}));
for (const part of [switches, layout, settings, documents, uploads, sources, conversations, form, modes]) part();
onLanguage(showTalk);
dress();
guarded(async () => {
  await loadModels();
  withoutModel();
  await loadLibraries();
});
