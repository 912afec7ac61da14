/* The player of one track.

   Two ways to sound, with the same methods (load, play, pause, position, mixed):
     Samples   all stems in memory on one clock, together to the sample (Web Audio)
     Elements  for long tracks: a media element for each stem, each on a clock of its own
   Below them: the mixing desk, the loop, and what is seen of both. Times are in seconds of the track. */

"use strict";

const track = JSON.parse(document.getElementById("data").textContent);
const desk = track.stems.map(({ muted }) => ({ level: 0, pan: 0, muted, solo: false })); // level in dB
const loop = { from: null, to: null, on: false };
const LOWEST = -40; // dB, which means silence
const FADE = 0.012; // of starts and stops, so that nothing clicks
const $ = (id) => document.getElementById(id);

/* --- the mix --- */

function gainOf(number) {
  const { level, muted, solo } = desk[number];
  const heard = !muted && (solo || !desk.some((each) => each.solo));
  return heard && level > LOWEST ? 10 ** (level / 20) : 0;
}

function looping(at) {
  return loop.on && at < loop.to;
}

/* --- sounds, as the scripts hand them over --- */

const sounds = new Map(); // number -> base64 of an MP3
const waiting = new Map(); // number -> who takes it

window.sepcliSound = (number, text) => {
  const take = waiting.get(number);
  waiting.delete(number);
  if (take) take(text);
  else sounds.set(number, text);
};

function soundOf(number) {
  return new Promise((resolve, reject) => {
    if (sounds.has(number)) {
      resolve(sounds.get(number));
      sounds.delete(number);
      return;
    }
    waiting.set(number, resolve);
    if (track.mode !== "files") return;
    const script = document.createElement("script");
    script.src = track.stems[number].file;
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`${track.stems[number].file} is missing`));
    document.head.append(script);
  });
}

function bytesOf(text) {
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  const bytes = new Uint8Array((text.length / 4) * 3 - padding);
  const piece = 1 << 16; // a multiple of 4
  for (let start = 0, at = 0; start < text.length; start += piece) {
    const part = atob(text.slice(start, start + piece));
    for (let index = 0; index < part.length; index++) bytes[at++] = part.charCodeAt(index);
  }
  return bytes;
}

/* --- together to the sample --- */

class Samples {
  buffers = [];
  delay = 0; // of this browser's MP3 decoder
  context = null; // made by the first touch, as browsers want it
  sources = [];

  async load(loaded) {
    const decoder = new OfflineAudioContext(2, 1, track.rate);
    const decode = (text) => decoder.decodeAudioData(bytesOf(text).buffer);
    const click = (await decode(track.click.data)).getChannelData(0);
    let loudest = 0;
    for (let at = 0; at < click.length; at++) if (Math.abs(click[at]) > Math.abs(click[loudest])) loudest = at;
    this.delay = (loudest - track.click.frame) / track.rate;
    for (let number = 0; number < track.stems.length; number++) {
      this.buffers[number] = await decode(await soundOf(number));
      loaded(number);
    }
  }

  /* One strip a stem, from its source to `out`. */
  strips(context, out) {
    return desk.map(({ pan }, number) => {
      const gain = new GainNode(context, { gain: gainOf(number) });
      // Two channels always: a pan in the middle then leaves mono as it is.
      const panner = new StereoPannerNode(context, { pan: pan / 100, channelCount: 2, channelCountMode: "explicit" });
      gain.connect(panner).connect(out);
      return { gain, panner };
    });
  }

  /* Sources of all stems that begin at the same moment `when` of the context, `at` in the track. */
  start(context, strips, when, at) {
    return this.buffers.map((buffer, number) => {
      const source = new AudioBufferSourceNode(context, { buffer });
      if (looping(at)) {
        source.loop = true;
        source.loopStart = loop.from + this.delay;
        source.loopEnd = loop.to + this.delay;
      }
      source.connect(strips[number].gain);
      source.start(when, at + this.delay);
      if (!source.loop) source.stop(when + track.seconds - at);
      return source;
    });
  }

  async play(at) {
    if (!this.context) {
      try {
        this.context = new AudioContext({ sampleRate: track.rate });
      } catch {
        this.context = new AudioContext(); // a system that knows one rate only
      }
      this.out = new GainNode(this.context);
      this.out.connect(this.context.destination);
      this.desk = this.strips(this.context, this.out);
    }
    this.silence();
    this.when = this.context.currentTime + 0.05;
    this.from = at;
    this.loop = looping(at) ? { ...loop } : null;
    const { gain } = this.out;
    gain.setValueAtTime(0, this.when);
    gain.linearRampToValueAtTime(1, this.when + FADE);
    this.sources = this.start(this.context, this.desk, this.when, at);
    await this.context.resume();
  }

  pause() {
    this.silence();
  }

  silence() {
    const { gain } = this.out;
    const now = this.context.currentTime;
    gain.cancelScheduledValues(now);
    gain.setValueAtTime(gain.value, now);
    gain.linearRampToValueAtTime(0, now + FADE);
    for (const source of this.sources) source.stop(now + FADE);
    this.sources = [];
  }

  get position() {
    const at = this.from + Math.max(0, this.context.currentTime - this.when);
    if (!this.loop || at < this.loop.to) return at;
    const { from, to } = this.loop;
    return from + ((at - from) % (to - from));
  }

  /* The desk has changed. */
  mixed() {
    if (!this.context) return; // not yet played
    this.desk.forEach(({ gain, panner }, number) => {
      gain.gain.setTargetAtTime(gainOf(number), this.context.currentTime, 0.01);
      panner.pan.setTargetAtTime(desk[number].pan / 100, this.context.currentTime, 0.01);
    });
  }

  /* What is heard, from a time to another, as an AudioBuffer. */
  render(from, to) {
    const context = new OfflineAudioContext(2, Math.round((to - from) * track.rate), track.rate);
    const strips = this.strips(context, context.destination);
    this.buffers.forEach((buffer, number) => {
      const source = new AudioBufferSourceNode(context, { buffer });
      source.connect(strips[number].gain);
      source.start(0, from + this.delay);
    });
    return context.startRendering();
  }
}

/* --- long tracks --- */

class Elements {
  players = track.stems.map(({ file }) => Object.assign(new Audio(), { preload: "auto", src: file }));

  async load(loaded) {
    await Promise.all(this.players.map((player, number) => new Promise((resolve, reject) => {
      const ready = () => resolve(loaded(number));
      if (player.readyState >= 1) ready();
      player.onloadedmetadata = ready;
      player.onerror = () => reject(new Error(`${track.stems[number].file} is missing`));
    })));
    this.mixed();
  }

  async play(at) {
    for (const player of this.players) player.currentTime = at;
    await Promise.all(this.players.map((player) => player.play()));
  }

  pause() {
    for (const player of this.players) player.pause();
  }

  get position() {
    return this.players[0].ended ? track.seconds : this.players[0].currentTime;
  }

  /* Now and then: the loop, and who has run ahead or fallen behind. */
  keep() {
    if (this.players.some((player) => player.seeking)) return;
    const at = this.position;
    const past = loop.on && at >= loop.to && at < loop.to + 2;
    for (const player of this.players) {
      if (past) player.currentTime = loop.from;
      else if (Math.abs(player.currentTime - at) > 0.06) player.currentTime = at;
    }
  }

  mixed() {
    this.players.forEach((player, number) => {
      player.volume = Math.min(1, gainOf(number));
      player.muted = gainOf(number) === 0; // phones have no volume of an element
    });
  }
}

/* --- playing --- */

const sounding = track.mode === "long" ? new Elements() : new Samples();
let ready = false;
let playing = false;
let place = 0; // where it stands, or will begin

function now() {
  return playing ? Math.min(sounding.position, track.seconds) : place;
}

async function play() {
  if (!ready) return;
  if (place >= track.seconds - 0.01) place = loop.on ? loop.from : 0;
  playing = true;
  document.body.classList.add("playing");
  $("play").setAttribute("aria-label", "Pause");
  await sounding.play(place);
  requestAnimationFrame(draw);
}

function pause() {
  if (!playing) return;
  place = now();
  sounding.pause();
  playing = false;
  document.body.classList.remove("playing");
  $("play").setAttribute("aria-label", "Play");
  show();
}

function seek(to) {
  place = Math.min(Math.max(0, to), track.seconds);
  if (playing) sounding.play(place);
  show();
}

/* The loop has changed: all stems begin anew, so that all of them know. */
function looped() {
  const at = now();
  loop.on = loop.on && loop.from !== null && loop.to !== null && loop.to - loop.from >= 0.05;
  seek(loop.on && at >= loop.to ? loop.from : at);
}

function loopFrom(at) {
  loop.from = at;
  if (loop.to === null || loop.to <= at) loop.to = track.seconds;
  loop.on = true;
  looped();
}

function loopTo(at) {
  loop.to = at;
  if (loop.from === null || loop.from >= at) loop.from = 0;
  loop.on = true;
  looped();
}

function switchLoop() {
  if (loop.from === null) [loop.from, loop.to] = [0, track.seconds];
  loop.on = !loop.on;
  looped();
}

/* --- the mix as a file --- */

async function download() {
  say("The mix is being made …");
  $("download").disabled = true;
  try {
    const [from, to] = loop.on ? [loop.from, loop.to] : [0, track.seconds];
    const sound = await sounding.render(from, to);
    const { blob, lowered } = wav(sound);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${track.title} (mix).wav`.replace(/[\\/:*?"<>|]/g, "_");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say(lowered ? `The mix is saved, ${lowered.toFixed(1)} dB lower, so that nothing clips.` : "The mix is saved.");
  } catch (error) {
    say(`The mix could not be made: ${error.message}.`);
  }
  $("download").disabled = false;
}

/* A WAV of 16 bits. lowered: by how many dB, if it would have clipped. */
function wav(sound) {
  const channels = [0, 1].map((channel) => sound.getChannelData(channel));
  let highest = 0;
  for (const samples of channels) for (const sample of samples) highest = Math.max(highest, Math.abs(sample));
  const scale = 32767 / Math.max(1, highest);
  const bytes = sound.length * 4;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const word = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // integers
  view.setUint16(22, 2, true); // channels
  view.setUint32(24, sound.sampleRate, true);
  view.setUint32(28, sound.sampleRate * 4, true);
  view.setUint16(32, 4, true); // bytes a frame
  view.setUint16(34, 16, true); // bits
  word(36, "data");
  view.setUint32(40, bytes, true);
  for (let frame = 0, at = 44; frame < sound.length; frame++) {
    for (const samples of channels) {
      view.setInt16(at, Math.round(samples[frame] * scale), true);
      at += 2;
    }
  }
  return { blob: new Blob([view], { type: "audio/wav" }), lowered: highest > 1 ? 20 * Math.log10(highest) : 0 };
}

/* --- what is seen --- */

const HUES = [14, 208, 150, 268, 40, 330, 184, 90];

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function say(text) {
  $("status").textContent = text;
}

function decibels(level) {
  return level <= LOWEST ? "off" : `${level > 0 ? "+" : level < 0 ? "−" : ""}${Math.abs(level)} dB`;
}

function side(pan) {
  return pan === 0 ? "centre" : `${Math.abs(pan)} ${pan < 0 ? "left" : "right"}`;
}

function make(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

const lanes = track.stems.map((stem, number) => {
  const lane = $("lane").content.cloneNode(true).firstElementChild;
  const find = (selector) => lane.querySelector(selector);
  lane.style.setProperty("--hue", HUES[number % HUES.length]);
  lane.classList.add("loading");
  find("kbd").textContent = number < 9 ? number + 1 : "";
  find(".name").textContent = stem.name;
  for (const kind of ["mute", "solo"]) {
    const button = find(`.${kind}`);
    button.setAttribute("aria-label", `${button.textContent} ${stem.name}`);
    button.onclick = () => press(number, kind === "mute" ? "muted" : "solo");
  }
  for (const [kind, words] of [["level", decibels], ["pan", side]]) {
    const slider = find(`.${kind} input`);
    const shown = find(`.${kind} output`);
    slider.setAttribute("aria-label", `${kind === "level" ? "Level" : "Pan"} of ${stem.name}`);
    slider.oninput = () => {
      desk[number][kind] = Number(slider.value);
      shown.textContent = words(desk[number][kind]);
      slider.setAttribute("aria-valuetext", shown.textContent);
      mixed();
    };
    slider.ondblclick = () => {
      slider.value = 0;
      slider.oninput();
    };
    if (track.mode === "long") {
      if (kind === "pan") slider.closest("label").hidden = true;
      else slider.max = 0;
    }
  }
  $("lanes").append(lane);
  touch(find(".wave"));
  return lane;
});

/* A click goes to a place; a drag makes a loop. */
function touch(wave) {
  let start = null;
  const timeAt = (event) => {
    const box = wave.getBoundingClientRect();
    return Math.min(Math.max(0, (event.clientX - box.left) / box.width), 1) * track.seconds;
  };
  wave.onpointerdown = (event) => {
    if (event.button !== 0) return;
    start = { x: event.clientX, at: timeAt(event) };
    wave.setPointerCapture(event.pointerId);
  };
  wave.onpointermove = (event) => {
    if (!start || Math.abs(event.clientX - start.x) < 8) return;
    const at = timeAt(event);
    showLoop(Math.min(at, start.at), Math.max(at, start.at));
  };
  wave.onpointerup = (event) => {
    if (!start) return;
    const at = timeAt(event);
    if (Math.abs(event.clientX - start.x) < 8) {
      seek(at);
    } else {
      [loop.from, loop.to] = [Math.min(at, start.at), Math.max(at, start.at)];
      loop.on = true;
      place = loop.from;
      if (playing) sounding.play(place);
      looped();
    }
    start = null;
  };
  wave.onpointercancel = () => {
    start = null;
    show();
  };
}

function press(number, what) {
  desk[number][what] = !desk[number][what];
  mixed();
}

function mixed() {
  lanes.forEach((lane, number) => {
    lane.querySelector(".mute").setAttribute("aria-pressed", desk[number].muted);
    lane.querySelector(".solo").setAttribute("aria-pressed", desk[number].solo);
    lane.classList.toggle("silent", gainOf(number) === 0);
  });
  sounding.mixed();
}

/* Bars of the maxima, as many as there is room for; drawn again when that changes. */
const loudest = Math.max(...track.stems.map((stem) => stem.peak)) || 1;

function drawWave(lane, stem) {
  const wave = lane.querySelector(".wave");
  const steps = Uint8Array.from(atob(stem.peaks), (letter) => letter.charCodeAt(0));
  const bars = Math.max(1, Math.floor(wave.clientWidth / 4));
  const bins = track.seconds / stem.bin; // of the whole width; the last may be a part of one
  const lines = [];
  for (let bar = 0; bar < bars; bar++) {
    const [first, last] = [Math.floor((bar * bins) / bars), Math.ceil(((bar + 1) * bins) / bars)];
    const highest = Math.max(0, ...steps.subarray(first, Math.max(last, first + 1)));
    const half = Math.max(0.01, 0.94 * ((highest * stem.peak) / 255 / loudest) ** 0.75); // soft parts are seen, too
    lines.push(`M${bar + 0.5} ${(1 - half).toFixed(3)}V${(1 + half).toFixed(3)}`);
  }
  for (const svg of wave.querySelectorAll("svg")) {
    svg.setAttribute("viewBox", `0 0 ${bars} 2`);
    svg.querySelector("path").setAttribute("d", lines.join(""));
  }
}

new ResizeObserver(() => lanes.forEach((lane, number) => drawWave(lane, track.stems[number]))).observe($("lanes"));

function showLoop(from, to) {
  const share = (seconds) => `${(100 * seconds) / track.seconds}%`;
  $("lanes").style.setProperty("--from", share(from));
  $("lanes").style.setProperty("--to", share(to));
}

function show() {
  const at = now();
  $("lanes").style.setProperty("--at", `${(100 * at) / track.seconds}%`);
  $("now").textContent = clock(at);
  $("seek").value = at;
  $("seek").setAttribute("aria-valuetext", `${clock(at)} of ${clock(track.seconds)}`);
  showLoop(loop.on ? loop.from : 0, loop.on ? loop.to : 0);
  $("loop").setAttribute("aria-pressed", loop.on);
  $("loop").textContent = loop.on ? `${clock(loop.from)} – ${clock(loop.to)}` : "Loop";
  $("loop").setAttribute("aria-label", loop.on ? `Loop from ${clock(loop.from)} to ${clock(loop.to)}` : "Loop");
}

function draw() {
  if (!playing) return;
  show();
  requestAnimationFrame(draw);
}

setInterval(() => { // a hidden page draws nothing, and still has to see the end
  if (!playing) return;
  sounding.keep?.();
  if (sounding.position >= track.seconds) pause();
}, 100);

/* --- hands --- */

$("play").onclick = () => (playing ? pause() : play());
$("seek").max = track.seconds;
$("seek").oninput = () => seek(Number($("seek").value));
$("from").onclick = () => loopFrom(now());
$("to").onclick = () => loopTo(now());
$("loop").onclick = switchLoop;
$("download").onclick = download;

document.addEventListener("click", (event) => {
  // After a click with the mouse the space bar plays, and does not press that button again.
  if (event.detail) event.target.closest("button")?.blur();
});

document.addEventListener("keydown", (event) => {
  const { key, code, target, shiftKey } = event;
  if (event.ctrlKey !== event.altKey || event.metaKey) return; // both together are AltGr, which some need for [
  const slider = target.matches("input");
  if (code === "Space") {
    if (target.matches("button, summary, a")) return;
    if (!event.repeat) $("play").click();
  } else if (/^Digit[1-9]$/.test(code) && !event.altKey && Number(code[5]) <= lanes.length) {
    press(Number(code[5]) - 1, shiftKey ? "solo" : "muted");
  } else if (key === "[") {
    loopFrom(now());
  } else if (key === "]") {
    loopTo(now());
  } else if (code === "KeyL" && !event.altKey) {
    switchLoop();
  } else if ((key === "ArrowLeft" || key === "ArrowRight") && !slider) {
    seek(now() + (key === "ArrowLeft" ? -5 : 5));
  } else if (key === "Home" && !slider) {
    seek(0);
  } else {
    return;
  }
  event.preventDefault();
});

/* --- the beginning --- */

$("title").textContent = track.title;
$("about").textContent = `${track.model} · ${clock(track.seconds)}`;
$("end").textContent = clock(track.seconds);
for (const [name, value] of [
  ["Model", track.model],
  ["Licence of the weights", track.license],
  ...track.settings,
  ["Made by", track.program],
]) {
  if (!value) continue;
  const row = make("div", "");
  row.append(make("dt", name), make("dd", value));
  $("settings").append(row);
}
if (track.mode === "long") {
  $("hint").textContent = "This track is longer than 12 minutes, too long to have all stems in memory. So each plays "
    + "from a file of its own: they may be some hundredths of a second apart, and there is no pan and no mix to save.";
  $("hint").hidden = false;
  $("download").hidden = true;
}
const back = location.hash.match(/^#((\.\.\/)*)$/); // whoever came from an overview, and where it is
if (back) {
  $("back").hidden = false;
  $("back").firstElementChild.href = `${back[1]}index.html`;
}
show();
mixed();

let loaded = 0;
say(`Loading ${track.stems.length} stems …`);
sounding.load((number) => {
  lanes[number].classList.remove("loading");
  loaded += 1;
  say(`Loading ${track.stems.length} stems: ${loaded} are here …`);
}).then(() => {
  ready = true;
  $("play").disabled = $("download").disabled = false;
  say(track.folded ? "More than two channels: you hear them brought to two." : "");
}, (error) => say(`The stems can't be played: ${error.message || error}.`));
