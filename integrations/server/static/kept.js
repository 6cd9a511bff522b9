// What this browser keeps: choices under one key, each conversation under a key of its own. Of two tabs with the same
// conversation one at a time changes it, the other takes what is stored. Knows nothing of what is shown.
const CHOICES = "hanpaca.choices";
const TALK = "hanpaca.talk.";
const SILENT = 90_000; // ms after which a tab that keeps nothing of its answer is gone; a hidden one's clock ticks once a minute

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
  const found = keys.map(read).filter(isTalk);
  for (const talk of found) if (!isAnswered(talk)) breakOff(talk);
  return found.sort((one, other) => other.changed - one.changed);
}

function isTalk({ id, said }) {
  return Boolean(id && Array.isArray(said) && said.length);
}

// Whether a tab, this one or another, is writing an answer in it.
export function isAnswered({ said, changed }) {
  return said.some((entry) => entry.pending) && Date.now() - changed < SILENT;
}

// What was being written when its page was closed.
export function breakOff({ said }) {
  for (const entry of said) if (entry.pending) Object.assign(entry, { pending: undefined, stopped: "broken-off" });
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

// Takes what another tab has made of a conversation.
export function takeStored(talk) {
  const stored = read(TALK + talk.id);
  if (isTalk(stored) && stored.changed > talk.changed) Object.assign(talk, stored);
}

// Calls `changed` when another tab has changed the conversations; those that `isHeld` are this tab's to change.
export function watchOtherTabs(isHeld, changed) {
  addEventListener("storage", ({ key, newValue }) => {
    if (!key?.startsWith(TALK)) return;
    const known = talks.find(({ id }) => TALK + id === key);
    if (known && isHeld(known)) return;
    const stored = read(key);
    if (newValue === null) talks = talks.filter((one) => one !== known);
    else if (known) takeStored(known);
    else if (isTalk(stored)) talks.unshift(stored);
    changed();
  });
}
