/* The player of one track.

   Two ways to sound, with the same methods (load, play, pause, close, position, mixed):
     Samples   all stems in memory on one clock, together to the sample (Web Audio); in deck.js
     Elements  for long tracks: a media element for each stem, each on a clock of its own
   Below them: the mixing desk, and what is seen of it. Times are in seconds of the track. */

const track = data;
const desk = track.stems.map(({ muted }) => ({ level: 0, pan: 0, muted, solo: false })); // level in dB
const LOWEST = -40; // dB, which means silence

/* --- the mix --- */

function gainOf(number) {
  const { level, muted, solo } = desk[number];
  const heard = !muted && (solo || !desk.some((each) => each.solo));
  return heard && level > LOWEST ? 10 ** (level / 20) : 0;
}

/* --- in memory --- */

class Stems extends Samples {
  constructor() {
    super({ ...track, count: track.stems.length, mix: (number) => ({ gain: gainOf(number), pan: desk[number].pan / 100 }) });
  }

  load(loaded) {
    return super.load((number) => soundOf(number, track.mode === "files" && track.stems[number].file), track.click, loaded);
  }
}

/* --- long tracks --- */

class Elements {
  seconds = track.seconds;
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

  close() {}

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

/* --- the mix as a file --- */

async function download() {
  say("The mix is being made …");
  $("download").disabled = true;
  try {
    const [from, to] = loop.on ? [loop.from, loop.to] : [0, track.seconds];
    const sound = await sounding.render(from, to);
    const { blob, lowered } = wav(sound);
    hand(blob, `${track.title} (mix).wav`);
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

const loudest = Math.max(...track.stems.map((stem) => stem.peak)) || 1;

new ResizeObserver(() => lanes.forEach((lane, number) => {
  drawWave(lane.querySelector(".wave"), track.stems[number], loudest);
})).observe($("lanes"));

/* --- hands --- */

$("download").onclick = download;

function pageKey({ code, altKey, shiftKey }) {
  const number = /^Digit[1-9]$/.test(code) && !altKey ? Number(code[5]) - 1 : lanes.length;
  if (number >= lanes.length) return false;
  press(number, shiftKey ? "solo" : "muted");
  return true;
}

/* --- the beginning --- */

$("title").textContent = track.title;
$("about").textContent = `${track.model} · ${clock(track.seconds)}`;
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
put(track.mode === "long" ? new Elements() : new Stems());
mixed();

let here = 0;
say(`Loading ${track.stems.length} stems …`);
sounding.load((number) => {
  lanes[number].classList.remove("loading");
  here += 1;
  say(`Loading ${track.stems.length} stems: ${here} are here …`);
}).then(() => {
  loaded();
  $("download").disabled = false;
  say(track.folded ? "More than two channels: you hear them brought to two." : "");
}, (error) => say(`The stems can't be played: ${error.message || error}.`));
