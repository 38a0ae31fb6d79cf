"""Imports run one way, and importing the package loads no heavy library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "vanilla_transformer"

# A module may import modules of earlier lines, and a folder its own modules.
ORDER = [
    ["presets", "config_checks", "products"],
    ["configuration_vanilla_transformer", "epoch", "extras", "losses", "noam", "text_files"],
    ["packing"],
    ["layers", "embeddings", "image_processing_vanilla_transformer", "corpora"],
    ["stacks", "beam_search", "prepared"],
    ["decoding", "scores", "terms", "diverse_beam_search"],
    ["searches", "alignments"],
    ["minimum_bayes_risk", "plain_steps", "shortcuts"],
    ["pipeline_batches", "search_loop", "ensembles"],
    ["generation", "hub_generate", "pipelines"],  # the heads use both
    ["pipeline_registry"],
    ["modeling_vanilla_transformer"],
    [
        "modeling_vanilla_transformer_encoder",
        "modeling_vanilla_transformer_vision",
        "modeling_vanilla_transformer_detection",
        "tokenization_toolkit",
        "tokenization_vanilla_transformer",
    ],
    ["metrics", "visualization", "interop", "model_card", "custom_generate"],
    ["training", "documents"],
    ["tasks"],
    ["cli"],
    ["__init__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

# `save_pretrained` copies these files next to the weights, all into one folder.
FLAT = [
    name
    for name, rank in RANK.items()
    if rank <= RANK["tokenization_vanilla_transformer"] and (PACKAGE / f"{name}.py").exists()
]

HEAVY = ["datasets", "evaluate", "matplotlib", "sacrebleu", "sklearn", "tensorboard", "pandas", "pyarrow"]


def own_imports(path: Path) -> set[str]:
    """Top-level names within the package that a file imports, `__init__` for the package itself."""
    depth = len(path.relative_to(PACKAGE).parts)  # levels up to the package
    tree, found = ast.parse(path.read_text()), set()
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []  # imports that never run
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            found.add((node.module.split(".") + ["__init__"])[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {(name + ["__init__"])[1] for name in names if name[0] == PACKAGE.name}
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_one_way(path):
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert module in RANK, f"add {module} to ORDER"
    for imported in own_imports(path) - {module}:
        assert RANK[imported] < RANK[module], f"{path.name} imports {imported}"


@pytest.mark.parametrize("name", FLAT)
def test_files_of_a_hub_copy_import_only_each_other(name):
    for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)
            assert node.module in FLAT, f"{name} needs {node.module}, which is not copied"
        elif isinstance(node, ast.ImportFrom | ast.Import):
            assert PACKAGE.name not in ast.unparse(node)


def in_a_new_process(code: str) -> str:
    own = {"PYTHONPATH": str(PACKAGE.parent), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_heavy_library():
    code = f"""
import sys
import transformers
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, Pipeline, GenerationMixin
before = set(sys.modules)
import vanilla_transformer
print(sorted(name for name in {HEAVY} if name in sys.modules and name not in before))
own = ("vanilla_transformer.training", "vanilla_transformer.metrics")
print(sorted(name for name in sys.modules if name.startswith(own)))
"""
    assert in_a_new_process(code).split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize("folder", ["src", "recipes", "benchmarks", "tools", "examples", "tests"])
def test_no_file_has_more_than_450_lines(folder):
    lengths = {
        path.name: len(path.read_text().splitlines()) for path in (PACKAGE.parents[1] / folder).rglob("*.py")
    }
    assert lengths and {name: length for name, length in lengths.items() if length > 450} == {}


@pytest.mark.parametrize(
    "code, absent, named",
    [
        ("vanilla_transformer.VanillaTransformerTrainer", "datasets", "[train]"),
        ("vanilla_transformer.load_corpus('bible_en_es')", "datasets", "[train]"),
        ("vanilla_transformer.load_metric('chrf')", "sacrebleu", "[metrics]"),
        ("vanilla_transformer.minimum_bayes_risk(['dog'])", "sacrebleu", "[metrics]"),
        ("vanilla_transformer.load_metric('seqeval')", "seqeval", "[metrics]"),
        (
            "import vanilla_transformer.documents as d; d.translate_document(list, 'a', 'txt')",
            "sentencex",
            "[documents]",
        ),
        (
            "import vanilla_transformer.documents as d; d.translate_document(list, 'a', 'md')",
            "pyromark",
            "[documents]",
        ),
        ("import vanilla_transformer.tasks", "evaluate", "[train,metrics]"),
        ("import vanilla_transformer.corpora.digits as d; d.load_digits()", "sklearn", "[vision]"),
        (
            "import vanilla_transformer.visualization.curves as c; c.plot_learning_rate([])",
            "matplotlib",
            "[plot]",
        ),
    ],
)
def test_a_missing_package_is_one_line_that_names_its_extra(code, absent, named):
    script = f"""
import sys

sys.modules[{absent!r}] = None  # as if it were not installed
import vanilla_transformer
try:
    {code}
except ModuleNotFoundError as error:
    print(error)
"""
    message = in_a_new_process(script).strip()
    assert f"the extra {named}" in message and absent in message and "\n" not in message


@pytest.mark.parametrize(
    "name, reference, problem",
    [
        ("AutoModelForDreams", "modeling_vanilla_transformer.VanillaTransformerModel", "AutoModelForDreams"),
        ("AutoModelForMaskedLM", "modeling_vanilla_transformer_encoder.VanilaMaskedLM", "no such class"),
    ],
)
def test_a_wrong_name_of_a_head_is_named_with_its_config(name, reference, problem):
    script = f"""
import importlib
import vanilla_transformer
vanilla_transformer.VanillaTransformerVisionConfig.code[{name!r}] = {reference!r}
try:
    importlib.reload(vanilla_transformer)
except ImportError as error:
    print(error)
"""
    message = in_a_new_process(script).strip()
    assert message.startswith(f"VanillaTransformerVisionConfig.code names {reference}: ")
    assert problem in message and name in message and "\n" not in message
