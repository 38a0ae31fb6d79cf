"""A recipe's settings: a YAML file, then flags that override it, typed and checked by one parser.

The YAML's keys become flags in front of the user's own, because HfArgumentParser cannot override a YAML and
reads `1e-4` as a string. A wrong name is an error here, before any work starts.
"""

import argparse
import dataclasses
import difflib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path

import yaml
from transformers import HfArgumentParser, PreTrainedConfig

from ..configuration_vanilla_transformer import LayersConfig

# The keys of the short --help.
FIRST = (
    *("help", "dataset", "train_file", "validation_file", "test_file", "source_lang", "target_lang"),
    *("pretrained", "output_dir"),
    *("model.preset", "model.dropout", "num_train_epochs", "max_steps", "max_target_tokens"),
    *("per_device_train_batch_size", "learning_rate", "warmup_steps", "seed", "early_stopping_patience"),
    *("resume_from_checkpoint", "do_train", "bf16"),
)

# Keys that people know from other programs.
ALIASES = {
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "max_tokens": "max_target_tokens",
    "epochs": "num_train_epochs",
    "max_epochs": "num_train_epochs",
    "steps": "max_steps",
    "max_update": "max_steps",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "warmup": "warmup_steps",
    "warmup_updates": "warmup_steps",
    "clip_norm": "max_grad_norm",
    "label_smoothing": "label_smoothing_factor",
    "accumulation": "gradient_accumulation_steps",
    "update_freq": "gradient_accumulation_steps",
    "patience": "early_stopping_patience",
    "resume": "resume_from_checkpoint",
    "fp32": "bf16",
    "beam": "num_beams",
    "beam_size": "num_beams",
    "beams": "num_beams",
    "length_penalty": "alpha",
    "source_language": "source_lang",
    "target_language": "target_lang",
    "src_lang": "source_lang",
    "tgt_lang": "target_lang",
    "model_name_or_path": "pretrained",
    "workers": "dataloader_num_workers",
    "num_workers": "dataloader_num_workers",
}

# Keys of transformers' arguments that the recipes replace.
REPLACED = {
    "do_eval": "validation and test data are scored whenever there are some; do_train=false only scores",
    "do_predict": "validation and test data are scored whenever there are some; do_train=false only scores",
}


class InputError(ValueError):
    """The caller's settings or data are wrong. The message says what, where, and what to type instead."""


def parse(
    config_class: type[LayersConfig],
    *argument_classes: type,
    argv: list[str] | None = None,
    defaults: Mapping[str, object] | None = None,
    unused: typing.Sequence[str] = (),
) -> tuple:
    """Parse `[recipe.yaml] [--key value ...] [--model.key value ...]`. The last value of a key wins.

    Args:
        config_class: the model's config class. The YAML's `model:` block takes its fields and `preset`, but
            not the vocabulary size and the special ids, which come from the data.
        argument_classes: dataclasses. Their fields are all other keys.
        argv: the words after the program's name; those of this process if None.
        defaults: key -> the recipe's default, instead of the argument class's own.
        unused: keys that do not apply to the recipe.

    Returns:
        The `model:` block as a dict of typed values, then one instance of each dataclass.

    Raises:
        InputError: a name or a value is wrong. The message names the file and line or the flag, and the
            nearest right name.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    path = Path(words.pop(0)) if words and not words[0].startswith("-") else None
    parser = _Parser(config_class, argument_classes, unused)
    parser.set_defaults(**(defaults or {}))
    entries = _read_yaml(path) if path else []

    for name, _, line in entries:
        parser.check_name(name, f"{path}, line {line}")
        parser.origins[name] = f"{path}, line {line}: {name}"
    flags = [flag for name, value, _ in entries for flag in parser.as_flags(name, value)]
    parser.origins |= {name: f"--{name}" for name in map(_flag_name, words) if name}
    parser.refuse_unused()

    try:
        *instances, unknown = parser.parse_args_into_dataclasses(
            flags + words, look_for_args_file=False, return_remaining_strings=True
        )
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # a dataclass checks its values
        raise InputError(f"{path or 'flags'}: {error}") from error
    if unknown:
        flag = _flag_name(unknown[0])
        if flag is None:
            raise InputError(f"unexpected word {unknown[0]!r}: write flags as --key value")
        parser.check_name(flag, f"--{flag}")

    rest = vars(instances.pop()) if len(instances) > len(argument_classes) else {}
    model = {name.removeprefix("model."): value for name, value in rest.items()}
    parser.check_model(model, path)
    return model, *instances


def nearest(name: str, names: typing.Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the most similar of `names`, or "" if none is similar."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


class _Parser(HfArgumentParser):
    """An HfArgumentParser that raises `InputError` and has the model's fields as `--model.*` flags."""

    def __init__(
        self,
        config_class: type[LayersConfig],
        argument_classes: tuple[typing.Any, ...],
        unused: typing.Sequence[str] = (),
    ):
        super().__init__(
            usage="%(prog)s [recipe.yaml] [--key value ...] [--model.key value ...]",
            description="The YAML's keys and the flags are the same. A flag overrides the YAML.",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument(
            "-h",
            "--help",
            nargs="?",
            const="",
            action=_Help,
            default=argparse.SUPPRESS,
            help="show the keys that matter most; --help all shows all keys",
        )
        self.config_class = config_class
        self.origins: dict[str, str] = {}  # key -> the file and line, or the flag, that sets it
        self.fields = {field.name: field for cls in argument_classes for field in dataclasses.fields(cls)}
        self.model_types = _own_fields(config_class)
        self._add_model_arguments()
        self.dataclass_types = list(argument_classes)
        for cls in argument_classes:
            self._add_dataclass_arguments(cls)
        self.unused = {**REPLACED, **dict.fromkeys(unused, "it does not apply to this recipe")}
        for action in self._actions:
            if action.dest in self.unused:
                action.help = argparse.SUPPRESS

    def _add_model_arguments(self) -> None:
        title = f"the `model:` block; fields of {self.config_class.__name__}"
        group = self.add_argument_group("model", title)
        documented = _documented(self.config_class)
        self.model_types = {"preset": str} | self.model_types
        documented["preset"] = f"the sizes to start from: {', '.join(self.config_class.presets)}"
        for name, hint in self.model_types.items():
            text = documented.get(name, "").replace("%", "%%")
            group.add_argument(f"--model.{name}", type=_reader(hint), default=argparse.SUPPRESS, help=text)

    def error(self, message: str) -> typing.NoReturn:
        name, _, reason = message.removeprefix("argument --").partition(": ")
        name = name.split("/")[0]
        raise InputError(f"{self.origins[name]}: {reason}" if name in self.origins else message)

    def check_name(self, name: str, where: str) -> None:
        """Raise an InputError if no key has this name."""
        if name.startswith("model."):
            field = name.removeprefix("model.")
            if field in self.model_types:
                return
            if field in self.config_class.attribute_map:
                hint = f"; write {self.config_class.attribute_map[field]!r}"
            elif field == "vocab_size" or field.endswith("_token_id"):
                hint = "; it comes from the tokenizer: remove it"
            else:
                hint = nearest(field, self.model_types)
            raise InputError(f"{where}: the model has no setting {field!r}{hint}")
        if name in self.fields or name.replace("-", "_") in self.fields:
            return
        if name in self.model_types:
            raise InputError(
                f"{where}: {name!r} is a setting of the model; write model: {{{name}: ...}} or --model.{name}"
            )
        if meant := ALIASES.get(name.replace("-", "_")):
            raise InputError(f"{where}: unknown key {name!r}; did you mean {meant!r}?")
        known = ["model", *self.fields, *(f"model.{field}" for field in self.model_types)]
        raise InputError(f"{where}: unknown key {name!r}{nearest(name, known) or '; see --help'}")

    def refuse_unused(self) -> None:
        """Raise an InputError if a key is given that does not apply."""
        for name, where in self.origins.items():
            if why := self.unused.get(name.replace("-", "_")):
                raise InputError(f"{where}: remove it: {why}")

    def as_flags(self, name: str, value: object) -> list[str]:
        """Return the words of a command line that set `name` to a value of the YAML."""
        kind = (
            self.fields[name].type if name in self.fields else self.model_types[name.removeprefix("model.")]
        )
        if value is None and name in self.fields:
            if self.fields[name].default is not None:
                raise InputError(
                    f"{self.origins[name]}: give a value, such as the default, {self.fields[name].default!r}"
                )
            return []
        if isinstance(value, list):
            if list not in (typing.get_origin(kind), *map(typing.get_origin, typing.get_args(kind))):
                raise InputError(f"{self.origins[name]}: takes one value, not a list")
            return [f"--{name}", *map(str, value)] if value else []
        if isinstance(value, dict):
            value = json.dumps(value)
        return [f"--{name}={'null' if value is None else value}"]

    def check_model(self, model: Mapping[str, typing.Any], path: Path | None) -> None:
        """Build the config once, to raise an InputError for wrong values before the data are read."""
        settings = dict(model)
        preset = settings.pop("preset", None)
        where = self.origins.get("model.preset", "model.preset")
        presets = self.config_class.presets
        if preset is not None and preset not in presets:
            try:
                self.config_class.from_preset(str(preset))
            except ValueError as error:
                raise InputError(f"{where}: {error}{nearest(str(preset), presets)}") from error
        try:
            self.config_class.from_preset(preset, **settings) if preset else self.config_class(**settings)
        except Exception as error:  # strict configs raise exceptions of many classes
            cause = error.__cause__ or error
            raise InputError(f"{path or 'flags'}: model: {cause}") from error


class _Help(argparse.Action):
    """Shows the keys of `FIRST`, or with `all` every key."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: typing.Any,
        option_string: str | None = None,
    ) -> None:
        if values != "all":
            for action in parser._actions:
                if action.dest not in FIRST or action.option_strings[0].startswith("--no_"):
                    action.help = argparse.SUPPRESS
            # argparse prints an empty group's title.
            parser._action_groups = [
                group
                for group in parser._action_groups
                if any(action.help is not argparse.SUPPRESS for action in group._group_actions)
            ]
        parser.print_help()
        parser.exit()


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show one spelling of each flag, its default if it has one, and its choices."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return action.option_strings[0]

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help if action.default is None else super()._get_help_string(action)) or ""
        return f"{text} One of: {', '.join(map(str, action.choices))}" if action.choices else text


def _flag_name(word: str) -> str | None:
    return re.split("[= ]", word[2:])[0] if word.startswith("--") else None


def _own_fields(config_class: type[LayersConfig]) -> dict[str, typing.Any]:
    """Return name -> type of the fields that the class and its bases below PreTrainedConfig declare."""
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
    """Return name -> text of the `Args:` sections in the docstrings of a class and its bases."""
    entries: list[tuple[str, str]] = []
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = re.search(r"\nArgs:\n(.*?)(\n\S|\Z)", text, re.DOTALL)
        found = section[1] if section else ""
        entries += re.findall(r"^    ([\w, ]+): (.*?)(?=^    \S|\Z)", found, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _reader(hint: typing.Any) -> typing.Callable[[str], object]:
    """Return a function that reads a word as the type `hint`: a scalar, a Literal, or a union of them."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = set(typing.get_args(hint) if union else [hint])

    def read(word: str) -> object:
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
    """Reads `1e-4` as a number, which YAML 1.1 reads as text. Raises for aliases, which can multiply."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not allowed; write the value again"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(path: Path) -> list[tuple[str, object, int]]:
    """Return (key, value, line) of each entry; keys of the `model:` block get the prefix `model.`."""
    if not path.is_file():
        near = sorted(str(other) for other in path.parent.glob("*.y*ml"))
        raise InputError(f"there is no file {path}" + (f"; choose from {', '.join(near)}" if near else ""))
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        return _entries(loader, node, path, "") if node is not None else []
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: too many brackets within each other") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error


def _entries(
    loader: yaml.SafeLoader, node: yaml.Node, path: Path, prefix: str
) -> list[tuple[str, object, int]]:
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}, line {node.start_mark.line + 1}: expected `key: value`")
    entries: list[tuple[str, object, int]] = []
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in lines:
            raise InputError(f"{path}, line {line}: {prefix}{key} is already set in line {lines[key]}")
        lines[key] = line
        empty = value_node.tag.endswith(":null")
        if key == "model" and not prefix:
            entries += [] if empty else _entries(loader, value_node, path, "model.")
        elif isinstance(value_node, yaml.ScalarNode) and not empty:
            entries.append((prefix + key, value_node.value, line))  # a string: the parser knows the type
        else:
            entries.append((prefix + key, loader.construct_object(value_node, deep=True), line))
    return entries
