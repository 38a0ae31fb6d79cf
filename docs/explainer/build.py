"""Build the data of the explainer from a trained encoder-decoder of this package.

    python docs/explainer/build.py outputs/quickstart                        # writes data.js of this page
    python docs/explainer/build.py outputs/mine --output outputs/explainer   # copies the page, with its data

data.js holds the model's config.json, generation_config.json, tokenizer.json and tokenizer_config.json, and
its weights rounded to float16. `load` returns the model and the tokenizer of a data.js.
"""

import argparse
import base64
import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from vanilla_transformer import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerTokenizer,
)

PAGE = Path(__file__).parent
PAGE_FILES = ("*.html", "*.css", "*.js")
MOST_PARAMETERS = 20_000_000  # 55 MB of data.js, and seconds for each sentence
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

# What the page reads of generation_config.json, and what does not change its search.
SHOWN = {"num_beams", "length_penalty", "length_penalty_type", "max_extra_tokens", "max_length"}
SHOWN |= {"bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"}
HARMLESS = {
    "transformers_version",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "_from_model_config",
    "alignment_layer",
    "alignment_shift",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", help="a folder with a trained translator or summarizer, or its name on the Hub"
    )
    parser.add_argument(
        "--output", type=Path, default=PAGE, help="the page's folder; a new one gets a copy of the page"
    )
    parser.add_argument("--about", default="", help="a sentence about the model, for the top of the page")
    parser.add_argument("--examples", nargs="*", default=[], help="sentences to try; the first one is shown")
    arguments = parser.parse_args()
    try:
        path = build(arguments.model, arguments.output, arguments.about, arguments.examples)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{path} has {path.stat().st_size / 1e6:.1f} MB. Open {path.with_name('index.html')} in a browser.")


def build(model_name: str, output: Path, about: str = "", examples: Sequence[str] = ()) -> Path:
    """Writes data.js, and the page if it is not there, to the folder `output`; returns the path of data.js.

    Raises:
        ValueError: the page cannot show this model, its tokenizer or its search; the message names what.
        OSError: there is no such model, or the folder cannot be written.
    """
    config = AutoConfig.from_pretrained(model_name)
    require_shown(model_name, config)
    model = AutoModelForSeq2SeqLM.from_pretrained(model_name, dtype=torch.float32).eval()
    require_small(model_name, model)
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {file: json.loads(Path(folder, file).read_text("utf-8")) for file in TOKENIZER_FILES}
    require_byte_level_bpe(model_name, tokenizer, files["tokenizer.json"])
    require_paper_search(model_name, model.generation_config)
    tensors, numbers = half_precision(model)
    entries = {
        key: value for key, value in config.to_dict().items() if key not in ("auto_map", "custom_pipelines")
    }
    data = {
        "about": about,
        "examples": list(examples),
        "parameters": model.num_parameters(),
        "config": entries,
        "generation_config": model.generation_config.to_diff_dict(),
        **{file.removesuffix(".json"): content for file, content in files.items()},
        "tensors": tensors,
        "numbers": base64.b64encode(gzip.compress(numbers.tobytes(), mtime=0)).decode("ascii"),
    }
    output.mkdir(parents=True, exist_ok=True)
    if output.resolve() != PAGE.resolve():
        for pattern in PAGE_FILES:
            for file in PAGE.glob(pattern):
                shutil.copyfile(file, output / file.name)
    path = output / "data.js"
    path.write_text(f'"use strict";\nconst DATA = {json.dumps(data)};\n', encoding="ascii")
    return path


def load(path: Path) -> tuple[VanillaTransformerForConditionalGeneration, VanillaTransformerTokenizer]:
    """Returns the model in float32, with its weights as the page has them, and the tokenizer of a data.js."""
    text = path.read_text("ascii")
    data = json.loads(text[text.index("{") : text.rindex("}") + 1])
    model = VanillaTransformerForConditionalGeneration(VanillaTransformerConfig(**data["config"])).eval()
    numbers = np.frombuffer(gzip.decompress(base64.b64decode(data["numbers"])), dtype="<f2")
    weights = {}
    for tensor in data["tensors"]:
        values = numbers[tensor["start"] : tensor["start"] + int(np.prod(tensor["shape"]))]
        weights[tensor["name"]] = torch.from_numpy(values.astype(np.float32)).view(tensor["shape"])
    model.load_state_dict(weights)
    model.generation_config = GenerationConfig(**data["generation_config"])
    with tempfile.TemporaryDirectory() as folder:
        for file in TOKENIZER_FILES:
            Path(folder, file).write_text(json.dumps(data[file.removesuffix(".json")]), encoding="utf-8")
        return model, VanillaTransformerTokenizer.from_pretrained(folder)


def half_precision(model: torch.nn.Module) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The names, shapes and starts of all tensors, and their numbers in float16; tied ones share a start."""
    tensors: list[dict[str, Any]] = []
    parts, starts, end = [], {}, 0
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in starts:
            starts[tensor.data_ptr()] = end
            parts.append(tensor.half().numpy().astype("<f2").ravel())
            end += tensor.numel()
            if not np.isfinite(parts[-1]).all():
                raise ValueError(f"{name} has numbers that float16 cannot hold: the largest is 65,504")
        tensors.append({"name": name, "shape": list(tensor.shape), "start": starts[tensor.data_ptr()]})
    return tensors, np.concatenate(parts)


def require_shown(name: str, config: Any) -> None:
    if config.model_type != VanillaTransformerConfig.model_type:
        raise ValueError(
            f"{name} has a model of type {config.model_type!r}: the page shows models of type "
            f"{VanillaTransformerConfig.model_type!r}, such as those of recipes/seq2seq.py"
        )
    if not config.is_encoder_decoder:
        raise ValueError(
            f"{name} has encoder_layers={config.encoder_layers} and decoder_layers={config.decoder_layers}: "
            "the page shows models with both stacks"
        )
    for key, shown in {"activation": "relu", "norm_type": "layer", "target_vocab_size": None}.items():
        if getattr(config, key) != shown:
            raise ValueError(
                f"{name} has {key}={getattr(config, key)!r}: the page shows {key}={shown!r} alone"
            )


def require_small(name: str, model: Any) -> None:
    if model.num_parameters() > MOST_PARAMETERS:
        raise ValueError(
            f"{name} has {model.num_parameters():,} parameters: the page shows at most {MOST_PARAMETERS:,}, "
            "because a browser computes them for every sentence"
        )


def require_byte_level_bpe(name: str, tokenizer: Any, file: dict[str, Any]) -> None:
    """Raises ValueError unless the tokenizer works as one that `VanillaTransformerTokenizer.train` makes."""
    if not isinstance(tokenizer, VanillaTransformerTokenizer):
        raise ValueError(
            f"{name} has a {type(tokenizer).__name__}: the page splits text as a VanillaTransformerTokenizer"
        )
    found = steps_of(file)
    lowercase = "Lowercase" in json.dumps(found["normalizer"])
    own = VanillaTransformerTokenizer.train([["a"]], vocab_size=259, lowercase=lowercase, show_progress=False)
    for step, expected in steps_of(json.loads(own.backend_tokenizer.to_str())).items():
        if found[step] != expected:
            raise ValueError(
                f"the page cannot follow the {step} in tokenizer.json of {name}: it differs from that of "
                f"VanillaTransformerTokenizer.train: {json.dumps(found[step])[:200]}"
            )
    if plain := [token["content"] for token in file["added_tokens"] if not token["special"]]:
        raise ValueError(f"the tokenizer of {name} finds {plain[0]!r} in texts, which the page does not")
    if not tokenizer.split_special_tokens:
        raise ValueError(f"tokenizer_config.json of {name} must have split_special_tokens=true")


def steps_of(file: dict[str, Any]) -> dict[str, Any]:
    """What a tokenizer does with any text, without what it learned."""
    model = {key: value for key, value in file["model"].items() if key not in ("vocab", "merges")}
    return {**{step: file[step] for step in ("normalizer", "pre_tokenizer", "decoder")}, "model": model}


def require_paper_search(name: str, generation_config: GenerationConfig) -> None:
    settings = generation_config.to_diff_dict()
    if settings.get("num_beams", 1) > 1 and settings.get("length_penalty_type") != "gnmt":
        raise ValueError(
            f"generation_config.json of {name} searches as transformers does, but the page as the paper. "
            'Set "length_penalty_type": "gnmt" there, or "num_beams": 1'
        )
    others = {key: value for key, value in settings.items() if value and key not in SHOWN | HARMLESS}
    if others:
        key, value = next(iter(others.items()))
        raise ValueError(
            f"generation_config.json of {name} has {key}={value!r}, which the page does not follow"
        )


if __name__ == "__main__":
    main()
