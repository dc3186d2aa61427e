// Keeps the page of a room up to date by a WebSocket.
"use strict";

const room = document.querySelector("[data-socket]");
const log = document.getElementById("log");
const messages = document.getElementById("messages");
const form = document.getElementById("say");
const field = form.elements.namedItem("text");
const template = document.getElementById("message");

// Close codes: see consumers.py and RFC 6455 section 7.4.
const GOING_AWAY = 1001;
const SERVICE_RESTART = 1012;
const LOGGED_OUT = 4401;
const NO_SUCH_ROOM = 4404;

const SHORTEST_WAIT = 500;
const LONGEST_WAIT = 15000;

let socket;
let leaving = false;
let failures = 0;
let timer;

function connect() {
  clearTimeout(timer);
  const url = new URL(room.dataset.socket, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  // What was said while we were away comes first.
  url.searchParams.set("after", messages.lastElementChild?.dataset.id ?? "0");
  leaving = false;
  socket = new WebSocket(url);
  socket.onopen = () => {
    failures = 0;
    say("Connected.");
  };
  socket.onmessage = ({ data }) => take(JSON.parse(data));
  socket.onclose = ({ code }) => reconnect(code);
}

function reconnect(code) {
  if (code === LOGGED_OUT) {
    location.reload(); // the server sends us to the login, and back
    return;
  }
  if (code === NO_SUCH_ROOM) {
    location.assign("/");
    return;
  }
  // Twice as long each time; and not all pages in the same moment.
  const longest = Math.min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** failures);
  const wait = longest * (0.5 + Math.random() / 2);
  failures += 1;
  timer = setTimeout(connect, wait);
  const restarts =
    leaving || code === GOING_AWAY || code === SERVICE_RESTART;
  say(
    (restarts ? "The server is restarting." : "The connection is lost.") +
      ` Trying again in ${Math.ceil(wait / 1000)} s.`,
  );
}

function take(event) {
  if (event.type === "message") {
    show(event);
  } else if (event.type === "summary") {
    document.getElementById("summary").textContent = event.text;
  } else if (event.type === "refused") {
    say(event.reason);
  } else if (event.type === "leave") {
    // The server still takes what was sent before this.
    leaving = true;
    socket.close();
  }
}

function show({ id, author, text, sent_at: sentAt }) {
  if (messages.querySelector(`[data-id="${id}"]`)) {
    return; // came a second time, at a reconnection
  }
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const item = template.content.firstElementChild.cloneNode(true);
  item.dataset.id = id;
  // textContent: whatever people write stays text.
  item.querySelector("b").textContent = author;
  item.querySelector("p").textContent = text;
  setTime(item.querySelector("time"), sentAt);
  messages.append(item);
  if (atEnd) {
    log.scrollTop = log.scrollHeight;
  }
}

function setTime(element, text) {
  const time = new Date(text);
  element.dateTime = text;
  element.title = time.toLocaleString();
  element.textContent = time.toLocaleTimeString([], { timeStyle: "short" });
}

function say(text) {
  document.getElementById("status").textContent = text;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) {
    say("Not connected: your message is kept here.");
    return;
  }
  socket.send(field.value);
  field.value = "";
  field.focus();
});

addEventListener("online", () => {
  if (socket.readyState === WebSocket.CLOSED) {
    connect();
  }
});

for (const element of messages.querySelectorAll("time")) {
  setTime(element, element.dateTime);
}
log.scrollTop = log.scrollHeight;
connect();
