// The settings of answers, kept in this browser; a field left empty means the server's own value.
import { json } from "/static/api.js";
import { $, make } from "/static/dom.js";
import { choices, keepChoices } from "/static/kept.js";
import { onLanguage, say } from "/static/look.js";

const FIELDS = [
  { name: "temperature", min: 0, max: 2, step: "any", hint: "0.2" },
  { name: "top_p", min: 0, max: 1, step: "any", hint: "0.9" },
  { name: "top_k", min: 0, max: 1000, step: 1, hint: "40" },
  { name: "repetition_penalty", min: 0.5, max: 2, step: "any", hint: "1.1" },
  { name: "max_tokens", min: 1, max: 131072, step: 1, hint: () => say("automatic") },
  { name: "seed", min: 0, max: 4294967294, step: 1, hint: () => say("random") },
  { name: "k", min: 1, max: 100, step: 1, hint: "5" },
];
const models = [];

// The body of a chat request.
export function asRequest(messages, mode, library) {
  const { k, system, model, ...sampling } = choices.settings;
  const known = models.find(({ id }) => id === model) ?? models[0];
  const body = { messages, stream: true, ...(known && { model: known.id }), ...sampling };
  if (mode !== "chat") return { ...body, use_documents: true, mode, library, ...(k && { k }) };
  if (system) body.messages = [{ role: "system", content: system }, ...messages];
  return body;
}

export const hasModel = () => models.length > 0;

// Asks the server which models it has. Raises what the server says.
export async function loadModels() {
  const { data } = await json("/v1/models");
  models.splice(0, Infinity, ...data.filter((model) => model.kind !== "embedding"));
  showModels();
}

function showModels() {
  const chosen = models.find(({ id }) => id === choices.settings.model) ?? models[0];
  $("model").textContent = chosen?.id ?? say("no-model");
  $("model").title = chosen ? say("context", { count: chosen.max_model_len }) : "";
  $("choose-model").replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === chosen?.id)));
  if (!chosen) $("choose-model").append(new Option(say("no-model"), ""));
  $("model-about").textContent = $("model").title;
}

function showFields() {
  $("settings-fields").replaceChildren(...FIELDS.map(({ name, hint, ...limits }) => {
    const id = `set-${name}`;
    const value = choices.settings[name] ?? "";
    const placeholder = typeof hint === "function" ? hint() : hint;
    const field = make("input", { id, type: "number", ...limits, value, placeholder, "aria-describedby": `${id}-help` });
    field.onchange = () => field.reportValidity() && set(name, field.value === "" ? undefined : Number(field.value));
    return make("p", { className: "field" }, make("label", { htmlFor: id, text: say(name) }), field,
      make("span", { id: `${id}-help`, className: "quiet", text: say(`${name}-help`) }));
  }));
  $("system").value = choices.settings.system ?? "";
}

function set(name, value) {
  choices.settings = { ...choices.settings, [name]: value };
  if (value === undefined) delete choices.settings[name];
  keepChoices();
  showModels();
}

export function settings() {
  onLanguage(() => {
    showFields();
    showModels();
  });
  $("show-settings").onclick = () => $("settings").showModal();
  $("choose-model").onchange = () => set("model", $("choose-model").value || undefined);
  $("system").onchange = () => set("system", $("system").value.trim() || undefined);
  $("defaults").onclick = () => {
    choices.settings = {};
    keepChoices();
    showFields();
    showModels();
  };
}
