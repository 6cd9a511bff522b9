// Where things are on a narrow screen, and the keys that work everywhere.
import { $ } from "/static/dom.js";

const narrow = matchMedia("(max-width: 60rem)");

export function closeSide() {
  $("side").classList.remove("open");
  $("show-side").setAttribute("aria-expanded", "false");
}

function openSide() {
  $("side").classList.add("open");
  $("show-side").setAttribute("aria-expanded", "true");
  $("close-side").focus();
}

// The panel of a source gives the focus back to what opened it.
let opener = null;

export function showPanel() {
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
    if (narrow.matches && $("side").classList.contains("open")) closeSide(), $("show-side").focus();
    else if (!$("source").hidden) closePanel();
  }
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $("question").focus();
  }
}

export function layout() {
  $("show-side").onclick = openSide;
  $("close-side").onclick = () => {
    closeSide();
    $("show-side").focus();
  };
  $("close-source").onclick = closePanel;
  document.addEventListener("keydown", keys);
}
