// Where things are on a narrow screen, and the keys that work everywhere.
import { $ } from "/static/dom.js";

const narrow = matchMedia("(max-width: 60rem)");

// On a narrow screen the side lies over the rest, which cannot be reached meanwhile.
function setSide(open) {
  $("side").classList.toggle("open", open);
  $("backdrop").hidden = !open;
  for (const covered of document.querySelectorAll(".skip, main, #source")) covered.inert = open;
  $("show-side").setAttribute("aria-expanded", String(open));
  $(open ? "close-side" : "show-side").focus();
}

const isOpen = () => $("side").classList.contains("open");

export function closeSide() {
  if (isOpen()) setSide(false);
}

// The panel of a source gives the focus back to what opened it.
let opener = null;

export function showPanel() {
  closeSide();
  if ($("source").hidden) opener = document.activeElement;
  $("source").hidden = false;
  document.body.classList.add("with-source");
  $("source-name").focus({ preventScroll: true });
}

export function closePanel() {
  $("source").hidden = true;
  document.body.classList.remove("with-source");
  if (opener?.isConnected) opener.focus();
  opener = null;
}

function keys(event) {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "Escape" && !typing) {
    if (isOpen()) closeSide();
    else if (!$("source").hidden) closePanel();
  }
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $("question").focus();
  }
}

export function layout() {
  $("show-side").onclick = () => setSide(true);
  for (const id of ["close-side", "backdrop"]) $(id).onclick = closeSide;
  narrow.onchange = closeSide;
  $("close-source").onclick = closePanel;
  document.addEventListener("keydown", keys);
}
