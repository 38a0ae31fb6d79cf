"""A recipe's settings: a YAML file, then flags that override it, typed and checked by one parser.

The YAML's keys become flags in front of the user's own, because HfArgumentParser reads a YAML without
overrides and leaves `1e-4` a string. Every name that is wrong is an error here, before any work starts.
"""

import argparse
import dataclasses
import difflib
import inspect
import json
import re
import sys
import tempfile
import types
import typing
from collections.abc import Mapping
from pathlib import Path

import yaml
from transformers import HfArgumentParser, PreTrainedConfig, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..configuration_vanilla_transformer import LayersConfig


class InputError(ValueError):
    """The caller's settings or data are wrong; the message says what, where, and what would be right."""


def parse(
    config_class: type[LayersConfig],
    *argument_classes: type,
    argv: list[str] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> tuple:
    """Reads `[recipe.yaml] [--key value ...] [--model.key value ...]`; later flags win.

    Args:
        config_class: the model's config; its own fields are what the YAML's `model:` block may hold, besides
            `preset`. Vocabulary size and special ids come from the data.
        argument_classes: dataclasses whose fields are the other keys.
        argv: the words after the program's name; those of this process if None.
        defaults: key -> the task's default, in place of the argument class's own.

    Returns:
        The `model:` block as a dict of typed values, then one instance of each dataclass.

    Raises:
        InputError: naming the file and line, or the flag, and the nearest right name.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    path = Path(words.pop(0)) if words and not words[0].startswith("-") else None
    parser = _Parser(config_class, argument_classes)
    parser.set_defaults(**(defaults or {}))
    entries = _read_yaml(path) if path else []

    for name, _, line in entries:
        parser.check_name(name, f"{path}, line {line}")
        parser.origins[name] = f"{path}, line {line}: {name}"
    flags = [flag for name, value, _ in entries for flag in parser.as_flags(name, value)]
    parser.origins |= {name: f"--{name}" for name in map(_flag_name, words) if name}

    try:
        *instances, unknown = parser.parse_args_into_dataclasses(
            flags + words, look_for_args_file=False, return_remaining_strings=True
        )
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # from a dataclass's own checks
        raise InputError(f"{path or 'flags'}: {error}") from error
    if unknown:
        name = _flag_name(unknown[0])
        if name is None:
            raise InputError(f"{unknown[0]!r} belongs to no flag; flags are written --key value")
        parser.check_name(name, f"--{name}")

    rest = vars(instances.pop()) if len(instances) > len(argument_classes) else {}
    model = {name.removeprefix("model."): value for name, value in rest.items()}
    parser.check_model(model, path)
    return model, *instances


def prepare_output_dir(args: TrainingArguments) -> str | None:
    """Makes the folder of a run, and returns the checkpoint to go on from.

    `resume_from_checkpoint` names it, or is `true`: the last one in output_dir.

    Raises:
        InputError: output_dir cannot be written or holds another run, or there is no such checkpoint.
    """
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=args.output_dir):
            pass
    except OSError as error:
        raise InputError(f"output_dir: {args.output_dir} cannot be written: {error.strerror}") from error
    last = get_last_checkpoint(args.output_dir)
    wanted = args.resume_from_checkpoint
    if str(wanted).lower() in ("none", "false"):
        if last:
            raise InputError(
                f"output_dir: {args.output_dir} holds an earlier run; go on from it with "
                "--resume_from_checkpoint true, or give another --output_dir"
            )
        return None
    if wanted.lower() != "true":
        if not Path(wanted).is_dir():
            raise InputError(f"resume_from_checkpoint: there is no folder {wanted}")
        return wanted
    if last is None:
        raise InputError(f"resume_from_checkpoint: there is no checkpoint in {args.output_dir}")
    return last


def nearest(name: str, names: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` with the most similar of `names`, or nothing if none is similar."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


class _Parser(HfArgumentParser):
    """HfArgumentParser whose errors are `InputError`s, with the model's fields as `--model.*` flags."""

    def __init__(self, config_class: type[LayersConfig], argument_classes: tuple[type, ...]):
        super().__init__(
            usage="%(prog)s [recipe.yaml] [--key value ...] [--model.key value ...]",
            description="Keys of the YAML and flags are the same; a flag overrides the YAML.",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.config_class = config_class
        self.origins: dict[str, str] = {}  # key -> where its value stands
        self.fields = {field.name: field for cls in argument_classes for field in dataclasses.fields(cls)}
        self.model_types = _own_fields(config_class)
        self._add_model_arguments()
        self.dataclass_types = list(argument_classes)
        for cls in argument_classes:
            self._add_dataclass_arguments(cls)

    def _add_model_arguments(self):
        title = f"the block `model:`, fields of {self.config_class.__name__}"
        group = self.add_argument_group("model", title)
        documented = _documented(self.config_class)
        self.model_types = {"preset": str} | self.model_types
        documented["preset"] = f"start from these sizes: {', '.join(self.config_class.presets)}"
        for name, hint in self.model_types.items():
            text = documented.get(name, "").replace("%", "%%")
            group.add_argument(f"--model.{name}", type=_reader(hint), default=argparse.SUPPRESS, help=text)

    def error(self, message: str):
        name, _, reason = message.removeprefix("argument --").partition(": ")
        name = name.split("/")[0]
        raise InputError(f"{self.origins[name]}: {reason}" if name in self.origins else message)

    def check_name(self, name: str, where: str):
        """Raises InputError if no key has this name."""
        if name.startswith("model."):
            field = name.removeprefix("model.")
            if field in self.model_types:
                return
            if field in self.config_class.attribute_map:
                hint = f"; here it is called {self.config_class.attribute_map[field]!r}"
            elif field == "vocab_size" or field.endswith("_token_id"):
                hint = "; it comes from the tokenizer"
            else:
                hint = nearest(field, self.model_types)
            raise InputError(f"{where}: the model has no setting {field!r}{hint}")
        if name in self.fields or name.replace("-", "_") in self.fields:
            return
        if name in self.model_types:
            raise InputError(
                f"{where}: {name!r} belongs to the model: model: {{{name}: ...}} or --model.{name}"
            )
        known = ["model", *self.fields, *(f"model.{field}" for field in self.model_types)]
        raise InputError(f"{where}: unknown key {name!r}{nearest(name, known) or '; see --help'}")

    def as_flags(self, name: str, value) -> list[str]:
        """The words that set `name` to a YAML value, as a user would have typed them."""
        kind = (
            self.fields[name].type if name in self.fields else self.model_types[name.removeprefix("model.")]
        )
        if value is None and name in self.fields:
            if self.fields[name].default is not None:
                raise InputError(
                    f"{self.origins[name]}: needs a value; its default is {self.fields[name].default!r}"
                )
            return []
        if isinstance(value, list):
            if list not in (typing.get_origin(kind), *map(typing.get_origin, typing.get_args(kind))):
                raise InputError(f"{self.origins[name]}: takes one value, not a list")
            return [f"--{name}", *map(str, value)] if value else []
        if isinstance(value, dict):
            value = json.dumps(value)
        return [f"--{name}={'null' if value is None else value}"]

    def check_model(self, model: dict, path: Path | None):
        """Builds the config once, so that values that do not fit are known before the data are read."""
        settings = dict(model)
        preset = settings.pop("preset", None)
        where = self.origins.get("model.preset", "model.preset")
        presets = self.config_class.presets
        if preset is not None and preset not in presets:
            hint = nearest(preset, presets) or f"; there are {', '.join(presets)}"
            raise InputError(f"{where}: unknown preset {preset!r}{hint}")
        try:
            self.config_class.from_preset(preset, **settings) if preset else self.config_class(**settings)
        except Exception as error:  # the strict config has an exception class of its own for every check
            cause = error.__cause__ or error
            raise InputError(f"{path or 'flags'}: model: {cause}") from error


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """One spelling of each flag, its choices in a line of their own."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return action.option_strings[0]

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action)
        return f"{text} One of: {', '.join(map(str, action.choices))}" if action.choices else text


def _flag_name(word: str) -> str | None:
    return re.split("[= ]", word[2:])[0] if word.startswith("--") else None


def _own_fields(config_class: type) -> dict[str, type]:
    """Name -> type of the fields that the class and its bases below PreTrainedConfig declare."""
    bases = [
        cls
        for cls in config_class.__mro__
        if issubclass(cls, PreTrainedConfig) and cls is not PreTrainedConfig
    ]
    names = [name for cls in reversed(bases) for name in cls.__dict__.get("__annotations__", {})]
    types_of = {field.name: field.type for field in dataclasses.fields(config_class)}
    from_data = {name for name in names if name == "vocab_size" or name.endswith("_token_id")}
    return {name: types_of[name] for name in names if name in types_of and name not in from_data}


def _documented(cls: type) -> dict[str, str]:
    """Name -> text of the `Args:` sections of a class's docstring and of its bases'."""
    entries = []
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = re.search(r"\nArgs:\n(.*?)(\n\S|\Z)", text, re.DOTALL)
        found = section[1] if section else ""
        entries += re.findall(r"^    ([\w, ]+): (.*?)(?=^    \S|\Z)", found, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _reader(hint) -> typing.Callable[[str], object]:
    """A function from a word to a value of the type `hint` (scalars, Literal, and unions of them)."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = set(typing.get_args(hint) if union else [hint])

    def read(word: str):
        if types.NoneType in kinds and word.lower() in ("null", "none", "~"):
            return None
        if bool in kinds and word.lower() in ("true", "false", "yes", "no"):
            return word.lower() in ("true", "yes")
        for kind in (int, float, str):
            if kind in kinds:
                try:
                    return kind(word)
                except ValueError:
                    pass
        choices = [choice for kind in kinds for choice in typing.get_args(kind)]
        if word in choices:
            return word
        raise ValueError

    named = [str(kind) if typing.get_args(kind) else kind.__name__ for kind in kinds]
    read.__name__ = " or ".join(sorted(named)).replace("typing.", "")  # argparse: "invalid <name> value"
    return read


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; this one reads a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(path: Path) -> list[tuple[str, object, int]]:
    """(key, value, line) of a YAML file; the entries of its `model:` block are called `model.*`."""
    if not path.is_file():
        near = sorted(str(other) for other in path.parent.glob("*.y*ml"))
        raise InputError(f"there is no file {path}" + (f"; there are {', '.join(near)}" if near else ""))
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        return _entries(loader, node, path, "") if node is not None else []
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error


def _entries(
    loader: yaml.SafeLoader, node: yaml.Node, path: Path, prefix: str
) -> list[tuple[str, object, int]]:
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}, line {node.start_mark.line + 1}: expected `key: value`")
    entries, lines = [], {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in lines:
            raise InputError(f"{path}, line {line}: {prefix}{key} stands in line {lines[key]} already")
        lines[key] = line
        empty = value_node.tag.endswith(":null")
        if key == "model" and not prefix:
            entries += [] if empty else _entries(loader, value_node, path, "model.")
        elif isinstance(value_node, yaml.ScalarNode) and not empty:
            entries.append((prefix + key, value_node.value, line))  # as written: the parser knows the type
        else:
            entries.append((prefix + key, loader.construct_object(value_node, deep=True), line))
    return entries
