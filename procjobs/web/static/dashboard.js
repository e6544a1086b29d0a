// The dashboard with JavaScript: parts of a page are renewed every two seconds, and questions come as dialogs.
//
// A page works without this file. Every part that changes has the attribute data-live. The server sends the same parts
// alone for the same address with fragment=1, as {key: html}; it has escaped all text of jobs in them.

const PERIOD = 2000;
const SLOWEST = 30000;
const beat = document.querySelector("[data-beat]");
const pauseButton = document.querySelector("[data-pause]");
const refreshLink = document.querySelector("[data-refresh]");
const parts = new Map([...document.querySelectorAll("[data-live]")].map((part) => [part.dataset.live, part]));

let etag = null;
let failures = 0;
let paused = false;
let timer = 0;
let asking = null;

// One part becomes what the server has sent ---------------------------------------------------------------------------

/** Whether the reader has selected something in this node: it stays as it is until the selection has gone. */
function isSelected(node) {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && selection.containsNode(node, true));
}

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || "" : "");
const isAlike = (one, other) => one.nodeName === other.nodeName && keyOf(one) === keyOf(other);

/** Make the children of `old` like those of `fresh`, and keep the nodes that stay. Return whether all could be done. */
function renew(old, fresh) {
  let isWhole = true;
  const keyed = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    let match = keyOf(wanted) ? keyed.get(keyOf(wanted)) : place;
    if (match && match !== place && isAlike(match, wanted)) old.insertBefore(match, place);
    if (match && isAlike(match, wanted)) {
      place = match.nextSibling;
      isWhole = renewNode(match, wanted) && isWhole;
    } else {
      old.insertBefore(wanted, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    if (isSelected(place)) isWhole = false;
    else place.remove();
    place = next;
  }
  return isWhole;
}

function renewNode(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) return renewText(old, fresh.data);
  if (old.isEqualNode(fresh)) return true;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !isReaders(old, name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !isReaders(old, name)) old.setAttribute(name, value);
  }
  const followsEnd = old.hasAttribute("data-tail") && old.scrollTop + old.clientHeight >= old.scrollHeight - 4;
  const isWhole = renew(old, fresh);
  if (followsEnd) old.scrollTop = old.scrollHeight;
  return isWhole;
}

/** What the reader has set: whether details are open, and what stands in a field. */
function isReaders(element, name) {
  return (element.localName === "details" && name === "open") || (element.localName === "input" && element.type !== "hidden");
}

function renewText(old, data) {
  if (old.data === data) return true;
  if (data.startsWith(old.data)) old.appendData(data.slice(old.data.length));
  else if (isSelected(old)) return false;
  else old.data = data;
  return true;
}

/** Show {key: html}. Return whether all of it is shown. */
function show(fragments) {
  let isWhole = true;
  for (const [key, html] of Object.entries(fragments)) {
    const part = parts.get(key);
    if (!part) {
      location.reload(); // what could not be shown when the page was loaded is there now
      return true;
    }
    const template = document.createElement("template");
    template.innerHTML = html;
    const hadFocus = part.contains(document.activeElement);
    isWhole = renew(part, template.content) && isWhole;
    if (hadFocus && !part.contains(document.activeElement)) document.getElementById("main").focus({ preventScroll: true });
  }
  return isWhole;
}

// Looking again and again ---------------------------------------------------------------------------------------------

function fragmentAddress(address) {
  const url = new URL(address, location.href);
  url.searchParams.set("fragment", "1");
  url.hash = "";
  return url;
}

async function look() {
  asking = new AbortController();
  const giveUp = setTimeout(() => asking && asking.abort(), 15000);
  try {
    const response = await fetch(fragmentAddress(location.href), {
      headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store", signal: asking.signal,
    });
    if (response.status === 401 || response.status === 403) return stop("You may not look at this any more. Load the page again.");
    if (response.status !== 304) {
      if (!response.headers.get("content-type")?.startsWith("application/json")) throw new Error(`status ${response.status}`);
      const tag = response.headers.get("ETag");
      const body = await response.json();
      if (!body.parts) throw new Error(`status ${response.status}`);
      etag = show(body.parts) ? tag : null;
    }
    failures = 0;
    tell("");
  } catch (error) {
    failures += 1;
    if (failures > 1) tell("No answer from the server. What you see is old.", true);
  } finally {
    clearTimeout(giveUp);
    asking = null;
  }
  plan();
}

function plan() {
  clearTimeout(timer);
  if (!paused && !document.hidden && parts.size) timer = setTimeout(look, Math.min(PERIOD * 2 ** failures, SLOWEST));
}

function stop(text) {
  paused = true;
  clearTimeout(timer);
  pauseButton.hidden = true;
  refreshLink.hidden = false;
  tell(text, true);
}

/** Say something beside the button, once: it is read aloud. */
function tell(text, isLost = false) {
  const shown = text || (paused ? "Updates are paused." : "");
  if (beat.textContent !== shown) beat.textContent = shown;
  beat.classList.toggle("lost", isLost);
}

pauseButton.addEventListener("click", () => {
  paused = !paused;
  pauseButton.setAttribute("aria-pressed", String(paused));
  pauseButton.textContent = paused ? "Resume updates" : "Pause updates";
  tell("");
  clearTimeout(timer);
  if (!paused) look();
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && !paused && !asking) look();
});

// Questions before something ends --------------------------------------------------------------------------------------

const dialog = document.createElement("dialog");
dialog.setAttribute("aria-labelledby", "question");
document.body.append(dialog);

async function ask(form, button) {
  const url = fragmentAddress(form.action);
  for (const [name, value] of new FormData(form)) url.searchParams.set(name, value);
  try {
    const response = await fetch(url, { cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const { question } = (await response.json()).parts;
    if (!question) throw new Error("no question");
    dialog.innerHTML = question;
  } catch {
    HTMLFormElement.prototype.submit.call(form); // the page with the question says what is wrong
    return;
  }
  dialog.showModal();
  dialog.addEventListener("close", () => {
    const target = button.isConnected ? button : document.getElementById("main");
    target.focus();
  }, { once: true });
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-ask]")) return;
  event.preventDefault();
  ask(event.target, event.submitter);
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog || event.target.closest("[data-close]")) {
    event.preventDefault();
    dialog.close();
  }
});

// --------------------------------------------------------------------------------------------------------------------

if (parts.size && !parts.has("question")) {
  pauseButton.hidden = false;
  refreshLink.hidden = true;
  plan();
}
for (const log of document.querySelectorAll("[data-tail]")) log.scrollTop = log.scrollHeight;
