"use strict";

const socket = new WebSocket(`ws://${location.host}/ws/chat`);
const form = document.querySelector("form");

socket.onopen = () => {
  document.getElementById("state").textContent = "open";
};
socket.onmessage = (event) => {
  const line = document.createElement("li");
  line.textContent = JSON.parse(event.data).text;
  document.getElementById("lines").append(line);
};
form.onsubmit = (event) => {
  event.preventDefault();
  socket.send(JSON.stringify({ text: form.elements.text.value }));
};
