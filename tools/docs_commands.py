"""What `check_docs.py` runs for a command of a page: the command, a shorter one, or nothing for a reason.

A page may say it better in a comment before the block: `<!-- run as: … -->` or `<!-- not run: … -->`.
"""

import re

import yaml
from pages import ROOT

# Flags that make a recipe short; the last value of a flag counts.
FEW = "--max_train_samples 60 --max_validation_samples 4 --max_test_samples 4"
SHORT = "--max_steps 2 --eval_steps 2 --save_steps 2 --logging_steps 1 --use_cpu true --bf16 false"
SHORT += " --average_checkpoints 0"
PAIRS = "--vocab_size 600 --max_source_length 400 --max_target_length 400"
FLAGS = [
    (r"image_classification|object_detection", ""),
    (r"seq2seq|translation|summarization|train \w+\.yaml", PAIRS),
    (r"", "--vocab_size 600"),
]
QUICKSTART = "recipes/translation/quickstart.yaml"
# One run of the grid, on the shipped corpus, with results that the report does not read
GRID = "--rows C-2-layers --seeds 1 --results grid.jsonl --runs grid --dataset bible_en_es --target_lang es"
GRID += " --test_split test --vocab_size 600"
PATTERN = re.compile(r"<\w+>|\[--|\.\.\.|…|\b[A-Z]{4,}\b(?!=)")

# (pattern, what is run, or "" and why nothing is); the first match counts.
RULES = [
    (r"check_docs\.py|make docs-check", "", "is this check"),
    (r"^(vanilla-transformer|accelerate|pip) \w+$|^torchrun$", "", "a name, not a command"),
    (r"git clone|cd vanilla-transformer", "", "needs the network"),
    (r"pip install|make setup", "", "installs packages; setting up this environment did it"),
    (r"pre-commit install|--install-completion", "", "changes the settings of the machine"),
    (r"make quickstart", f"python recipes/seq2seq.py {QUICKSTART} {FEW} {SHORT}", ""),
    (r"make ([\w-]+)", r"make --dry-run --silent \1 READY= CONTRACT_READY= > /dev/null", "the target exists"),
    # 5: none is collected where the tests of transformers are not downloaded
    (r"^pytest (.*)", r"pytest --collect-only -q \1 > /dev/null || test $? = 5", "make test runs them"),
    (r"gpu_suite\.py", "", "needs a GPU"),
    (r"benchmarks/speed\.py(?! --list)", "python benchmarks/speed.py --list", "make bench runs it"),
    (r"(.*benchmarks/cold_start\.py).*", r"\1 --rounds 1", ""),
    (r"(.*benchmarks/stream_resume\.py).*", r"\1 --pairs 60000 --at 0.3", ""),
    (r"(.*benchmarks/normalization\.py).*", r"\1 --updates 2 --tokens 64", ""),
    (r"(.*benchmarks/translate_lines\.py outputs/quickstart).*", r"\1 --lines 8 --rounds 1", ""),
    # the models of an ensemble have one vocabulary, and the page trained outputs/mine
    (r"(.* outputs/mine .*--ensemble )(\S+)(.*)", r"rm -rf \2 && cp -r outputs/mine \2 && \1\2\3", ""),
    (r"recipes/paper/grid\.py (?!--report)", f"python recipes/paper/grid.py {GRID} {FEW} {SHORT}", ""),
    (r"checkpoint_scores\.py", "", "needs the checkpoints of a whole run"),
    (r"benchmarks/(alignments|forced_terms|length_penalty)\.py", "", "needs Multi30k and its trained model"),
]


def shortened(command: str) -> tuple[str, str]:
    """Return what to run for a command, and a note; "" and the reason if nothing is run."""
    for pattern, run, note in RULES:
        if match := re.search(pattern, command):
            return match.expand(run), note
    if re.search(r"(recipes|baselines)/\w+\.py|vanilla-transformer (train|evaluate) (?!--list)", command):
        return short_recipe(command)
    return ("", "a pattern, not a command") if PATTERN.search(command) else (command, "")


def short_recipe(command: str) -> tuple[str, str]:
    """Two updates of a recipe on a few rows, with two processes if it has several; or why it cannot run."""
    if "--help" in command:
        return command, ""
    if re.search(r"torchrun|accelerate launch", command):
        command = re.sub(r"--nproc-per-node \d+", "--nproc-per-node 2", command)
        command = re.sub(r"recipes/(translation|paper/table3)/([\w-]+\.yaml|\.\.\.)", QUICKSTART, command)
        command = re.sub(r"accelerate/\w+\.yaml", "accelerate/cpu.yaml", command)
    elif PATTERN.search(command):
        return "", "a pattern, not a command"
    elif missing := missing_data(command):
        return "", f"needs the data {missing}"
    if re.search(r"--do_train false|evaluate ", command):
        return f"{command} {FEW}", ""
    flags = next((flags for words, flags in FLAGS if re.search(words, command)), "")
    return f"{command} {FEW} {SHORT} {flags}", ""


def missing_data(command: str) -> str:
    """Return the data set of a recipe's YAML if it is neither shipped nor given by the command."""
    settings = re.search(r"recipes/\w+/\w+\.yaml", command)
    if not settings or re.search(r"--(train_file|dataset) ", command):
        return ""
    given = yaml.safe_load((ROOT / settings[0]).read_text())
    files = given.get("train_file", [])
    hub = given.get("dataset", "")
    return hub if "/" in hub else " ".join(file for file in files if not (ROOT / file).exists())
