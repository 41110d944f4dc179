"""Guards the design: who may import whom, how long files and functions may be, what importing the package does."""

import ast
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("geometry", "models", "data", "export", "pipelines", "training", "evaluation", "sfm", "space")
MAX_MODULES = 14  # of one folder: a larger one gets rooms
ALLOWED = {  # left may import right, and itself
    "geometry": set(),
    "models": set(),
    "data": {"geometry"},
    "export": {"geometry"},
    "pipelines": {"models", "geometry", "data"},
    "training": {"models", "geometry", "data", "pipelines"},
    "sfm": {"geometry"},
    "evaluation": {"pipelines", "geometry", "data", "sfm"},
    "space": {"pipelines", "geometry", "export", "data", "sfm"},
    "spaces_app": {"space", "pipelines", "geometry", "export", "data", "sfm"},
    "jog3r": set(FOLDERS),
    "examples": set(FOLDERS),
    "benchmarks": set(FOLDERS),
}
MAX_FILE, MAX_FUNCTION, MAX_CALL = 500, 80, 200
SOURCES = sorted(
    path
    for folder in (*FOLDERS, "jog3r", "examples", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
) + [ROOT / "setup.py", ROOT / "spaces_app.py"]


@functools.cache
def _imports_and_functions(path: Path) -> tuple[list[ast.Import | ast.ImportFrom], list[tuple[str, int]]]:
    """Imports anywhere in a file, and its functions, each with its number of lines."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    functions = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in nodes if isinstance(node, ast.FunctionDef)]
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)], functions


def _owner(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def _imported(path: Path) -> set[str]:
    """Sub-packages of ours that a file imports, anywhere in it."""
    found = set()
    for node in _imports_and_functions(path)[0]:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {parts[1] for name in names if (parts := name.split("."))[0] == "jog3r" and len(parts) > 1}
    return found & {*FOLDERS, "commands"}


@pytest.mark.parametrize("owner", ALLOWED)
def test_imports_follow_the_allowed_arrows(owner: str) -> None:
    allowed = {owner, *ALLOWED[owner], *(["commands"] if owner in ("jog3r", "benchmarks") else [])}
    owned = [path for path in SOURCES if _owner(path) == owner]
    wrong = {str(path): names for path in owned if (names := _imported(path) - allowed)}
    assert owned and not wrong, f"{owner} may not import these: {wrong}"


def test_files_and_functions_stay_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {str(path): length for path, length in lengths.items() if length > MAX_FILE}
    functions = {(str(path), name): length for path in SOURCES for name, length in _imports_and_functions(path)[1]}
    too_long = {key: n for key, n in functions.items() if n > (MAX_CALL if key[1] == "__call__" else MAX_FUNCTION)}
    assert not too_long


def _module_files() -> dict[str, Path]:
    """Dotted name -> file, of the package alone; a package stands for its `__init__.py`."""
    modules = {"jog3r.__init__": ROOT / "jog3r" / "__init__.py"}
    for folder in (*FOLDERS, "jog3r"):
        for path in (ROOT / folder).rglob("*.py"):
            relative = path.relative_to(ROOT / "jog3r" if folder == "jog3r" else ROOT).with_suffix("")
            modules[".".join(("jog3r", *relative.parts))] = path
    return modules


def _imported_modules(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of ours that a file's imports run: those named, also inside functions and for type checkers, and their packages."""
    found = set()
    for node in _imports_and_functions(path)[0]:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules or f"{name}.__init__" in modules else str(node.module) for name in parts]
        for name in names:
            parents = name.split(".")[:-1]
            found |= {name, f"{name}.__init__", *(f"{'.'.join(parents[:n])}.__init__" for n in range(2, len(parents) + 1))}
    return found & set(modules)


def test_no_circle_of_imports() -> None:
    modules = _module_files()
    imports = {}
    for name, path in modules.items():
        own = {f"{'.'.join(name.split('.')[:n])}.__init__" for n in range(1, name.count(".") + 1)}  # these run already
        imports[name] = _imported_modules(path, modules) - {name, "jog3r.__init__"} - own
    while leaves := {name for name, others in imports.items() if not others & set(imports)}:
        imports = {name: others - leaves for name, others in imports.items() if name not in leaves}
    assert not imports, f"these import each other, directly or by way of others: {sorted(imports)}"


def test_a_large_folder_has_rooms() -> None:
    folders = {path.parent for path in SOURCES if _owner(path) in (*FOLDERS, "jog3r")}  # the others are flat lists of scripts
    modules = {str(folder): len([*folder.glob("*.py")]) - (folder / "__init__.py").is_file() for folder in folders}
    crowded = {folder: number for folder, number in modules.items() if number > MAX_MODULES}
    assert not crowded, f"give these sub-packages, one idea each: {crowded}"


def test_import_is_light_and_changes_nothing(tmp_path: Path) -> None:
    code = """
import sys, os, torch, time
before = dict(threads=torch.get_num_threads(), dtype=torch.get_default_dtype(), env=dict(os.environ))
import jog3r
after = dict(threads=torch.get_num_threads(), dtype=torch.get_default_dtype(), env=dict(os.environ))
assert before == after, (before, after)
heavy = {"diffusers", "transformers", "gradio", "matplotlib", "datasets", "av"} & set(sys.modules)
assert not heavy, heavy
assert not os.listdir("."), os.listdir(".")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""})


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_names_of_a_folder_are_there_and_none_is_a_modules_too(folder: str) -> None:
    """Of two things of one name, what `from jog3r.folder import name` gives would depend on what was imported before."""
    package = importlib.import_module(f"jog3r.{folder}")
    names = set(getattr(package, "__all__", ()))
    assert all(hasattr(package, name) for name in names)
    assert not names & {path.stem for path in (ROOT / folder).glob("*.py")}


def test_unknown_public_name_is_refused() -> None:
    import jog3r

    with pytest.raises(AttributeError, match="Jog3rPipeline"):
        _ = jog3r.Pipeline
    assert set(jog3r.__all__) <= set(dir(jog3r))
