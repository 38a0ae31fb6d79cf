"""`train` and `evaluate`: the recipes, from the wheel or from a source checkout."""

import re
import runpy
import sys
from pathlib import Path

from .verb import USAGE, Stop, load_package

SCRIPT = re.compile(r"\brecipes/(\w+)\.py\b")
OF_LAUNCHER = "accelerate"  # the folder of files that are no recipes
SCRIPTS = {"translation": "seq2seq", "summarization": "seq2seq"}  # of folders with another name


def recipes_folder() -> Path:
    package = Path(__file__).parents[1]
    for folder in (package / "recipes", package.parents[1] / "recipes"):
        if (folder / "seq2seq.py").is_file():
            return folder
    raise FileNotFoundError(f"no recipes are installed in {package / 'recipes'}: install the package again")


def settings_files() -> dict[str, Path]:
    """The YAML files by their names, such as translation/quickstart."""
    folder = recipes_folder()
    paths = sorted(folder.glob("*/*.yaml"))
    names = {path: path.relative_to(folder).with_suffix("").as_posix() for path in paths}
    return {name: path for path, name in names.items() if path.parent.name != OF_LAUNCHER}


def listed() -> str:
    """Each file of settings with its first comment lines: how to run it, and what it gave."""
    shown = []
    for name, path in settings_files().items():
        comments = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines()[:3]]
        first = comments[0]
        if first.startswith("Not run yet"):
            measured = f"not run yet; {comments[2]}" if len(comments) > 2 else "not run yet"
        else:
            measured = comments[1] or first
        shown.append(f"{name}\n    {measured}")
    return "\n".join(shown)


def find(recipe: str) -> tuple[Path, Path | None]:
    """The script of a recipe, and the settings; for the name of a script alone there are none."""
    folder, path = recipes_folder(), Path(recipe)
    known = settings_files()
    name = recipe.removeprefix("recipes/").removesuffix(".yaml").removesuffix(".py")
    if not path.is_file():
        if (folder / f"{name}.py").is_file():
            return folder / f"{name}.py", None
        if name not in known:
            raise Stop(
                f"error: there is no file and no recipe {recipe}: see `vanilla-transformer train --list`",
                USAGE,
            )
        path = known[name]
    if path.suffix == ".py":
        return path, None
    from ..text_files import read_text

    named, parent = SCRIPT.search(read_text(path)), path.resolve().parent.name
    for script in (named[1] if named else "", SCRIPTS.get(parent, parent)):
        if (folder / f"{script}.py").is_file():
            return folder / f"{script}.py", path
    scripts = ", ".join(sorted(script.stem for script in folder.glob("*.py")))
    raise Stop(
        f"error: {recipe} does not say which recipe it is for: add a first line such as "
        f"`# python recipes/seq2seq.py {recipe}`; the recipes are {scripts}",
        USAGE,
    )


def run(recipe: str, words: list[str]) -> None:
    """Runs the recipe's script in this process, as `python recipes/seq2seq.py FILE.yaml --key value` does."""
    script, settings = find(recipe)
    load_package()
    sys.argv = [str(script), *([str(settings)] if settings else []), *words]
    runpy.run_path(str(script), run_name="__main__")
