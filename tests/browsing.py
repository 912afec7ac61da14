"""Pages in a real browser (Debian's chromium), from file://, with analysers of what goes to the loudspeakers.

A test file takes over the fixtures: `browser, visit = browsing.browser, browsing.visit`.
"""

import shutil

import numpy as np
import pytest

from tests.needs import need, package

need("chromium")
sync_playwright = package("playwright", "sync_api").sync_api.sync_playwright

RATE = 44100
# Analysers of what goes to the loudspeakers, left and right.
LISTEN = """
const connect = AudioNode.prototype.connect;
window.ears = [];
AudioNode.prototype.connect = function (to, ...more) {
  if (to instanceof AudioDestinationNode && this.context instanceof AudioContext) {
    const sides = new ChannelSplitterNode(this.context, { numberOfOutputs: 2 });
    connect.call(this, sides);
    window.ears = [0, 1].map((side) => {
      const ear = new AnalyserNode(this.context, { fftSize: 4096, smoothingTimeConstant: 0 });
      connect.call(sides, ear, side);
      return ear;
    });
  }
  return connect.call(this, to, ...more);
};
window.heard = (hz, side) => {
  const ear = window.ears[side];
  const levels = new Float32Array(ear.frequencyBinCount);
  ear.getFloatFrequencyData(levels);
  const bin = Math.round((hz * ear.fftSize) / ear.context.sampleRate);
  return Math.max(...levels.subarray(bin - 1, bin + 2));
};
"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"))
        yield chromium
        chromium.close()


def sine(hz, seconds, channels=2):
    wave = 0.15 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)
    return np.repeat(wave[:, None], channels, axis=1)


@pytest.fixture
def visit(browser):
    """Opens a page and waits until it can play; fails at the end if the page has complained."""
    complaints, contexts = [], []

    def visited(address, wait="!document.getElementById('play').disabled", **options):
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.add_init_script(LISTEN)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.on("requestfailed", lambda request: complaints.append(request.url))
        tab.on(
            "request", lambda request: complaints.append(request.url) if request.url.startswith("http") else 0
        )
        tab.goto(address if isinstance(address, str) else address.as_uri())
        tab.wait_for_function(wait)
        return tab

    yield visited
    for context in contexts:
        context.close()
    assert not complaints


def wait_for_tones(tab, tones):
    """Waits until each (Hz, whether it is heard, side) is so."""
    so = "tones.every(([hz, on, side]) => (window.heard(hz, side) > -45) === on)"
    tab.wait_for_function(f"(tones) => window.ears.length && {so}", arg=tones)
