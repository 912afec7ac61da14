/* The pages of many tracks, and a search in their names, folders, models and stems. */

"use strict";

const { title, tracks } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function plain(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase(); // no accents, no capitals
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function span(kind, text) {
  return Object.assign(document.createElement("span"), { className: kind, textContent: text });
}

const rows = tracks.map((track) => {
  const row = document.createElement("li");
  const link = document.createElement("a");
  link.href = track.page;
  link.append(
    span("title", track.title),
    span("length", clock(track.seconds)),
    span("stems", [...new Set([track.folder, track.model, track.stems.join(", ")])].filter(Boolean).join(" · ")),
  );
  row.append(link);
  $("tracks").append(row);
  return { row, text: plain([track.title, track.folder, track.model, ...track.stems].join(" ")) };
});

function search() {
  const words = plain($("search").value).split(/\s+/);
  let found = 0;
  for (const { row, text } of rows) {
    row.hidden = !words.every((word) => text.includes(word));
    found += !row.hidden;
  }
  const all = rows.length === 1 ? "1 track" : `${rows.length} tracks`;
  $("found").textContent = found === rows.length ? all : `${found} of ${all}`;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== $("search")) {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "Escape") {
    $("search").value = "";
    search();
  }
});

$("title").textContent = title;
$("search").oninput = search;
search(); // a browser that comes back keeps what was typed
