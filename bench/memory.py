#!/usr/bin/python3
"""Peak anonymous memory of training runs beside the estimate of `mhmoe info`; bench/README.md says more.

Runs of one update each on made-up text: what is anonymous is weights, gradients, moments, activations and whatever
libraries take, and no page of a file that the system could drop.
"""
import argparse
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

MODELS = {
    "reference": "model: {dim: 512, layers: 6, attention_heads: 8, ffn_dim: 1365, context: 512}\n"
    "train: {steps: 1, warmup: 0, batch: 8, eval_sequences: 8}\n",
    "demo": "model: {dim: 192, layers: 4, attention_heads: 6, context: 256}\n"
    "train: {steps: 1, warmup: 0, batch: 16, eval_sequences: 16}\n",
}
VOCAB = {"reference": 16384, "demo": 4096}
PRESETS = ["dense", "smoe-top1", "mhmoe-h2"]


def make_data(program, folder, vocab):
    """A token folder whose tokenizer has `vocab` pieces."""
    choose = random.Random(1)
    words = ["".join(choose.choices("etaoinshrdlcumwfgypb", k=choose.randint(3, 9))) for _ in range(40000)]
    folder.mkdir()
    with open(folder / "text.txt", "w") as text:
        for _ in range(40000):
            print(*choose.choices(words, k=12), file=text)
    subprocess.run([program, "tokenizer", "train", "--input", folder / "text.txt", "--vocab", str(vocab),
                    "--output", folder / "tokenizer.model"], check=True, capture_output=True)
    subprocess.run([program, "data", "build", "--tokenizer", folder / "tokenizer.model", "--input",
                    folder / "text.txt", "--output", folder / "data", "--valid-fraction", "0.1"],
                   check=True, capture_output=True)


def anonymous(pid):
    """Bytes, 0 where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def peak(command):
    """Memory is touched once, when it is taken, and then kept: looking a hundred times a second misses none."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    most = 0
    while process.poll() is None:
        most = max(most, anonymous(process.pid))
        time.sleep(0.01)
    if process.returncode != 0:
        raise SystemExit(process.stderr.read())
    return most


def main():
    parser = argparse.ArgumentParser(description="Peak anonymous memory of training runs beside the estimate.")
    parser.add_argument("--program", default="build/mhmoe", help="default: build/mhmoe")
    args = parser.parse_args()
    program = Path(args.program).resolve()
    print(f"{'model':10} {'preset':10} {'type':5} {'estimate':>12} {'peak':>12} {'peak/estimate':>14}")
    with tempfile.TemporaryDirectory() as work:
        for model, text in MODELS.items():
            folder = Path(work) / model
            make_data(program, folder, VOCAB[model])
            recipe = folder / "recipe.yaml"
            recipe.write_text(text + f"data: {{train: {folder}/data}}\n")
            for preset in PRESETS:
                for precision in "f32", "bf16":
                    sets = ["--set", f"model.preset={preset}", "--set", f"train.precision={precision}"]
                    info = subprocess.check_output([program, "info", recipe, *sets, "--json"])
                    estimate = json.loads(info)["memory_bytes"]
                    run = folder / f"{preset}-{precision}"
                    most = peak([program, "train", recipe, *sets, "--set", f"train.run={run}"])
                    print(f"{model:10} {preset:10} {precision:5} {estimate / 2**20:8.1f} MiB {most / 2**20:8.1f} MiB "
                          f"{most / estimate:14.3f}", flush=True)


if __name__ == "__main__":
    main()
