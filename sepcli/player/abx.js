/* Blind comparisons: which of A and B is X?

   A session is drawn here, for each listener anew: the order of the trials, and which sound is A, B and X. It knows
   sounds by names that mean nothing. It is kept by the browser after each answer, so that a page that is loaded again
   goes on, and saved as a file at the end (evaluation/listening/abx.py reads it). The waveform is that of the mixture in
   all trials, and every change of the sound fades alike, so that neither gives X away. */

const { test, stem, items, pairs } = data;
const KEPT = `sepcli-abx-${test}`; // the name under which the browser keeps the session
const SCREENS = ["welcome", "trial", "goodbye"];
let session = null; // as it is saved, but for the check
let saved = true; // no answer is new since the last file
let trial = null; // what is heard now, what was heard already, and what was answered

/* --- lots --- */

function drawn(count) {
  return crypto.getRandomValues(new Uint32Array(1))[0] % count;
}

function shuffled(list) {
  const left = [...list];
  return list.map(() => left.splice(drawn(left.length), 1)[0]);
}

/* Rounds: one excerpt of each pair, then another of each. So whoever stops early has heard all pairs alike. */
function lots() {
  const trials = pairs.map(shuffled);
  const rounds = Math.max(...trials.map(({ length }) => length));
  const order = Array.from({ length: rounds }, (_, round) => shuffled(trials.map((each) => each[round]).filter(Boolean)));
  return order.flat().map(([item, ...two]) => {
    const [a, b] = shuffled(two);
    return { item, a, b, x: [a, b][drawn(2)] };
  });
}

/* --- the session --- */

function newSession() {
  const id = [...crypto.getRandomValues(new Uint8Array(4))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return { session: id, listener: "", began: new Date().toISOString(), trials: lots(), answers: [] };
}

/* What is kept, in letters that nobody reads in passing; whether the browser can. */
function keep() {
  try {
    localStorage.setItem(KEPT, btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(session)))));
    return true;
  } catch {
    return false;
  }
}

function recall() {
  try {
    const bytes = Uint8Array.from(atob(localStorage.getItem(KEPT) ?? ""), (letter) => letter.charCodeAt(0));
    const found = JSON.parse(new TextDecoder().decode(bytes));
    const known = ({ item, a, b, x }) => items[item].sounds[a] && items[item].sounds[b] && (x === a || x === b);
    return found.trials.every(known) && found.answers.length <= found.trials.length ? found : null;
  } catch {
    return null;
  }
}

/* The CRC-32 of a text in UTF-8, 8 hex digits. */
function check(text) {
  let crc = -1;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ((crc ^ -1) >>> 0).toString(16).padStart(8, "0");
}

function plain(text) {
  return new TextDecoder().decode(new TextEncoder().encode(text.trim())); // no halves of letters
}

function save() {
  session.listener = plain($("listener").value);
  keep();
  const { trials, answers, ...about } = session;
  const given = answers.map((each, number) => ({ ...trials[number], ...each }));
  const file = { kind: "sepcli-abx", version: 1, test, ...about, ended: new Date().toISOString(), trials: given };
  const text = JSON.stringify({ ...file, check: check(JSON.stringify(file)) }, null, 1);
  hand(new Blob([text], { type: "application/json" }), `${test}-${session.session}.json`);
  const right = given.filter(({ a, b, x, answer }) => (answer === "A" ? a : b) === x).length;
  // Halfway that would change how one goes on.
  const score = given.length === trials.length ? ` You were right in ${right} of ${given.length}.` : "";
  $("saved").textContent = `Saved. Send the file ${test}-${session.session}.json to whoever gave you the test.${score}`;
  saved = true;
  $("anew").hidden = false;
}

/* --- a trial --- */

class Trial extends Samples {
  current = "A"; // what is heard
  heard = new Set();
  answer = null;
  began = performance.now();

  constructor(lot) {
    const { seconds, rate } = items[lot.item];
    const mix = (number) => ({ gain: Number(number === this.number), pan: 0 });
    super({ seconds, rate: Math.min(rate, 96000), count: 2, mix }); // browsers needn't know higher rates
    this.files = [lot.a, lot.b].map((name) => items[lot.item].sounds[name]);
    this.hidden = lot.x === lot.a ? 0 : 1;
  }

  get number() {
    return { A: 0, B: 1, X: this.hidden }[this.current];
  }

  play(at) {
    this.heard.add(this.current);
    return super.play(at);
  }
}

async function present() {
  const lot = session.trials[session.answers.length];
  if (!lot) {
    finish();
    return;
  }
  screen("trial");
  const mine = new Trial(lot);
  put(mine);
  trial = mine;
  Object.assign(loop, { from: 0, to: mine.seconds, on: true });
  show();
  $("note").value = "";
  mixed();
  drawWaves();
  say("Loading …");
  try {
    await mine.load((number) => soundOf(...mine.files[number]));
  } catch (error) {
    say(`The excerpt can’t be played: ${error.message || error}.`);
    return;
  }
  if (sounding !== mine) return;
  loaded();
  mixed();
}

function listen(letter) {
  if (!ready) return;
  trial.current = letter;
  if (playing) {
    trial.heard.add(letter);
    trial.exchanged();
  } else {
    trial.mixed();
    play();
  }
  mixed();
}

function answer(letter) {
  if (trial.heard.size < 3) return;
  trial.answer = letter;
  mixed();
}

function next() {
  if (!trial?.answer) return;
  const took = Math.round(performance.now() - trial.began);
  session.answers.push({ answer: trial.answer, note: plain($("note").value), took });
  trial = null;
  saved = false;
  keep();
  present();
}

/* --- what is seen --- */

function screen(name) {
  for (const each of SCREENS) $(each).hidden = each !== name;
  $("course").hidden = name !== "trial";
  const [done, all] = [session?.answers.length ?? 0, session?.trials.length ?? 1];
  $("count").textContent = `Trial ${Math.min(done + 1, all)} of ${all}`;
  [$("progress").value, $("progress").max] = [done, all];
  window.scrollTo(0, 0);
}

/* The trial's state has changed. */
function mixed() {
  const left = ["A", "B", "X"].filter((letter) => !trial.heard.has(letter));
  for (const button of document.querySelectorAll("[data-letter]")) {
    const { letter } = button.dataset;
    button.setAttribute("aria-pressed", letter === trial.current);
    button.classList.toggle("known", trial.heard.has(letter));
    button.disabled = !ready;
  }
  for (const button of document.querySelectorAll("[data-answer]")) {
    button.setAttribute("aria-pressed", button.dataset.answer === trial.answer);
    button.disabled = left.length > 0;
  }
  $("next").disabled = !trial.answer;
  $("next").textContent = session.answers.length + 1 < session.trials.length ? "Next" : "Finish";
  if (left.length === 3) say("Listen to A, B and X.");
  else say(left.length ? `Still to hear: ${left.join(" and ")}.` : "Which of the two is X?");
}

function drawWaves() {
  if (!trial) return;
  const { item } = session.trials[session.answers.length];
  drawWave(document.querySelector(".wave"), items[item], items[item].peak || 1);
}

function finish() {
  pause();
  ready = false;
  $("play").disabled = true;
  trial = null;
  screen("goodbye");
  const [done, all] = [session.answers.length, session.trials.length];
  $("thanks").textContent = done === all
    ? `Thank you. Those were all ${all} trials.`
    : `You have answered ${done} of ${all} trials.`;
  $("listener").value = session.listener;
  $("save").disabled = done === 0;
  $("back").hidden = done === all;
  $("anew").hidden = true;
  $("saved").textContent = "";
}

/* --- hands --- */

function pageKey({ key, altKey, repeat, shiftKey, target }) {
  if (!trial || altKey || repeat) return false;
  const letter = key.toUpperCase();
  if (shiftKey && (letter === "A" || letter === "B")) answer(letter);
  else if (["A", "B", "X"].includes(letter)) listen(letter);
  else if (key === "Enter" && !target.matches("button, summary")) next();
  else return false;
  return true;
}

for (const button of document.querySelectorAll("[data-letter]")) button.onclick = () => listen(button.dataset.letter);
for (const button of document.querySelectorAll("[data-answer]")) button.onclick = () => answer(button.dataset.answer);
$("note").onkeydown = ({ key }) => {
  if (key === "Enter") next();
};
$("next").onclick = next;
$("stop").onclick = finish;
$("back").onclick = present;
$("save").onclick = save;
$("begin").onclick = $("anew").onclick = () => {
  session = newSession();
  saved = true;
  keep();
  present();
};
window.onbeforeunload = (event) => {
  if (session && !saved && !keep()) event.preventDefault();
};

/* --- the beginning --- */

touch(document.querySelector(".wave"));
new ResizeObserver(drawWaves).observe($("lanes"));
const all = pairs.flat().length;
$("what").textContent = `A and B hold the ${stem} of the same excerpt, taken out of the mixture in different ways.`;
$("many").textContent = `There are ${all} trials. You can stop at any time and save what you have answered.`;
session = recall();
if (session) {
  saved = session.answers.length === 0;
  present();
} else {
  try {
    localStorage.setItem(`${KEPT}-try`, "");
    localStorage.removeItem(`${KEPT}-try`);
  } catch {
    $("forgets").hidden = false;
  }
  screen("welcome");
}
