// The live panels of the demo page. All URLs are relative to the page.

const element = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const MIB = 1024 * 1024;

function bytes(count) {
  if (count < 1024) return `${count} B`;
  if (count < MIB) return `${(count / 1024).toFixed(1)} KiB`;
  return `${(count / MIB).toFixed(1)} MiB`;
}

function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;
}

function duration(value) {
  const total = Math.floor(value);
  const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function say(id, text, tone = "") {
  element(id).textContent = text;
  element(id).dataset.tone = tone;
}

// A mark which runs along the wire: "down" to the browser, "up" to the server.
function pulse(direction) {
  const wire = element("wire");
  if (wire.childElementCount > 8 || document.hidden) return;
  const mark = document.createElement("span");
  mark.className = `pulse ${direction}`;
  mark.addEventListener("animationend", () => mark.remove());
  // Without motion there is no animation to end, and so no mark either.
  if (matchMedia("(prefers-reduced-motion: no-preference)").matches) wire.append(mark);
}

// What the server says of one of its streams; null when it knows nothing of it
// (another process of the server may have been asked).
async function streamState(number) {
  const response = await fetch(`status?stream=${number}`);
  return (await response.json()).stream;
}

// After this page has let go of a stream: wait until the server has noticed.
async function departureNoticed(number) {
  const started = performance.now();
  while (performance.now() - started < 3000) {
    const state = await streamState(number).catch(() => null);
    if (!state) return null;
    if (state.end) return { ...state, ms: Math.max(1, Math.round(performance.now() - started)) };
    await sleep(40);
  }
  return null;
}

// Server-sent events

const BEATS = 40;

class Events {
  source = null;
  stream = 0;
  count = 0;
  lastArrival = 0;
  paused = false;
  gaps = [];

  constructor() {
    for (let index = 0; index < BEATS; index += 1) {
      const bar = document.createElement("i");
      bar.className = "empty";
      element("beats").append(bar);
    }
    element("events-button").disabled = false;
    element("events-button").addEventListener("click", () => this.toggle());
    document.addEventListener("visibilitychange", () => this.followVisibility());
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (event) => event.persisted && this.followVisibility());
    this.followVisibility();
  }

  // A hidden tab needs no clock, and browsers allow few connections to a host.
  followVisibility() {
    if (document.hidden) this.close();
    else if (!this.paused && !this.source) this.open();
  }

  toggle() {
    this.paused = !this.paused;
    element("events-button").textContent = this.paused ? "Resume" : "Pause";
    if (this.paused) this.pause();
    else this.open();
  }

  open() {
    this.lastArrival = 0;
    this.show("idle", "Connecting");
    this.source = new EventSource("events");
    this.source.addEventListener("stream", (event) => this.opened(JSON.parse(event.data)));
    this.source.addEventListener("tick", (event) => this.tick(JSON.parse(event.data)));
    this.source.addEventListener("error", () => this.lost());
  }

  opened({ number, resumed_after: resumed }) {
    this.stream = number;
    this.count = 0;
    this.show("open", "Live");
    const resumption = resumed ? `, resumed after event ${resumed}` : "";
    say("events-status", `Connected as stream ${number}${resumption}.`);
  }

  lost() {
    if (!this.source) return;
    this.lastArrival = 0;
    if (this.source.readyState === EventSource.CLOSED) {
      // Refused for good (say, by a proxy): the browser will not try again.
      this.close();
      this.show("lost", "Disconnected");
      say("events-status", "The server refused the stream.", "bad");
      this.paused = true;
      element("events-button").textContent = "Resume";
      return;
    }
    this.show("lost", "Reconnecting");
    say("events-status", "The stream ended; the browser is opening it again.", "bad");
  }

  tick(data) {
    this.count += 1;
    element("clock").textContent = data.time.slice(11, 19);
    element("uptime").textContent = duration(data.uptime);
    element("requests").textContent = data.requests.toLocaleString("en");
    element("open-streams").textContent = data.open_streams;
    element("process").textContent = data.process;
    const now = performance.now();
    if (this.lastArrival) this.beat(now - this.lastArrival);
    this.lastArrival = now;
    pulse("down");
  }

  // One bar a gap; half the height stands for one second.
  beat(gap) {
    this.gaps = [...this.gaps, gap].slice(-BEATS);
    const bars = element("beats").children;
    this.gaps.forEach((value, index) => {
      const bar = bars[BEATS - this.gaps.length + index];
      bar.className = "";
      bar.style.height = `${Math.min(100, value / 20)}%`;
    });
    const off = Math.max(...this.gaps.map((value) => Math.abs(value - 1000)));
    element("beats-caption").textContent =
      `Time between two events: ${Math.round(gap)} ms, at most ${Math.round(off)} ms off`;
  }

  async pause() {
    const { stream, count } = this;
    this.close();
    say("events-status", "Closed by this page; asking the server.");
    const state = await departureNoticed(stream);
    if (!this.paused) return;
    if (state) {
      say("events-status",
        `Stream ${stream} ended after ${plural(count, "event")}: ${state.end}, noticed within ${state.ms} ms.`, "good");
    } else {
      say("events-status", "Closed by this page.");
    }
  }

  close() {
    this.source?.close();
    this.source = null;
    this.show("idle", "Paused");
  }

  show(state, text) {
    element("link").dataset.state = state;
    // A live region speaks at each change: touch it only when it does change.
    if (element("link-text").textContent !== text) element("link-text").textContent = text;
  }
}

// A panel with one button which starts something and stops it again.

class Stoppable {
  controller = null;

  constructor(name, run) {
    this.name = name;
    this.run = run;
    this.button = element(`${name}-button`);
    this.button.disabled = false;
    this.button.addEventListener("click", () => this.toggle());
  }

  async toggle() {
    if (this.controller) {
      this.controller.abort();
      return;
    }
    this.controller = new AbortController();
    this.button.textContent = "Stop";
    this.button.classList.remove("primary");
    try {
      await this.run(this.controller.signal);
    } catch (error) {
      say(`${this.name}-status`, `The stream broke off: ${error.message}`, "bad");
    }
    this.controller = null;
    this.button.textContent = "Start again";
    this.button.classList.add("primary");
  }
}

// Reads a stream until it ends or the signal stops it. Calls `arrived` with each
// piece, and waits for what it returns before it reads the next one.
// Returns true when the stream was read to its end.
async function readStream(response, signal, arrived) {
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return true;
      await arrived(value);
      if (signal.aborted) return false;
    }
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  }
}

async function openStream(url, signal) {
  const response = await fetch(url, { signal });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response;
}

async function sayStopped(id, number) {
  say(id, "Stopped by this page; asking the server.");
  const state = await departureNoticed(number);
  if (!state) say(id, "Stopped by this page.");
  else {
    say(id,
      `The server stopped too, after ${plural(state.sent_chunks, "chunk")}: ${state.end}, noticed within ${state.ms} ms.`,
      "good");
  }
}

// Streaming response

const CHUNKS = 40;

function emptyCells() {
  element("cells").replaceChildren(
    ...Array.from({ length: CHUNKS }, () => document.createElement("i")),
  );
}

async function playStream(signal) {
  emptyCells();
  say("stream-status", "Streaming.");
  for (const id of ["stream-chunks", "stream-reads", "stream-first"]) element(id).textContent = "–";
  const started = performance.now();
  let chunks = 0;
  let reads = 0;
  let number = 0;
  const decoder = new TextDecoder();
  const arrived = (value) => {
    if (!reads) element("stream-first").textContent = seconds((performance.now() - started) / 1000);
    reads += 1;
    const lines = decoder.decode(value, { stream: true }).split("\n");
    // A chunk may come in pieces; its line end is what completes it.
    const completed = lines.length - 1;
    for (let index = chunks; index < chunks + completed; index += 1) {
      element("cells").children[index]?.classList.add("full");
    }
    chunks += completed;
    element("tape").textContent = (lines.at(-2) ?? lines.at(-1)).trim();
    element("stream-chunks").textContent = `${chunks} of ${CHUNKS}`;
    element("stream-reads").textContent = reads;
    pulse("down");
  };
  let complete = false;
  try {
    const response = await openStream(`stream?chunks=${CHUNKS}&pause=100`, signal);
    number = response.headers.get("demo-stream");
    complete = await readStream(response, signal, arrived);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  if (complete) {
    const took = seconds((performance.now() - started) / 1000);
    say("stream-status", `Complete: ${plural(chunks, "chunk")} in ${took}.`, "good");
  } else {
    await sayStopped("stream-status", number);
  }
}

// Back-pressure

const PRESSURE_CHUNKS = 768;
const PRESSURE_BYTES = PRESSURE_CHUNKS * 65536;

class PressureView {
  sent = 0;
  read = 0;
  waited = 0;
  started = performance.now();

  show() {
    // The server's number is a moment older than ours.
    const sent = Math.max(this.sent, this.read);
    element("sent-bar").value = sent / PRESSURE_BYTES;
    element("read-bar").value = this.read / PRESSURE_BYTES;
    element("sent-text").textContent = bytes(sent);
    element("read-text").textContent = bytes(this.read);
    element("pressure-gap").textContent = bytes(sent - this.read);
    element("pressure-wait").textContent = seconds(this.waited);
    const elapsed = (performance.now() - this.started) / 1000;
    element("pressure-rate").textContent = `${bytes(this.read / Math.max(elapsed, 0.001))}/s`;
  }

  async follow(number, running) {
    while (running()) {
      const state = await streamState(number).catch(() => null);
      if (state) {
        this.sent = state.sent_bytes;
        this.waited = state.waited;
      }
      if (running()) this.show();
      await sleep(150);
    }
  }
}

async function playPressure(signal) {
  const choice = element("pressure-choice");
  const rate = Number(choice.querySelector(":checked").value) * MIB;
  choice.disabled = true;
  const view = new PressureView();
  let number = 0;
  let complete = false;
  say("pressure-status", "Reading.");
  try {
    const response = await openStream(`stream?chunks=${PRESSURE_CHUNKS}&size=65536&pause=0`, signal);
    number = response.headers.get("demo-stream");
    let running = true;
    const following = view.follow(number, () => running);
    try {
      complete = await readStream(response, signal, async (value) => {
        view.read += value.length;
        view.show();
        const ahead = rate ? view.read / rate - (performance.now() - view.started) / 1000 : 0;
        if (ahead > 0.01) await sleep(ahead * 1000);
      });
    } finally {
      running = false;
      await following;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    choice.disabled = false;
  }
  if (complete) await sayReadAll(view, number);
  else await sayStopped("pressure-status", number);
}

async function sayReadAll(view, number) {
  const state = await streamState(number).catch(() => null);
  view.sent = view.read;
  if (state) view.waited = state.waited;
  view.show();
  const took = seconds((performance.now() - view.started) / 1000);
  const wait = state ? `; the application spent ${seconds(state.waited)} of that waiting in send()` : "";
  say("pressure-status", `Read ${bytes(view.read)} in ${took}${wait}.`, "good");
}

// Upload

const UPLOAD_LIMIT = 1024 * MIB;
const HASHED_LOCALLY = 64 * MIB;

function randomBlob(length) {
  // One mebibyte of random bytes, repeated: quick to make, and as good to send.
  const piece = new Uint8Array(MIB);
  for (let start = 0; start < MIB; start += 65536) {
    crypto.getRandomValues(piece.subarray(start, start + 65536));
  }
  return new Blob(Array.from({ length: length / MIB }, () => piece));
}

// The browser's own SHA-256, to compare; null where it has none to offer (it is
// withheld on plain HTTP from another machine) or the data is large.
async function localHash(blob) {
  if (!globalThis.crypto?.subtle || blob.size > HASHED_LOCALLY) return null;
  const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

class Upload {
  request = null;

  constructor() {
    for (const id of ["upload-button", "upload-file"]) element(id).disabled = false;
    element("upload-button").addEventListener("click", () => {
      this.send(randomBlob(Number(element("upload-size").value) * MIB), "random bytes");
    });
    element("upload-file").addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (file) this.send(file, file.name);
    });
    element("upload-cancel").addEventListener("click", () => this.request?.abort());
  }

  send(blob, name) {
    if (blob.size > UPLOAD_LIMIT) {
      say("upload-status", `${name} has ${bytes(blob.size)}; the demo takes 1 GiB at most.`, "bad");
      return;
    }
    const request = new XMLHttpRequest();
    this.request = request;
    this.busy(true);
    for (const id of ["upload-bytes", "upload-chunks", "upload-time", "upload-hash"]) element(id).textContent = "–";
    this.progress(0, blob.size);
    say("upload-status", `Sending ${name}, ${bytes(blob.size)}.`);
    request.upload.addEventListener("progress", (event) => {
      this.progress(event.loaded, blob.size);
      pulse("up");
    });
    request.addEventListener("load", () => this.answered(blob));
    request.addEventListener("error", () => say("upload-status", "The connection broke off.", "bad"));
    request.addEventListener("abort", () => say("upload-status", "Cancelled; the server dropped what it had."));
    request.addEventListener("loadend", () => this.busy(false));
    request.open("POST", "upload");
    request.setRequestHeader("content-type", "application/octet-stream");
    request.send(blob);
  }

  progress(sent, total) {
    element("upload-bar").value = total ? sent / total : 0;
    element("upload-text").textContent = `${bytes(sent)} of ${bytes(total)}`;
  }

  async answered(blob) {
    const { request } = this;
    if (request.status !== 200) {
      say("upload-status", `The server answered ${request.responseText.trim()}`, "bad");
      return;
    }
    const answer = JSON.parse(request.responseText);
    this.progress(blob.size, blob.size);
    if (!blob.size) element("upload-bar").value = 1;
    element("upload-bytes").textContent = bytes(answer.bytes);
    element("upload-chunks").textContent = answer.chunks.toLocaleString("en");
    element("upload-time").textContent = seconds(answer.seconds);
    element("upload-hash").textContent = answer.sha256;
    pulse("down");
    // A small upload is over before its rate means anything.
    const rate = answer.bytes < MIB ? "" : `, at ${bytes(answer.bytes / answer.seconds)}/s`;
    say("upload-status", `Received whole${rate}.`, "good");
    const expected = await localHash(blob).catch(() => null);
    if (!expected || this.request !== request) return;
    if (expected === answer.sha256) {
      say("upload-status", `Received whole${rate}. The browser computes the same hash.`, "good");
    } else {
      say("upload-status", "The browser computes another hash.", "bad");
    }
  }

  busy(sending) {
    element("upload-cancel").disabled = !sending;
    for (const id of ["upload-button", "upload-size", "upload-file"]) element(id).disabled = sending;
    if (!sending) element("upload-file").value = "";
  }
}

// WebSockets

// One that is opened again after a pause when it breaks off, unless it was left.
class Socket {
  socket = null;
  left = false;

  constructor(name, controls) {
    this.name = name;
    this.controls = controls;
    addEventListener("pagehide", () => this.leave());
  }

  leave() {
    this.left = true;
    this.socket?.close(1000, "left");
  }

  open() {
    this.left = false;
    const url = new URL(this.path, document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.addEventListener("open", () => this.opened());
    this.socket.addEventListener("message", (event) => {
      pulse("down");
      this.received(event.data);
    });
    this.socket.addEventListener("close", (event) => this.closed(event));
  }

  enable(on) {
    for (const id of this.controls) element(id).disabled = !on;
  }

  opened() {
    this.enable(true);
    const extensions = this.socket.extensions.includes("deflate") ? ", compressed" : "";
    say(`${this.name}-status`, `Connected${extensions}.`, "good");
  }

  send(text) {
    pulse("up");
    this.socket.send(text);
  }

  closed({ code, reason }) {
    this.enable(false);
    const why = [code, reason].filter(Boolean).join(" ");
    if (this.left) {
      say(`${this.name}-status`, `Closed by this page: ${why}.`);
      return;
    }
    say(`${this.name}-status`, `Closed: ${why}. Trying again.`, "bad");
    setTimeout(() => this.left || this.open(), 2000);
  }
}

class Echo extends Socket {
  path = "echo";
  count = 0;
  best = Infinity;
  sent = [];

  constructor() {
    super("echo", ["echo-text", "echo-button", "echo-burst"]);
    this.open();
    element("echo-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.say(element("echo-text").value);
    });
    element("echo-burst").addEventListener("click", () => {
      for (let index = 1; index <= 10; index += 1) this.say(`${index} of 10`);
    });
  }

  say(text) {
    this.sent.push(performance.now());
    this.send(text);
  }

  received(text) {
    const took = performance.now() - this.sent.shift();
    this.count += 1;
    this.best = Math.min(this.best, took);
    element("echo-answer").textContent = text;
    element("echo-time").textContent = `${took.toFixed(1)} ms`;
    element("echo-best").textContent = `${this.best.toFixed(1)} ms`;
    element("echo-count").textContent = this.count.toLocaleString("en");
  }

  closed(event) {
    this.sent = [];
    super.closed(event);
  }
}

const SHOWN = 3;

class Talk extends Socket {
  path = "live";
  you = 0;
  count = 0;

  constructor() {
    super("talk", ["talk-text", "talk-button", "talk-leave"]);
    this.open();
    element("talk-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = element("talk-text");
      if (field.value) this.send(field.value);
      field.value = "";
    });
    element("talk-leave").addEventListener("click", () => this.leave());
  }

  opened() {
    this.you = 0;
    super.opened();
  }

  received(data) {
    const event = JSON.parse(data);
    if (event.you && !this.you) {
      this.you = event.you;
      element("talk-you").textContent = `No. ${this.you}`;
    }
    if (event.members) element("talk-members").textContent = event.members;
    if (event.from) this.show(event);
  }

  show({ from, text }) {
    const line = document.createElement("li");
    const who = document.createElement("b");
    who.textContent = from === this.you ? "You" : `No. ${from}`;
    line.append(who, text);
    const list = element("talk");
    list.append(line);
    while (list.childElementCount > SHOWN) list.firstElementChild.remove();
    this.count += 1;
    element("talk-count").textContent = this.count.toLocaleString("en");
  }
}

// The request

function factRows() {
  return Array.from(document.querySelectorAll("#request .facts > div"));
}

async function askAgain() {
  const before = new Set(factRows().map((row) => row.textContent));
  pulse("up");
  try {
    const response = await fetch("request");
    if (!response.ok) throw new Error(`status ${response.status}`);
    // Escaped by the server, and no script in it would run: the policy forbids it.
    element("request").innerHTML = await response.text();
  } catch (error) {
    say("request-status", `No answer: ${error.message}`, "bad");
    return;
  }
  const fresh = factRows().filter((row) => !before.has(row.textContent));
  for (const row of fresh) row.classList.add("fresh");
  say("request-status", `Marked: ${plural(fresh.length, "line")} unlike before.`);
  pulse("down");
}

// The commands below the panels, with the address this page came from.
function fillCommands() {
  for (const code of document.querySelectorAll("[data-curl]")) {
    const url = new URL(code.dataset.path, document.baseURI).href;
    const safe = /^[\w:/.\-[\]]+$/.test(url) ? url : `'${url.replaceAll("'", "%27")}'`;
    code.textContent = `curl ${code.dataset.curl} ${safe}`;
  }
}

// A proxy between speaks one protocol with the browser, another with the server.
function tellHop() {
  const [navigation] = performance.getEntriesByType("navigation");
  const names = { "http/1.0": "HTTP/1.0", "http/1.1": "HTTP/1.1", h2: "HTTP/2", h3: "HTTP/3" };
  const spoken = names[navigation?.nextHopProtocol];
  const served = element("protocol").textContent;
  if (!spoken || spoken === served) return;
  element("hop").textContent =
    `Your browser spoke ${spoken}; a proxy on the way made it ${served}.`;
  element("hop").hidden = false;
}

tellHop();
fillCommands();
emptyCells();
new Events();
new Stoppable("stream", playStream);
new Stoppable("pressure", playPressure);
new Upload();
new Echo();
new Talk();
element("request-button").disabled = false;
element("request-button").addEventListener("click", askAgain);
