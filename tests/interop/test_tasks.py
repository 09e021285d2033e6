"""Zero-shot tasks: EleutherAI's lm-evaluation-harness asks its own tasks, gets the log-likelihoods that `mhmoe eval`
logged for the same questions, and must come to the same figures. A prompt that differs by a byte has no log-likelihood
in the log."""

import json
import logging
import os
import random
import subprocess
import unittest
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}

import datasets
import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

logging.disable(logging.WARNING)
MHMOE = os.environ["MHMOE"]
HARNESS = Path(lm_eval.__file__).parent / "tasks"
WORDS = "the old fox river house saw found caf\u00e9 \u00e9t\u00e9 \u4f60\u597d \u72d0 \U0001f98a".split()
QUESTIONS = 60

pick = random.Random(5)


def text(least=1, most=9):
    return " ".join(pick.choice(WORDS) for _ in range(pick.randint(least, most)))


def sentence():
    return text(2).capitalize() + "."


def many(make):
    return [make() for _ in range(QUESTIONS)]


def different(n, make=text):
    """Scores of equal choices differ by rounding, and either could be the likelier."""
    return list(dict.fromkeys(make() for _ in range(9 * n)))[:n]


# Questions as the harness' datasets have them.


def arc():
    n = pick.randint(3, 5)
    return {"question": sentence(), "answerKey": "ABCDE"[pick.randrange(n)],
            "choices": {"text": different(n), "label": list("ABCDE"[:n])}}


def openbookqa():
    doc = arc()
    return {"question_stem": doc["question"], "choices": doc["choices"], "answerKey": doc["answerKey"]}


def piqa():
    first, second = different(2, sentence)
    return {"goal": text(), "sol1": first, "sol2": second, "label": pick.randrange(2)}


def boolq():
    return {"passage": sentence() + " " + sentence(), "question": text(), "label": pick.randrange(2)}


def winogrande():
    first, second = different(2)
    return {"sentence": f"{text()} _ {text()}.", "option1": first, "option2": second,
            "answer": str(pick.randint(1, 2))}


def hellaswag():
    whole = pick.random() < 0.5  # WikiHow's contexts end with a sentence, ActivityNet's within one
    return {"activity_label": text(1, 2), "ctx_a": f"{sentence()} [step] {sentence()}", "ctx_b": "" if whole else "the " + text(1, 3),
            "endings": [ending + pick.choice([".", " [substeps] x", ". [title] y"]) for ending in different(4)],
            "label": str(pick.randrange(4))}


def rte():
    quoted = pick.choice(['{}', '"{}" he said', 'he said "{}"'])
    return {"sentence1": quoted.format(sentence()), "sentence2": sentence(), "label": pick.randrange(2)}


def truthfulqa():
    def targets(true, false):
        answers = different(true + false, sentence)
        return {"choices": answers, "labels": [int(i < true) for i in range(len(answers))]}

    return {"question": text() + "?", "mc1_targets": targets(1, pick.randint(1, 6)),
            "mc2_targets": targets(pick.randint(1, 4), pick.randint(1, 4))}


# The same questions in the files that mhmoe reads.


def choose(query, choices, gold):
    return json.dumps({"query": query, "choices": choices, "gold": gold})


def lettered(question):
    return lambda doc: choose(question.format(doc.get("question") or doc["question_stem"]), doc["choices"]["text"],
                              doc["choices"]["label"].index(doc["answerKey"]))


def write_winogrande(doc):
    before, after = doc["sentence"].split("_")
    return json.dumps({"context_options": [before + doc["option1"], before + doc["option2"]],
                       "continuation": after.strip(), "gold": int(doc["answer"]) - 1})


def write_hellaswag(doc):
    def without_marks(line):
        return line.replace(" [title]", ". ").replace("  ", " ").strip()

    context = f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b']}"
    return "\n".join(map(without_marks, [context, doc["label"], *doc["endings"]]))


def write_rte(doc):
    def quote(field):
        return '"' + field.replace('"', '""') + '"' if '"' in field else field

    return "\t".join([quote(doc["sentence1"]), quote(doc["sentence2"]), str(doc["label"]), "0"])


def write_truthfulqa(docs):
    return json.dumps([{"question": doc["question"]} | {
        key: dict(zip(doc[key]["choices"], doc[key]["labels"])) for key in ("mc1_targets", "mc2_targets")} for doc in docs])


def lines(write, header=()):
    return lambda docs: "\n".join([*header, *map(write, docs)]) + "\n"


# Our task: the harness' file of it, the questions, and the file of them that we read.
TRUTHFULQA = many(truthfulqa)
TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", many(arc), "arc_easy.jsonl", lines(lettered("Question: {}"))),
    "arc_challenge": ("arc/arc_challenge.yaml", many(arc), "arc_challenge.jsonl", lines(lettered("Question: {}"))),
    "openbookqa": ("openbookqa/openbookqa.yaml", many(openbookqa), "openbook_qa.jsonl", lines(lettered("{}"))),
    "piqa": ("piqa/piqa.yaml", many(piqa), "piqa.jsonl", lines(
        lambda doc: choose(f"Question: {doc['goal']}\n", [doc["sol1"], doc["sol2"]], doc["label"]))),
    "boolq": ("super_glue/boolq/default.yaml", many(boolq), "boolq.jsonl", lines(
        lambda doc: choose(f"Passage: {doc['passage']}\nQuestion: {doc['question']}?", ["no", "yes"], doc["label"]))),
    "winogrande": ("winogrande/default.yaml", many(winogrande), "winogrande.jsonl", lines(write_winogrande)),
    "hellaswag": ("hellaswag/hellaswag.yaml", many(hellaswag), "hellaswag_val_full.txt", lines(write_hellaswag)),
    "rte": ("glue/rte/default.yaml", many(rte), "rte_dev.tsv", lines(
        write_rte, header=["sentence1\tsentence2\tlabel\tidx"])),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", TRUTHFULQA, "truthfulqa_mc.json", write_truthfulqa),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", TRUTHFULQA, "truthfulqa_mc.json", write_truthfulqa),
}


class Replay(LM):
    """Answers with what mhmoe logged."""

    def __init__(self, log):
        super().__init__()
        self.known = {}
        for line in map(json.loads, log.read_text().splitlines()):
            self.known |= {tuple(pair): score for pair, score in zip(line["arguments"], line["loglikelihoods"])}

    def loglikelihood(self, requests):
        return [(self.known[request.args], False) for request in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        raise NotImplementedError


class Tasks(unittest.TestCase):
    maxDiff = None

    def compare(self, shots):
        data = Path(f"bench{shots}")
        data.mkdir()
        for file, questions, name, write in TASKS.values():
            (data / name).write_text(write(questions))
        arguments = [MHMOE, "eval", "long", "--tasks", ",".join(TASKS), "--data", data, "--log-samples", data / "log.jsonl", "--json"]
        if shots:
            arguments += ["--shots", str(shots), "--shots-file", data]
        ours = json.loads(subprocess.run(arguments, text=True, stdout=subprocess.PIPE, check=True).stdout)["results"]

        # The harness' tasks, but for the source of their questions; examples are drawn in order from the same.
        for name, (file, *_) in TASKS.items():
            (data / f"{name}.yaml").write_text(json.dumps({
                "include": str(HARNESS / file), "task": f"{name}_again", "dataset_path": name, "test_split": "all",
                "training_split": "all", "validation_split": "all", "fewshot_split": "all",
                "fewshot_config": {"sampler": "first_n", "split": "all"}}))
        load = datasets.load_dataset
        datasets.load_dataset = lambda path, **_: datasets.DatasetDict({"all": datasets.Dataset.from_list(TASKS[path][1])})
        try:
            theirs = lm_eval.simple_evaluate(
                model=Replay(data / "log.jsonl"), tasks=[f"{name}_again" for name in TASKS], num_fewshot=shots,
                task_manager=TaskManager(include_path=str(data), include_defaults=False))["results"]
        finally:
            datasets.load_dataset = load

        for name in TASKS:
            self.assertEqual(ours[name]["questions"], QUESTIONS)
            self.assertEqual(ours[name]["left_out"], 0)
            figures = {key.removesuffix(",none"): value for key, value in theirs[f"{name}_again"].items() if key.endswith(",none")}
            self.assertIn("acc_stderr", figures)
            for key, value in figures.items():
                self.assertAlmostEqual(ours[name][key], value, places=9, msg=f"{name} {key}")

    def test_without_examples(self):
        self.compare(0)

    def test_with_examples(self):
        self.compare(2)


if __name__ == "__main__":
    unittest.main()
