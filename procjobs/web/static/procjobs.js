// <procjobs-progress job="TOKEN" label="Film 7">: a bar that follows a job. Described in docs/web.md.
// All bars of a page share one stream. Text of jobs gets into the page by textContent alone.

// Strict JSON: the status page without JavaScript reads its texts from here, too.
const TEXTS = {
  "en": {
    "queued": "waiting", "scheduled": "scheduled", "running": "running", "retrying": "will be tried again",
    "succeeded": "done", "failed": "failed", "cancelled": "cancelled", "expired": "expired",
    "unknown": "not known (any more)", "denied": "cannot be shown", "reload": "Load the page again.",
    "offline": "no connection, trying again", "cancel": "Cancel", "cancelling": "being cancelled",
    "refused": "could not be cancelled", "left": "about {} left", "soon": "a few seconds left",
    "since": "running for {}", "progress": "Progress"
  },
  "de": {
    "queued": "wartet", "scheduled": "geplant", "running": "läuft", "retrying": "wird erneut versucht",
    "succeeded": "fertig", "failed": "fehlgeschlagen", "cancelled": "abgebrochen", "expired": "verfallen",
    "unknown": "nicht (mehr) bekannt", "denied": "kann nicht gezeigt werden", "reload": "Bitte die Seite neu laden.",
    "offline": "keine Verbindung, neuer Versuch folgt", "cancel": "Abbrechen", "cancelling": "wird abgebrochen",
    "refused": "konnte nicht abgebrochen werden", "left": "noch etwa {}", "soon": "noch wenige Sekunden",
    "since": "läuft seit: {}", "progress": "Fortschritt"
  },
  "fr": {
    "queued": "en attente", "scheduled": "planifié", "running": "en cours", "retrying": "nouvel essai à venir",
    "succeeded": "terminé", "failed": "échec", "cancelled": "annulé", "expired": "expiré",
    "unknown": "inconnu (ou oublié)", "denied": "ne peut pas être affiché", "reload": "Rechargez la page.",
    "offline": "pas de connexion, nouvel essai", "cancel": "Annuler", "cancelling": "annulation en cours",
    "refused": "n’a pas pu être annulé", "left": "encore {} environ", "soon": "encore quelques secondes",
    "since": "en cours depuis {}", "progress": "Progression"
  },
  "es": {
    "queued": "en espera", "scheduled": "programado", "running": "en curso", "retrying": "se intentará de nuevo",
    "succeeded": "terminado", "failed": "error", "cancelled": "cancelado", "expired": "caducado",
    "unknown": "desconocido (u olvidado)", "denied": "no se puede mostrar", "reload": "Recargue la página.",
    "offline": "sin conexión, nuevo intento", "cancel": "Cancelar", "cancelling": "se está cancelando",
    "refused": "no se pudo cancelar", "left": "faltan unos {}", "soon": "faltan unos segundos",
    "since": "en curso desde hace {}", "progress": "Progreso"
  }
};

const MAX_IDS = 100;
const MAX_QUERY = 3500; // characters: servers refuse request lines of more than 4,094 (gunicorn) or 8,190
const MAX_STREAMS = 2; // of the six connections to a host that HTTP/1.1 has; further bars are asked for in turn
const MAX_SHOWN = 300; // characters of a message or an error
const SILENCE = 25e3; // ms; a stream has a ping every 15 seconds, and its first bytes at once
const GIVE_UP = 20e3; // ms after which a job that nobody knows is not one that has just been submitted
const STREAM_AGAIN = 30e3; // ms of polling before the stream is tried again
const SPEAK_EVERY = 10e3; // ms between two announcements of a page, the first and the last one of a bar left out

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
  :host { display: block; min-inline-size: 0; color: var(--procjobs-text, inherit);
    --fill: var(--procjobs-color, #3b7ddd); --track: var(--procjobs-track, #80808040); }
  :host([hidden]) { display: none }
  :host([state=succeeded]) { --fill: var(--procjobs-succeeded, #16924a) }
  :host([state=failed]) { --fill: var(--procjobs-failed, #dc2f2f); --track: var(--procjobs-track, #dc2f2f80) }
  :host(:is([state=cancelled], [state=expired])) { --fill: var(--procjobs-cancelled, #808080) }
  .box { display: flex; flex-wrap: wrap; gap: .25em .75em; align-items: center; outline: 0 }
  .main { flex: 1 1 13em; min-inline-size: 0 }
  .row { display: flex; flex-wrap: wrap; justify-content: space-between; column-gap: .75em }
  .row + progress + .row { flex-wrap: nowrap; font-size: .875em; min-block-size: 1.5em }
  .label { font-weight: 600; overflow-wrap: anywhere }
  .value { margin-inline-start: auto; font-variant-numeric: tabular-nums }
  .message { min-inline-size: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; unicode-bidi: plaintext }
  .left { flex: none; margin-inline-start: auto; max-inline-size: 70%; text-align: end }
  .ended .message { white-space: normal; overflow-wrap: anywhere }
  progress { display: block; inline-size: 100%; block-size: var(--procjobs-height, .5rem); margin-block: .3em; appearance: none;
    border: 0; border-radius: var(--procjobs-radius, 1rem); background: var(--track); overflow: hidden }
  progress::-webkit-progress-bar { background: none }
  progress::-webkit-progress-value { background: var(--fill); transition: inline-size .3s;
    border-radius: var(--procjobs-radius, 1rem) }
  progress::-moz-progress-bar { background: var(--fill); border-radius: var(--procjobs-radius, 1rem) }
  progress:indeterminate { background: linear-gradient(90deg, #0000, var(--fill), #0000) 0 / 40% 100% no-repeat var(--track);
    animation: run 1.6s infinite alternate ease-in-out }
  progress:indeterminate::-moz-progress-bar { background: none }
  @keyframes run { to { background-position: 100% } }
  button { flex: none; min-block-size: 44px; min-inline-size: 44px; padding: 0 1em;
    font: inherit; font-size: .875em; color: inherit; background: none; cursor: pointer;
    border: 1px solid #808080; border-radius: var(--procjobs-button-radius, .5rem) }
  button:hover { background: #80808030 }
  button:focus-visible, .box:focus-visible { outline: 2px solid; outline-offset: 2px }
  button[aria-disabled=true] { opacity: .6; cursor: default }
  .ended button { visibility: hidden; block-size: 0; min-block-size: 0 }
  button[hidden] { display: none }
  .ended .value::before { content: "✕ "; content: "✕ " / "" }
  :host([state=succeeded]) .value::before { content: "✓ "; content: "✓ " / "" }
  [role=status] { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%) }
  @media (prefers-reduced-motion: reduce) {
    progress:indeterminate { animation: none; background-size: 100% 100% }
    progress::-webkit-progress-value { transition: none }
  }
  @media (forced-colors: active) {
    progress { border: 1px solid CanvasText; forced-color-adjust: none; --fill: Highlight; --track: Canvas }
  }
`);

const BASE = import.meta.url.replace(/(static\/[^/]+\/)?[^/]*$/, "");
const keyOf = (token) => token.split(".")[0];
const clock = (seconds) => new Date(1e3 * seconds).toISOString().slice(seconds < 3600 ? 14 : 11, 19);
const short = (text) => (text.length > MAX_SHOWN ? text.slice(0, MAX_SHOWN - 1) + "…" : text);
let isAway = false; // in the back/forward cache
let spokenAt = -SPEAK_EVERY;

/** The tokens that are asked for in one request, and the stream or the timer that asks. */
class Channel {
  constructor(hub) {
    this.hub = hub;
    this.tokens = new Map();
    this.failures = 0;
    this.pollUntil = hub.isPolling ? Infinity : 0;
  }

  get query() {
    return [...this.tokens.values()].map((token) => "id=" + encodeURIComponent(token)).join("&");
  }

  start(delay = 50) { // several bars that are added together are one request
    this.stop();
    this.timer = setTimeout(() => this.run(), delay);
  }

  stop() {
    clearTimeout(this.timer);
    clearTimeout(this.watch);
    const running = this.running;
    this.running = null;
    running?.abort();
  }

  async run() {
    if (document.hidden || isAway || !this.tokens.size) return;
    const running = (this.running = new AbortController());
    const isStream = Date.now() >= this.pollUntil && this.hub.channels.indexOf(this) < MAX_STREAMS;
    let delay;
    try {
      delay = await (isStream ? this.listen(running) : this.poll(running));
    } catch {
      if (this.running !== running) return;
      this.failures += 1;
      this.etag = null; // the next answer is to be a whole one: it takes the word of the lost connection away
      if (isStream && this.failures > 1) this.pollUntil = Date.now() + STREAM_AGAIN;
      if (this.failures > 1) this.tell((bar) => bar.note("offline"));
      delay = this.pauseAfter();
    }
    if (this.running === running && this.tokens.size) this.start(delay);
  }

  pauseAfter() { // 1 to 30 seconds, spread so that the pages of a restarted server do not come back all at once
    return 1e3 + Math.random() * Math.min(1e3 * 2 ** this.failures, 29e3);
  }

  /** Return the answer; null if this visitor is not let in, which the bars then say. */
  async ask(path, running, headers) {
    this.expectBytes(running);
    const response = await fetch(`${this.hub.base}api/1/${path}?${this.query}`, { headers, signal: running.signal });
    this.hub.skew = (Date.parse(response.headers.get("date")) || Date.now()) - Date.now();
    const isRefused = [401, 403, path === "status" && 404].includes(response.status);
    if (isRefused) this.tell((bar, isFirst) => bar.end("denied", isFirst));
    return isRefused ? null : response;
  }

  expectBytes(running) {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => running.abort(), SILENCE);
  }

  async listen(running) {
    const response = await this.ask("events", running);
    if (!response) return 0;
    if ([404, 405, 501, 503].includes(response.status)) { // a server that has no streams, or no more of them
      const after = response.status === 503 ? 1e3 * response.headers.get("retry-after") || STREAM_AGAIN : Infinity;
      this.pollUntil = Date.now() + after;
      return 0;
    }
    if (!response.ok || !/event-stream/.test(response.headers.get("content-type"))) throw new Error("no stream");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      this.expectBytes(running);
      const { value, done } = await reader.read();
      if (this.running !== running) return 0;
      if (done) return this.pauseAfter();
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) this.take(block);
    }
  }

  take(block) {
    const fields = { event: "", data: "" };
    for (const [, name, value] of block.matchAll(/^(\w+): ?(.*)$/gm)) fields[name] = value.trimEnd();
    if (fields.event === "status") this.hub.deliver(JSON.parse(fields.data));
    // The server ends a stream when there is nothing more to come, of ids that it does not know either.
    if (fields.event === "end") this.tell((bar, isFirst) => bar.end("unknown", isFirst));
    this.failures = 0;
  }

  async poll(running) {
    const response = await this.ask("status", running, this.etag ? { "if-none-match": this.etag } : {});
    if (!response) return 0;
    if (response.status !== 304) {
      if (!response.ok) throw new Error(response.statusText);
      const { jobs, poll_after } = await response.json();
      if (this.running !== running) return 0;
      this.etag = response.headers.get("etag");
      this.pause = 1e3 * poll_after || 2e3;
      for (const status of jobs) this.hub.deliver(status);
    }
    this.failures = 0;
    return this.pause * (0.9 + Math.random() / 5);
  }

  tell(call) {
    for (const key of [...this.tokens.keys()]) this.hub.each(key, call);
  }
}

/** All bars of a page that ask the same server. */
class Hub {
  static all = new Map();

  static of(bar) {
    const base = new URL(bar.getAttribute("src") || BASE, document.baseURI).href.replace(/\/?$/, "/");
    const key = base + bar.hasAttribute("poll");
    if (!Hub.all.has(key)) Hub.all.set(key, new Hub(base, bar.hasAttribute("poll")));
    return Hub.all.get(key);
  }

  constructor(base, isPolling) {
    this.base = base;
    this.isPolling = isPolling;
    this.bars = new Map(); // key -> bars
    this.channels = [];
    this.skew = 0; // ms that the server's clock is ahead of this one's
  }

  add(key, token, bar) {
    const bars = this.bars.get(key);
    if (bars) bars.add(bar);
    else this.bars.set(key, new Set([bar]));
    const known = this.channels.find((channel) => channel.tokens.has(key));
    if (known?.tokens.get(key) === token) {
      const other = [...bars].find((one) => one.status);
      return other && bar.show(other.status, false);
    }
    const hasRoom = (channel) => channel.tokens.size < MAX_IDS && channel.query.length + token.length < MAX_QUERY;
    const channel = known || this.channels.find(hasRoom) || new Channel(this);
    if (!this.channels.includes(channel)) this.channels.push(channel);
    channel.tokens.set(key, token);
    channel.start();
  }

  remove(key, bar) {
    const bars = this.bars.get(key);
    bars?.delete(bar);
    if (!bars || bars.size) return;
    this.bars.delete(key);
    for (const channel of this.channels) {
      if (channel.tokens.delete(key) && !channel.tokens.size) channel.stop();
    }
    this.channels = this.channels.filter((channel) => channel.tokens.size);
  }

  deliver(status) {
    this.each(status.id, (bar, isFirst) => bar.show(status, isFirst));
  }

  each(key, call) {
    [...(this.bars.get(key) ?? [])].forEach((bar, index) => call(bar, index === 0));
  }
}

function wake() { // what runs is stopped; it starts again where somebody can see it
  for (const hub of Hub.all.values()) hub.channels.forEach((channel) => channel.start());
}

document.addEventListener("visibilitychange", wake);
addEventListener("pagehide", () => { isAway = true; wake(); });
addEventListener("pageshow", (event) => { isAway = false; if (event.persisted) wake(); });

/** The element: takes documents of its job, shows them, and says them. */
class ProcjobsProgress extends HTMLElement {
  static observedAttributes = ["job", "src", "label", "cancel", "eta", "lang"];

  status = null; // the last document
  #parts = {};

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [SHEET];
    const make = (name, tag, parent, attributes) => {
      const node = (this.#parts[name] = document.createElement(tag));
      for (const attribute in attributes) node.setAttribute(attribute, attributes[attribute]);
      parent.append(node);
      return node;
    };
    const box = make("box", "div", root, { class: "box", role: "group", tabindex: -1, "aria-labelledby": "label" });
    const main = make("main", "div", box, { class: "main" });
    const above = make("above", "div", main, { class: "row" });
    make("label", "span", above, { class: "label", id: "label", part: "label" });
    make("value", "span", above, { class: "value", part: "text value" });
    make("bar", "progress", main, { max: 1, part: "bar", "aria-labelledby": "label" });
    const below = make("below", "div", main, { class: "row" });
    make("message", "span", below, { class: "message", part: "text message" });
    make("left", "span", below, { class: "left", part: "text left" });
    make("cancel", "button", box, { type: "button", part: "cancel" });
    make("speech", "div", root, { role: "status" });
    this.#parts.cancel.addEventListener("click", () => this.cancel());
  }

  connectedCallback() {
    if (!this.getAttribute("label")) console.warn("procjobs-progress: the attribute label is missing", this);
    this.#follow();
  }

  disconnectedCallback() {
    this.#leave();
    this.#markBusy();
  }

  attributeChangedCallback(name, before, now) {
    if (before === now || !this.isConnected) return;
    if (name === "job" || name === "src") {
      this.#leave();
      this.status = null;
      this.#follow();
    } else this.#render();
  }

  get hasEnded() {
    return Boolean(this.status?.done);
  }

  /** Take a document of the server. `isFirst`: of the bars of this job, it is the one that speaks. */
  show(status, isFirst) {
    const isUnknown = status.state === "unknown";
    if (isUnknown && status.error) return this.end("denied", isFirst, status.error);
    this.unknownSince = isUnknown ? (this.unknownSince ?? performance.now()) : undefined;
    this.status = status;
    this.isSpeaking = isFirst;
    this.remark = "";
    this.endsAt = performance.now() + 1e3 * status.progress?.eta;
    this.#update();
  }

  /** Stop with a state that no document says. */
  end(state, isFirst, error = state === "denied" ? this.#text("reload") : "") {
    this.status = { id: this.key, state, done: true, progress: null, error };
    this.isSpeaking = isFirst;
    this.#update();
  }

  /** Show a text in place of the message, until the next document. */
  note(key) {
    this.remark = this.#text(key);
    this.#render();
  }

  /** Ask the server to cancel the job. */
  async cancel() {
    if (this.hasEnded || this.request) return;
    this.request = "cancelling";
    this.#render();
    this.#say(this.#text("cancelling"));
    const body = new URLSearchParams({ id: this.getAttribute("job") });
    const options = { method: "POST", body, headers: { accept: "application/json" } };
    const response = await fetch(this.hub.base + "api/1/cancel", options).catch(() => ({}));
    if (response.ok || this.hasEnded) return;
    this.request = "";
    this.note("refused");
    this.#say(this.remark);
  }

  #follow() {
    this.request = this.remark = this.spoken = "";
    this.unknownSince = undefined;
    const token = this.getAttribute("job");
    if (token && !this.hasEnded) {
      this.key = keyOf(token);
      this.hub = Hub.of(this);
      this.hub.add(this.key, token, this);
    }
    this.#markBusy();
    this.#render();
  }

  #leave() {
    this.hub?.remove(this.key, this);
    clearInterval(this.ticking);
    this.ticking = null;
  }

  #update() {
    if (this.hasEnded) this.#leave();
    else this.ticking ??= setInterval(() => this.#tick(), 1e3);
    this.#tick();
    this.#markBusy();
    const name = this.hasEnded ? "job-end" : "job-progress";
    this.dispatchEvent(new CustomEvent(name, { detail: this.status, bubbles: true, composed: true }));
    if (this.status.state === "succeeded" && this.hasAttribute("then")) setTimeout(() => this.#go(), 1e3);
  }

  #tick() {
    if (!this.hasEnded && performance.now() - this.unknownSince > GIVE_UP) return this.end("unknown", this.isSpeaking);
    this.#render();
    const { state, progress } = this.status;
    const stage = state === "running" ? `quarter ${Math.floor(4 * (progress?.fraction ?? 0))}` : state;
    const isEdge = !this.spoken || this.hasEnded;
    if (!this.isSpeaking || stage === this.spoken || !(isEdge || performance.now() - spokenAt >= SPEAK_EVERY)) return;
    this.spoken = stage;
    spokenAt = performance.now();
    this.#say(this.#parts.bar.getAttribute("aria-valuetext"));
  }

  #say(text) {
    this.#parts.speech.textContent = `${this.#parts.label.textContent}: ${text}`;
  }

  #render() {
    const { box, label, value, bar, message, left, cancel } = this.#parts;
    const { state = "", progress, error, reason, started_at } = this.status ?? {};
    const isRunning = state === "running";
    const problem = ["failed", "retrying", "denied"].includes(state) && (error || reason);
    const fraction = state === "succeeded" ? 1 : (progress?.fraction ?? (isRunning ? null : 0));
    const seconds = Math.max(0, (Date.now() + this.hub?.skew - Date.parse(started_at)) / 1e3) || 0;
    const percent = isRunning && fraction !== null && this.#percent(fraction);
    const texts = {
      label: this.getAttribute("label") || this.#text("progress"),
      value: this.#text(this.request && !this.hasEnded ? this.request : state),
      message: short(this.remark || problem || (isRunning && progress?.message) || ""),
      left: isRunning && this.hasAttribute("eta") ? this.#left() : "",
      cancel: this.#text("cancel"),
    };
    if (isRunning && !this.request) texts.value = percent || clock(seconds);
    for (const name in texts) if (this.#parts[name].textContent !== texts[name]) this.#parts[name].textContent = texts[name];
    if (fraction === null) bar.removeAttribute("value");
    else bar.value = fraction;
    const first = isRunning && !percent && !this.request ? this.#text("since", this.#duration(seconds)) : texts.value;
    bar.setAttribute("aria-valuetext", [first, texts.message, texts.left].filter(Boolean).join(", "));
    cancel.hidden = !this.hasAttribute("cancel");
    cancel.setAttribute("aria-label", `${texts.cancel}: ${texts.label}`);
    cancel.setAttribute("aria-disabled", !!this.request);
    if (this.hasEnded && this.shadowRoot.activeElement === cancel) box.focus();
    box.classList.toggle("ended", this.hasEnded);
    if (state !== this.getAttribute("state")) this.setAttribute("state", state);
  }

  #left() {
    const seconds = (this.endsAt - performance.now()) / 1e3;
    if (!(seconds > 0)) return "";
    return seconds < 8 ? this.#text("soon") : this.#text("left", this.#duration(Math.ceil(seconds / 5) * 5));
  }

  #duration(seconds) {
    const [size, unit] = seconds < 100 ? [1, "second"] : seconds < 6000 ? [60, "minute"] : [3600, "hour"];
    return this.#number(Math.round(seconds / size), { style: "unit", unit, unitDisplay: "long" });
  }

  #percent(fraction) { // 100 % is not said of 99.9
    return this.#number(Math.floor(100 * fraction + 1e-9) / 100, { style: "percent" });
  }

  get #language() {
    const language = this.closest("[lang]")?.lang.slice(0, 2).toLowerCase();
    return language in TEXTS ? language : "en";
  }

  #number(value, options) {
    return new Intl.NumberFormat(this.#language, options).format(value);
  }

  #text(key, filler) {
    return (this.dataset[key] ?? TEXTS[this.#language][key] ?? "").replace("{}", filler);
  }

  #markBusy() {
    const id = this.getAttribute("for");
    const bars = [...document.querySelectorAll("procjobs-progress[for]")].filter((bar) => bar.getAttribute("for") === id);
    document.getElementById(id)?.setAttribute("aria-busy", bars.some((bar) => !bar.hasEnded));
  }

  #go() {
    const then = this.getAttribute("then");
    const url = new URL(then === "reload" ? location : then, document.baseURI);
    const mark = `procjobs ${this.key}`; // once for each job, or a page that still shows the bar would be loaded for ever
    if (!this.isConnected || !/^https?:$/.test(url.protocol) || sessionStorage.getItem(mark)) return;
    sessionStorage.setItem(mark, 1);
    if (then === "reload") location.reload();
    else location.assign(url);
  }
}

customElements.define("procjobs-progress", ProcjobsProgress);
