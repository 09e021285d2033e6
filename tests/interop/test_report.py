"""The pages of `mhmoe report` about the runs in the current folder, opened in a headless Chromium."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

MHMOE = os.environ["MHMOE"]
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")

# Before any other script: faults are collected. At the end: every choice of every control is made in turn, and each
# time every canvas is looked at. A chart without data still has its axes in grey, so that what counts is colour; a heat
# map has a pixel a value.
FAULTS = """<script>
const faults = [];
addEventListener('error', event => faults.push(event.message));
addEventListener('unhandledrejection', event => faults.push(String(event.reason)));
console.error = (...words) => faults.push(words.join(' '));
</script>"""
LOOK = """<script>
function isEmpty(canvas) {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height), shades = new Set();
  let coloured = 0;
  for (let i = 0; i < data.length; i += 4) {
    const r = data[i], g = data[i + 1], b = data[i + 2], opacity = data[i + 3];
    shades.add(opacity && 65536 * r + 256 * g + b);
    coloured += opacity > 100 && Math.max(r, g, b) - Math.min(r, g, b) > 60;
  }
  return canvas.classList.contains('heat') ? shades.size < 3 : coloured < 20;
}
const charts = new Set(), empty = new Set();
function look(when) {
  for (const figure of document.querySelectorAll('figure')) {
    const canvas = figure.querySelector('canvas'), name = figure.querySelector('h3').textContent;
    if (!canvas) continue;
    charts.add(name);
    if (!canvas.offsetParent || isEmpty(canvas)) empty.add(`${name} (${when})`);
  }
}
const pause = () => new Promise(done => setTimeout(done, 50));
addEventListener('load', async () => {
  await pause();
  look('at first');
  for (const choice of document.querySelectorAll('input[type=radio]')) {
    choice.click();
    await pause();
    look(choice.value);
  }
  for (const select of document.querySelectorAll('select'))
    for (const option of select.options) {
      select.value = option.value;
      select.dispatchEvent(new Event('change'));
      await pause();
      look(option.textContent);
    }
  document.getElementById('theme').click();
  await pause();
  look('in the other theme');
  for (const target of document.querySelectorAll('.heat, .token, .cell'))
    target.dispatchEvent(new PointerEvent('pointermove', {clientX: target.getBoundingClientRect().left + 3, clientY: target.getBoundingClientRect().top + 3}));
  const seen = {faults, charts: [...charts], empty: [...empty], tip: document.getElementById('tip').textContent,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth};
  const result = document.createElement('output');
  result.id = 'seen';
  result.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
  document.body.append(result);
});
</script>"""


def mhmoe(*arguments):
    return subprocess.run([MHMOE, *arguments], text=True, capture_output=True, check=True)


def open_page(page, width=1200):
    """The page's text after its scripts ran, and what LOOK saw."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "page.html")
        copy.write_text(page.replace("<head>", "<head>" + FAULTS, 1).replace("</body>", LOOK + "</body>", 1))
        command = [BROWSER, "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
                   "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},900", "--virtual-time-budget=30000",
                   "--dump-dom", copy.as_uri()]
        dom = subprocess.run(command, text=True, capture_output=True, check=True, timeout=120).stdout
    found = re.search(r'<output id="seen">([^<]*)</output>', dom)
    return dom, json.loads(base64.b64decode(found.group(1))) if found else {"faults": ["the page's scripts did not end"]}


CURVES = ["Validation loss, nats a token", "Training loss, nats a token", "Validation perplexity", "Training perplexity",
          "Norm of the gradient", "Balance loss, sum over layers", "Tokens a second", "Learning rate"]
EXPERTS = ["Load of layer 1", "Entropy of the load (1: even)", "Largest share"]
ROUTING = ["Share of experts in use", "Experts that work together", "Choices still to change"]
HOSTILE = "</script><script>throw 1</script>\u2028{{data}}"


def analysis():
    """As `mhmoe analyse` writes it, of two layers with two heads and four experts."""
    heads = [{"experts": [2, 1], "gates": [0.5, 0.25]}, {"experts": [0, 3], "gates": [0.4, 0.3]}]
    layer = {
        "heads": 2, "top_k": 2, "load": [[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], "entropy": 0.9,
        "activation": {"threshold": 0.125, "ratio": 1, "corrected": 0.5,
                       "curve": [{"threshold": 10.0 ** -i, "ratio": i / 4, "corrected": i / 8} for i in range(5)]},
        "distinct": {"mean": 2.5, "histogram": [0.1, 0.4, 0.4, 0.1]}, "repeats": {"tokens": 5, "changed": 0.2},
        "coactivation_lift": [[2, 0.5, 1.1, 0.4], [0.5, 2, 0.8, 0.3], [1.1, 0.8, 1.5, 0.5], [0.4, 0.3, 0.5, 3]],
        "experts": [{"tokens": [{"text": " the", "lift": 3.5, "count": 7}],
                     "labels": [{"label": "prose", "share": 0.5, "lift": 1.2}]}] * 4}
    at = [{"layer": i, "heads": heads} for i in (1, 3)]
    return {
        "format": "mhmoe-analysis", "format_version": 1, "checkpoint": "run", "tokens": 100,
        "layers": [{"layer": i, **layer} for i in (1, 3)],
        "trace": {"tokens": [{"text": text, "layers": at} for text in ("The", " fox", HOSTILE, "\n")]},
        "words": [{"word": "fox", "found": 2, "layers": [{"layer": i, "changed": 0.5, "heads": [0.5, 0.5]} for i in (1, 3)],
                   "occurrences": [{"before": "A ", "text": "fox", "after": HOSTILE, "label": "prose",
                                    "layers": [{"layer": i, "heads": [[2, 1], [0, 3]]} for i in (1, 3)]}]}],
        "checkpoints": [{"checkpoint": f"step-{i}", "step": i, "changed": [0.5, 0.1 * i]} for i in range(3)]}


@unittest.skipUnless(BROWSER, "there is no chromium here; tools/deps dev installs one")
class Page(unittest.TestCase):
    def assert_sound(self, seen, charts):
        self.assertEqual(seen["faults"], [])
        self.assertEqual(seen["empty"], [])
        self.assertEqual([name for name in charts if name not in seen["charts"]], [])
        self.assertLessEqual(seen["wide"], 0)

    def test_the_page_that_training_leaves(self):
        page = Path("run/report.html").read_text()
        self.assertIsNone(re.search(r'(src|href)="(?!#)', page))
        dom, seen = open_page(page)
        self.assert_sound(seen, CURVES + ["z-loss, sum over layers"] + EXPERTS)
        self.assertIn("times an even share", seen["tip"])
        recipe = Path("run/recipe.yaml").read_text().splitlines()
        self.assertIn(recipe[-1], dom)

    def test_models_seeds_and_a_phone(self):
        mhmoe("report", "runs", "--output", "all.html")
        for width in (1200, 390):
            dom, seen = open_page(Path("all.html").read_text(), width)
            self.assert_sound(seen, CURVES + EXPERTS)
        self.assertTrue("moe beats dense" in dom, "what the comparison came to is not on the page")
        self.assertIn("2 models · 3 runs", dom)
        self.assertRegex(dom, r"\d ± \d")
        self.assertNotIn("</strong> is measured on other text", dom)

    def test_what_cannot_be_compared_is_said(self):
        shutil.copytree("run", "apart", dirs_exist_ok=True)
        recipe = Path("run/recipe.yaml").read_text().replace('train: "tokens"', 'train: "elsewhere"')
        Path("apart/recipe.yaml").write_text(re.sub("capacity_factor: .*", "capacity_factor: 1.25", recipe))
        mhmoe("report", "run", "apart", "--output", "apart.html")
        dom, seen = open_page(Path("apart.html").read_text())
        self.assertEqual(seen["faults"], [])
        self.assertIn("<strong>apart</strong> is measured on other text or in other tokens than run", dom)
        self.assertIn("<strong>apart</strong> has a moe.capacity_factor", dom)

    def test_the_routing_of_text(self):
        Path("routing.json").write_text(json.dumps(analysis()))
        mhmoe("report", "run", "--analysis", "routing.json", "--output", "routing.html")
        dom, seen = open_page(Path("routing.html").read_text(), 390)
        self.assert_sound(seen, ROUTING)
        self.assertIn("head 1: expert 0 (gate 0.40), expert 3 (gate 0.30)", dom)

    def test_hostile_and_damaged_runs(self):
        shutil.copytree("run", "bad", dirs_exist_ok=True)
        Path("bad/recipe.yaml").write_text(re.sub(r'train: "tokens"', lambda _: f'train: "{HOSTILE}"'.replace("\u2028", r"\u2028"),
                                                  Path("run/recipe.yaml").read_text()))
        lines = Path("run/metrics.jsonl").read_text().splitlines()
        Path("bad/metrics.jsonl").write_text("\n".join(lines[:2] + ["{" + HOSTILE] + lines[2:]) + '\n{"step":')
        shutil.copytree("bad", "worse", dirs_exist_ok=True)
        Path("worse/recipe.yaml").unlink()
        Path("worse/metrics.jsonl").write_bytes(b"\xff\n")
        told = mhmoe("report", "bad", "worse", "--output", "bad.html").stderr
        dom, seen = open_page(Path("bad.html").read_text())
        self.assertEqual(seen["faults"], [])
        for sentence in ("bad/metrics.jsonl:3", "worse/metrics.jsonl:1", "worse/recipe.yaml"):
            self.assertIn(sentence, told)
            self.assertIn(sentence, dom)
        self.assertIn("&lt;/script&gt;&lt;script&gt;throw 1", dom)

    def test_a_fault_and_an_empty_chart_are_seen(self):
        page = Path("run/report.html").read_text()
        _, seen = open_page(page.replace("'use strict';", "'use strict'; nothing();"))
        self.assertTrue(any("nothing" in fault for fault in seen["faults"]))
        _, seen = open_page(page.replace("data: series.points, ", "data: [], "))
        self.assertIn("Learning rate (at first)", seen["empty"])


if __name__ == "__main__":
    unittest.main()
