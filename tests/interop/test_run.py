"""What a run left in the current folder, as TensorBoard, safetensors and SentencePiece read it."""

import json
import math
import os
import subprocess
import unittest
from pathlib import Path

import numpy
import sentencepiece
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MHMOE = os.environ["MHMOE"]
RUN = Path("run")
CHECKPOINT = max(RUN.glob("checkpoints/*"), key=lambda path: int("".join(filter(str.isdigit, path.name))))


def mhmoe(*arguments, text=None):
    return subprocess.run([MHMOE, *arguments], input=text, text=True, capture_output=True, check=True).stdout


def load(path):
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


class Metrics(unittest.TestCase):
    def test_tensorboard_shows_what_metrics_say(self):
        lines = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
        wanted = {}  # (end of tag, step) -> value
        for line in lines:
            for key, value in line.items():
                if isinstance(value, (int, float)) and key not in ("step", "tokens"):
                    wanted["/" + key, line["step"]] = value
            for layer in line.get("experts", []):
                for key in ("entropy", "largest", "dropped"):
                    wanted[f"experts_{key}/layer_{layer['layer']}", line["step"]] = layer[key]
        events = EventAccumulator(str(RUN), size_guidance={"scalars": 0})
        events.Reload()
        shown = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                key = tag if tag.startswith("experts_") else "/" + tag.split("/")[-1]
                shown[key, event.step] = event.value
        self.assertGreater(len(wanted), 50)
        self.assertEqual(sorted(shown), sorted(wanted))
        for key, value in wanted.items():
            self.assertTrue(math.isclose(shown[key], value, rel_tol=1e-6), key)  # events are f32


class Checkpoint(unittest.TestCase):
    def test_safetensors_reads_the_weights(self):
        model = json.loads((CHECKPOINT / "config.json").read_text())["model"]
        weights = load(CHECKPOINT / "model.safetensors")
        self.assertEqual(weights["embed.weight"].shape, (model["vocab"], model["dim"]))
        self.assertEqual(weights["layers.1.moe.experts.up.weight"].shape, (4, 32, 16))
        self.assertTrue(all(numpy.isfinite(value).all() for value in weights.values()))
        info = json.loads(mhmoe("info", str(CHECKPOINT), "--json"))
        self.assertEqual(sum(value.size for value in weights.values()), info["parameters"]["total"])

    def test_safetensors_reads_the_optimizer(self):
        weights = load(CHECKPOINT / "model.safetensors")
        moments = load(CHECKPOINT / "optimizer.safetensors")
        self.assertEqual(sum(value.size for value in moments.values()), 2 * sum(value.size for value in weights.values()))

    def test_sentencepiece_encodes_alike(self):
        model = CHECKPOINT / "tokenizer.model"
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        for text in ("The old fox saw the house.\n", "  two  spaces\tand a tab\n\n", "caf\u00e9 \u4f60\u597d \U0001f98a", "x"):
            ours = [int(word) for word in mhmoe("tokenizer", "encode", "--tokenizer", str(model), text=text).split()]
            self.assertEqual(ours, processor.encode(text))
            self.assertEqual(processor.decode(ours), text)


if __name__ == "__main__":
    unittest.main()
