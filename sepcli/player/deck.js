/* What the pages that play have in common: sounds that come as scripts, their clock, a place, a loop, a waveform.

   One thing at a time is on the deck, `sounding`: Samples (here), or something else with its methods (load, play,
   pause, close, position, seconds). Times are in seconds. The page that this stands in defines
     pageKey(event)   what its own keys do; whether it was one of them
   and has the elements lanes, play, seek, now, end, from, to, loop, status. */

"use strict";

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const FADE = 0.012; // of starts, stops and changes, so that nothing clicks

/* --- sounds, as the scripts hand them over --- */

const sounds = new Map(); // number -> base64 of a file
const waiting = new Map(); // number -> who takes it

window.sepcliSound = (number, text) => {
  const take = waiting.get(number);
  waiting.delete(number);
  if (take) take(text);
  else sounds.set(number, text);
};

/* The sound of a number, from its script; from the page itself where there is no script. */
function soundOf(number, file) {
  return new Promise((resolve, reject) => {
    if (sounds.has(number)) {
      resolve(sounds.get(number));
      sounds.delete(number);
      return;
    }
    waiting.set(number, resolve);
    if (!file) return;
    const script = document.createElement("script");
    script.src = file;
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`${file} is missing`));
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
  delay = 0; // of this browser's decoder
  context = null; // made by the first touch, as browsers want it
  sources = [];

  /* count: of sounds. mix(number): { gain, pan } of each, at this moment. */
  constructor({ seconds, rate, count, mix }) {
    Object.assign(this, { seconds, rate, mix, numbers: Array.from({ length: count }, (_, number) => number) });
  }

  /* fetched(number): a promise of each sound's base64. click: as in sounds.py, of the same codec; null for a codec
     that begins where it should. */
  async load(fetched, click, loaded = () => {}) {
    const decoder = new OfflineAudioContext(2, 1, this.rate);
    const decode = (text) => decoder.decodeAudioData(bytesOf(text).buffer);
    if (click) {
      const samples = (await decode(click.data)).getChannelData(0);
      let loudest = 0;
      for (let at = 0; at < samples.length; at++) if (Math.abs(samples[at]) > Math.abs(samples[loudest])) loudest = at;
      this.delay = (loudest - click.frame) / this.rate;
    }
    for (const number of this.numbers) {
      this.buffers[number] = await decode(await fetched(number));
      loaded(number);
    }
  }

  /* One strip a sound, from its source to `out`. */
  strips(context, out) {
    return this.numbers.map((number) => {
      const mix = this.mix(number);
      const gain = new GainNode(context, { gain: mix.gain });
      // Two channels always: a pan in the middle then leaves mono as it is.
      const panner = new StereoPannerNode(context, { pan: mix.pan, channelCount: 2, channelCountMode: "explicit" });
      gain.connect(panner).connect(out);
      return { gain, panner };
    });
  }

  /* Sources of all sounds that begin at the same moment `when` of the context, at the place `at`. */
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
      if (!source.loop) source.stop(when + this.seconds - at);
      return source;
    });
  }

  async play(at) {
    if (!this.context) {
      try {
        this.context = new AudioContext({ sampleRate: this.rate });
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

  close() {
    this.context?.close();
  }

  silence() {
    this.fadeOut();
    for (const source of this.sources) source.stop(this.context.currentTime + FADE);
    this.sources = [];
  }

  /* When it is silent. */
  fadeOut() {
    const { gain } = this.out;
    const now = this.context.currentTime;
    gain.cancelScheduledValues(now);
    gain.setValueAtTime(gain.value, now);
    gain.linearRampToValueAtTime(0, now + FADE);
    return now + FADE;
  }

  get position() {
    const at = this.from + Math.max(0, this.context.currentTime - this.when);
    if (!this.loop || at < this.loop.to) return at;
    const { from, to } = this.loop;
    return from + ((at - from) % (to - from));
  }

  /* The mix has changed. */
  mixed() {
    if (!this.context) return; // not yet played
    this.desk.forEach(({ gain, panner }, number) => {
      const mix = this.mix(number);
      gain.gain.setTargetAtTime(mix.gain, this.context.currentTime, 0.01);
      panner.pan.setTargetAtTime(mix.pan, this.context.currentTime, 0.01);
    });
  }

  /* The mix has changed: out and in again, in the same way whatever has changed. */
  exchanged() {
    if (!this.context) return;
    const silent = this.fadeOut();
    this.desk.forEach(({ gain }, number) => gain.gain.setValueAtTime(this.mix(number).gain, silent));
    this.out.gain.linearRampToValueAtTime(1, silent + FADE);
  }

  /* What is heard, from a time to another, as an AudioBuffer. */
  render(from, to) {
    const context = new OfflineAudioContext(2, Math.round((to - from) * this.rate), this.rate);
    const strips = this.strips(context, context.destination);
    this.buffers.forEach((buffer, number) => {
      const source = new AudioBufferSourceNode(context, { buffer });
      source.connect(strips[number].gain);
      source.start(0, from + this.delay);
    });
    return context.startRendering();
  }
}

/* --- playing --- */

const loop = { from: null, to: null, on: false };
let sounding = null; // what is on the deck
let ready = false;
let playing = false;
let place = 0; // where it stands, or will begin

/* Something else on the deck, from its beginning; it plays when it has been loaded. */
function put(next) {
  pause();
  sounding?.close();
  sounding = next;
  [ready, place] = [false, 0];
  Object.assign(loop, { from: null, to: null, on: false });
  $("play").disabled = true;
  $("seek").max = next.seconds;
  $("end").textContent = clock(next.seconds);
  show();
}

function loaded() {
  ready = true;
  $("play").disabled = false;
}

function now() {
  return playing ? Math.min(sounding.position, sounding.seconds) : place;
}

function looping(at) {
  return loop.on && at < loop.to;
}

async function play() {
  if (!ready) return;
  if (place >= sounding.seconds - 0.01) place = loop.on ? loop.from : 0;
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
  place = Math.min(Math.max(0, to), sounding.seconds);
  if (playing) sounding.play(place);
  show();
}

/* The loop has changed: all sounds begin anew, so that all of them know. */
function looped() {
  const at = now();
  loop.on = loop.on && loop.from !== null && loop.to !== null && loop.to - loop.from >= 0.05;
  seek(loop.on && at >= loop.to ? loop.from : at);
}

function loopFrom(at) {
  loop.from = at;
  if (loop.to === null || loop.to <= at) loop.to = sounding.seconds;
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
  if (loop.from === null) [loop.from, loop.to] = [0, sounding.seconds];
  loop.on = !loop.on;
  looped();
}

/* --- what is seen --- */

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function say(text) {
  $("status").textContent = text;
}

/* A file for the listener's disk. */
function hand(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[\\/:*?"<>|]/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/* Bars of the maxima, as many as there is room for. loudest: the maximum that fills the height. */
function drawWave(wave, { peaks, peak, bin }, loudest) {
  const steps = Uint8Array.from(atob(peaks), (letter) => letter.charCodeAt(0));
  const bars = Math.max(1, Math.floor(wave.clientWidth / 4));
  const bins = sounding.seconds / bin; // of the whole width; the last may be a part of one
  const lines = [];
  for (let bar = 0; bar < bars; bar++) {
    const [first, last] = [Math.floor((bar * bins) / bars), Math.ceil(((bar + 1) * bins) / bars)];
    const highest = Math.max(0, ...steps.subarray(first, Math.max(last, first + 1)));
    const half = Math.max(0.01, 0.94 * ((highest * peak) / 255 / loudest) ** 0.75); // soft parts are seen, too
    lines.push(`M${bar + 0.5} ${(1 - half).toFixed(3)}V${(1 + half).toFixed(3)}`);
  }
  for (const svg of wave.querySelectorAll("svg")) {
    svg.setAttribute("viewBox", `0 0 ${bars} 2`);
    svg.querySelector("path").setAttribute("d", lines.join(""));
  }
}

function showLoop(from, to) {
  const share = (seconds) => `${(100 * seconds) / sounding.seconds}%`;
  $("lanes").style.setProperty("--from", share(from));
  $("lanes").style.setProperty("--to", share(to));
}

function show() {
  const at = now();
  $("lanes").style.setProperty("--at", `${(100 * at) / sounding.seconds}%`);
  $("now").textContent = clock(at);
  $("seek").value = at;
  $("seek").setAttribute("aria-valuetext", `${clock(at)} of ${clock(sounding.seconds)}`);
  const part = loop.on && (loop.from > 0 || loop.to < sounding.seconds); // a loop of everything needs no marks
  showLoop(part ? loop.from : 0, part ? loop.to : 0);
  $("loop").setAttribute("aria-pressed", loop.on);
  $("loop").textContent = part ? `${clock(loop.from)} – ${clock(loop.to)}` : "Loop";
  $("loop").setAttribute("aria-label", part ? `Loop from ${clock(loop.from)} to ${clock(loop.to)}` : "Loop");
}

function draw() {
  if (!playing) return;
  show();
  requestAnimationFrame(draw);
}

setInterval(() => { // a hidden page draws nothing, and still has to see the end
  if (!playing) return;
  sounding.keep?.();
  if (sounding.position >= sounding.seconds) pause();
}, 100);

/* --- hands --- */

/* A click on a waveform goes to a place; a drag makes a loop. */
function touch(wave) {
  let start = null;
  const timeAt = (event) => {
    const box = wave.getBoundingClientRect();
    return Math.min(Math.max(0, (event.clientX - box.left) / box.width), 1) * sounding.seconds;
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

$("play").onclick = () => (playing ? pause() : play());
$("seek").oninput = () => seek(Number($("seek").value));
$("from").onclick = () => loopFrom(now());
$("to").onclick = () => loopTo(now());
$("loop").onclick = switchLoop;

document.addEventListener("click", (event) => {
  // After a click with the mouse the space bar plays, and does not press that button again.
  if (event.detail) event.target.closest("button")?.blur();
});

document.addEventListener("keydown", (event) => {
  const { key, code, target } = event;
  if (event.ctrlKey !== event.altKey || event.metaKey) return; // both together are AltGr, which some need for [
  if (!sounding || target.matches("input:not([type=range]), textarea")) return;
  const slider = target.matches("input");
  if (code === "Space") {
    if (target.matches("button, summary, a")) return;
    if (!event.repeat) $("play").click();
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
  } else if (!pageKey(event)) {
    return;
  }
  event.preventDefault();
});
