// What this browser keeps: choices under one key, each conversation under a key of its own, so that two tabs of the page
// do not overwrite each other's. Knows nothing of what is shown.
const CHOICES = "hanpaca.choices";
const TALK = "hanpaca.talk.";

export const choices = {
  language: navigator.language.startsWith("zh") ? "zh" : "en", theme: "", library: "", mode: "auto", settings: {},
  ...read(CHOICES),
};
export let talks = load();
const dropped = new Set(); // what is deleted while its answer is still coming must not come back

function read(key) {
  try {
    const found = JSON.parse(localStorage.getItem(key));
    return found && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}

// Returns whether there was room.
function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function load() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(TALK));
  const found = keys.map(read).filter((talk) => talk.id && Array.isArray(talk.said) && talk.said.length);
  return found.sort((one, other) => other.changed - one.changed);
}

export const keepChoices = () => write(CHOICES, choices);

export function newTalk() {
  return { id: `${Date.now()}-${Math.random().toString(36).slice(2, 8)}`, changed: Date.now(), said: [] };
}

// An empty conversation is not kept. Returns whether there was room.
export function keepTalk(talk) {
  if (!talk.said.length || dropped.has(talk.id)) return true;
  talk.changed = Date.now();
  if (!talks.includes(talk)) talks.unshift(talk);
  return write(TALK + talk.id, talk);
}

export function dropTalk(talk) {
  dropped.add(talk.id);
  talks = talks.filter((one) => one !== talk);
  localStorage.removeItem(TALK + talk.id);
}

// Calls `changed` when another tab has changed the conversations; `isHeld` says which this tab shows or writes to.
export function watchOtherTabs(isHeld, changed) {
  addEventListener("storage", (event) => {
    if (!event.key?.startsWith(TALK)) return;
    const own = new Map(talks.filter(isHeld).map((talk) => [talk.id, talk]));
    talks = load().map((talk) => own.get(talk.id) ?? talk);
    changed();
  });
}
