// Language and theme, and what the page says of itself: notices, announcements, questions to the user.
import { Refused, Unreachable } from "/static/api.js";
import { $, icon, iconButton, make } from "/static/dom.js";
import { choices, keepChoices } from "/static/kept.js";
import { WORDS } from "/static/words.js";

const dressed = [];

// A text of the page in the chosen language.
export function say(key, values = {}) {
  const text = WORDS[choices.language][key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// `redraw` is called when the language changes.
export const onLanguage = (redraw) => dressed.push(redraw);

export function dress() {
  document.documentElement.lang = choices.language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
    if (element.matches("button, a, label")) element.title = say(element.dataset.label);
  }
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = say(element.dataset.hint);
  $("language").lang = choices.language === "zh" ? "en" : "zh-CN";
  for (const redraw of dressed) redraw();
  showTheme();
}

const isDark = () => (choices.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function showTheme() {
  if (choices.theme) document.documentElement.dataset.theme = choices.theme;
  $("theme").replaceChildren(icon(isDark() ? "sun" : "moon"), say(isDark() ? "light" : "dark"));
}

export function switches() {
  $("language").onclick = () => {
    choices.language = choices.language === "zh" ? "en" : "zh";
    keepChoices();
    dress();
  };
  $("theme").onclick = () => {
    choices.theme = isDark() ? "light" : "dark";
    keepChoices();
    showTheme();
  };
}

// -- what the page says --------------------------------------------------------------------------------------------

// An error in the user's language where its code is known.
export function told(error) {
  if (error instanceof Unreachable) return say("unreachable");
  const known = error instanceof Refused && error.code && `error-${error.code}`;
  return known && say(known) !== known ? say(known) : error.message;
}

export function notice(text) {
  const close = iconButton("close", say("dismiss"), () => $("notice").replaceChildren());
  $("notice").replaceChildren(make("p", { text }), close);
}

// Runs `work`; what goes wrong is shown.
export async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") notice(told(error));
    return undefined;
  }
}

// For screen readers only.
export const announce = (text) => ($("status").textContent = text);

// -- questions to the user -----------------------------------------------------------------------------------------

// Opens a dialog; the value of the button that closed it, "" for Escape.
function answered(dialog) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.onclose = () => resolve(dialog.returnValue);
    dialog.showModal();
  });
}

export async function confirmed(question) {
  $("confirm-text").textContent = question;
  return (await answered($("confirm"))) === "yes";
}

// A line of text from the user; "" where there is none. What is `needed` is asked for until it is given.
export async function asked(title, label, { secret = false, problem = "", button = "done", needed = false } = {}) {
  $("asked-title").textContent = title;
  $("asked-label").textContent = label;
  $("asked-problem").textContent = problem;
  $("asked-yes").textContent = say(button);
  $("asked-text").type = secret ? "password" : "text";
  $("asked-text").value = "";
  $("asked-no").hidden = needed;
  $("asked-no").onclick = () => $("asked").close("");
  for (;;) {
    const text = (await answered($("asked"))) === "yes" ? $("asked-text").value.trim() : "";
    if (text || !needed) return text;
  }
}
