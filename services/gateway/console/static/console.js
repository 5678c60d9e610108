// What pages do beyond showing and sending forms. All of them can be read and pressed without it.
"use strict";

// The zone in which times are written, from the next page on.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) {
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `darkroom_zone=${encodeURIComponent(zone)}; path=/admin; max-age=31536000; samesite=strict${secure}`;
}

// Changes only what differs, so that whoever reads, types or presses is not disturbed.
function morph(from, to) {
  if (from.isEqualNode(to)) return;
  const isAlike = from.nodeType === Node.ELEMENT_NODE && to.nodeType === Node.ELEMENT_NODE && from.nodeName === to.nodeName;
  if (!isAlike || from.childNodes.length !== to.childNodes.length || from.nodeName === "svg") {
    if (!(from.contains(document.activeElement) && from.querySelector?.("input, textarea, select"))) from.replaceWith(to);
    return;
  }
  const isOpened = from.nodeName === "DETAILS" && from.open;
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name)) from.removeAttribute(name);
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  if (isOpened) from.open = true;
  const next = [...to.childNodes];
  [...from.childNodes].forEach((child, place) => morph(child, next[place]));
}

function update(target, html) {
  const fresh = target.cloneNode(false);
  fresh.innerHTML = html;
  if (target.childNodes.length !== fresh.childNodes.length) {
    if (!(target.contains(document.activeElement) && document.activeElement.matches("input, textarea, select"))) {
      target.replaceChildren(...fresh.childNodes);
    }
    return;
  }
  const next = [...fresh.childNodes];
  [...target.childNodes].forEach((child, place) => morph(child, next[place]));
}

// Parts that keep up by themselves, while somebody looks.
let source = null;
function follow() {
  if (!("stream" in document.body.dataset) || document.hidden || source) return;
  const address = new URL(location.href);
  address.searchParams.set("once", document.body.dataset.once);
  source = new EventSource(address);
  source.addEventListener("part", (event) => {
    const { name, html } = JSON.parse(event.data);
    const target = document.querySelector(`[data-live="${CSS.escape(name)}"]`);
    if (target) update(target, html);
    document.body.dataset.followed = "yes";
  });
}
function leave() {
  source?.close();
  source = null;
}
document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
addEventListener("pagehide", leave);
addEventListener("pageshow", follow);

// A form that is checked while it is written.
for (const form of document.querySelectorAll("form[data-check]")) {
  const shown = document.getElementById("check");
  let waiting = 0;
  let asked = 0;
  const check = async () => {
    const number = ++asked;
    try {
      const answer = await fetch(form.dataset.check, { method: "POST", body: new FormData(form) });
      const html = await answer.text();
      if (number === asked && answer.ok) shown.innerHTML = html;
    } catch {
      shown.textContent = "";
    }
  };
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(check, 300);
  });
}

// The menu of small screens closes when one presses beside it, or Escape.
const menu = document.getElementById("menu");
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && menu?.open) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
document.addEventListener("click", (event) => {
  if (menu?.open && !menu.contains(event.target)) menu.open = false;
});
