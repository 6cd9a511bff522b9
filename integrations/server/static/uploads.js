// Files on their way to the server, one after another: chosen, or dropped anywhere on the page, folders too.
import { upload } from "/static/api.js";
import { largest, libraryName, progressOf, put, sizeOf } from "/static/documents.js";
import { $, icon, iconButton, make } from "/static/dom.js";
import { say, told } from "/static/look.js";

let queue = Promise.resolve();

export function send(files) {
  const library = libraryName();
  for (const file of files) {
    const item = row(file);
    $("sending").append(item);
    queue = queue.then(() => one(file, library, item));
  }
}

function row(file) {
  const item = make("li", { className: "document" }, icon("file"),
    make("div", { className: "about" }, make("span", { className: "name", text: file.name, title: file.name }), progressOf(file.name, say("waiting"))));
  return item;
}

async function one(file, library, item) {
  const about = item.querySelector(".about");
  const tell = (share) => about.lastElementChild.replaceWith(progressOf(file.name, say("sending", { share: Math.floor(100 * share) }), 100 * share));
  try {
    if (file.size > largest()) throw new Error(say("too-large-file", { size: sizeOf(largest()) }));
    const status = await upload(file, library, tell);
    item.remove();
    if (library === libraryName()) put(status);
  } catch (error) {
    about.lastElementChild.replaceWith(make("span", { className: "error", role: "alert", text: told(error) }));
    item.append(iconButton("close", `${say("dismiss")}: ${file.name}`, () => item.remove()));
  }
}

// -- dropping ------------------------------------------------------------------------------------------------------

// The files in what was dropped. The entries must be taken before anything is awaited.
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(filesIn))).flat();
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives some at a time, then none
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(filesIn))).flat();
    found.push(...some.filter(({ name }) => !name.startsWith(".")));
  }
}

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

export function uploads() {
  $("files").onchange = () => {
    send([...$("files").files]);
    $("files").value = "";
  };
  $("choose-files").onclick = () => $("files").click();
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    $("drop-text").textContent = say("drop-here", { name: libraryName() });
    $("drop").hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true;
  });
  document.addEventListener("drop", async (event) => {
    $("drop").hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    send(await filesOf(event.dataTransfer));
  });
}
