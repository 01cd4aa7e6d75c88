"""The law of the house, read from the source: who may import whom, what, and where."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "madzoo"

# From the ground up. A room imports what stands on a lower floor; on its own floor only itself and, inside a chain
# ("<"), what stands to its left.
FLOORS = [
    ["errors", "_torchvision_shim"],
    ["ops", "symmetry < gauges < shift_gauges < stream_gauges"],
    ["layers"],
    ["registry", "checkpoint", "data", "geometry < quantization < landscape", "evaluation"],
    ["models", "training", "inference"],
    ["baselines < factory < timm_registry"],
    ["hub"],
    ["workflows"],
    [
        "__init__ < tables < cli_parts < cli_forecast < cli_finetune < cli_quantize < cli_evaluate < cli_hub"
        " < cli_leaderboard < cli < scripts"
    ],
]

# A service knows modules and batches, never a name; a family knows no service.
NAMES = {"models", "registry", "checkpoint", "baselines", "factory", "timm_registry", "hub"}
SERVICES = {"data", "geometry", "quantization", "landscape", "evaluation", "training", "inference"}
FORBIDDEN = dict.fromkeys(SERVICES, NAMES) | {"models": SERVICES | {"checkpoint"}}

# What each room may import beside the standard library.
TABLES = {"numpy", "pandas", "torch"}
THIRD_PARTY = {
    "errors": set(),
    "_torchvision_shim": {"torch"},
    "ops": {"torch"},
    "symmetry": {"torch"},
    "gauges": {"torch"},
    "shift_gauges": {"torch"},
    "stream_gauges": {"torch"},
    "layers": {"torch"},
    "models": {"torch"},
    "registry": {"torch"},
    "checkpoint": {"torch", "safetensors", "huggingface_hub", "numpy", "pydantic", "yaml"},
    "data": TABLES | {"PIL", "datasets", "pyarrow", "timm", "torchvision"},
    "geometry": {"torch", "numpy", "pydantic"},
    "quantization": {"torch", "numpy", "pydantic"},
    "landscape": {"torch", "numpy"},
    "evaluation": TABLES | {"pydantic", "rich", "torchmetrics"},
    "training": {"torch", "accelerate", "numpy", "rich", "yaml"},
    "inference": {"torch"},
    "baselines": {"torch", "timm"},
    "factory": {"torch"},
    "timm_registry": {"torch", "timm"},
    "hub": {"torch", "huggingface_hub", "filelock", "yaml"},
    "workflows": TABLES | {"PIL", "matplotlib", "rich", "safetensors", "yaml"},
    "tables": {"rich"},
    "cli_parts": {"rich", "typer"},
    "cli_forecast": {"typer"},
    "cli_finetune": {"typer"},
    "cli_quantize": {"typer"},
    "cli_evaluate": {"typer"},
    "cli_hub": {"typer"},
    "cli_leaderboard": {"typer"},
    "cli": {"typer"},
    "__init__": set(),
}
# What one file alone may import, from the extra that names it.
EXTRAS = {
    "madzoo/workflows/leaderboard_libraries.py": {"altair", "itables", "jinja2", "markdown_it", "vl_convert"},
}
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "torchvision": "timm"}  # timm brings torchvision
DISTRIBUTIONS |= {"markdown_it": "markdown-it-py", "vl_convert": "vl-convert-python"}

# May import inside functions.
LAZY = {
    "__init__.py",
    "cli.py",
    "cli_forecast.py",
    "cli_finetune.py",
    "cli_quantize.py",
    "cli_evaluate.py",
    "cli_hub.py",
    "cli_leaderboard.py",
    "factory.py",
    "ops/selective_scan.py",
}
FORBIDDEN_FILES = {"utils", "util", "helpers", "helper", "misc", "common", "tools", "stuff"}
BY_STRING = {"import_module", "__import__", "exec", "run_module", "run_path"}
HEAVY = ["timm", "datasets", "torchmetrics", "transformers", "pandas", "matplotlib"]


class Arrow(NamedTuple):
    """One import: from a file, to a madzoo module or a third-party package."""

    source: str
    target: str
    line: int
    top: bool

    def __str__(self):
        return f"{self.source}:{self.line} imports {self.target}"


def files():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    parts = module.split(".")
    return "__init__" if parts == ["madzoo"] else parts[1] if parts[0] == "madzoo" else parts[0]


@cache
def modules():
    return {module_of(path) for path in files()}


def imported_by(node, module, path):
    """Yields what one import statement names; ``from a import b`` means ``a.b`` where that is a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parents = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
        base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
    for alias in node.names:
        yield inner if (inner := f"{base}.{alias.name}") in modules() else base


class Source(NamedTuple):
    """What the tests ask of a file, whose tree is read once and not kept."""

    arrows: tuple[Arrow, ...]
    by_string: tuple[str, ...]
    has_docstring: bool


def nodes(tree):
    """Yields every node of a tree, and whether it lies inside a function."""
    waiting = [(tree, False)]
    while waiting:
        node, inside = waiting.pop()
        yield node, inside
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        waiting += [(child, inside) for child in ast.iter_child_nodes(node)]


@cache
def read(path):
    tree, module, file = ast.parse(path.read_text()), module_of(path), str(path.relative_to(ROOT))
    found, by_string = [], []
    for node, inside in nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            targets = dict.fromkeys(imported_by(node, module, path))
            found += [Arrow(file, target, node.lineno, not inside) for target in targets]
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
        if name in BY_STRING:
            by_string.append(f"{file}:{node.lineno} uses {name}")
    return Source(tuple(found), tuple(by_string), bool(ast.get_docstring(tree)))


def arrows(folder=PACKAGE):
    return [arrow for path in sorted(folder.rglob("*.py")) for arrow in read(path).arrows]


def source_module(arrow):
    return module_of(ROOT / arrow.source)


def internal(folder=PACKAGE):
    return [arrow for arrow in arrows(folder) if arrow.target.split(".")[0] == "madzoo"]


def place(room):
    """Returns (floor, chain, position in the chain)."""
    for floor, entries in enumerate(FLOORS):
        for chain, entry in enumerate(entries):
            names = entry.split(" < ")
            if room in names:
                return floor, chain, names.index(room)
    raise AssertionError(f"{room} stands on no floor: give it one in docs/architecture.md and here")


def may_import(room, target):
    floor, chain, position = place(room)
    target_floor, target_chain, target_position = place(target)
    if floor != target_floor:
        return floor > target_floor
    return chain == target_chain and position >= target_position


def test_imports_point_downward():
    wrong = [
        str(arrow)
        for arrow in internal() + internal(ROOT / "scripts")
        if not may_import(room_of(source_module(arrow)), room_of(arrow.target))
    ]
    assert not wrong


def test_services_know_no_names_and_families_no_services():
    wrong = [
        str(arrow)
        for arrow in internal()
        if room_of(arrow.target) in FORBIDDEN.get(room_of(source_module(arrow)), set())
    ]
    assert not wrong


def circle_in(graph):
    """Returns the modules of a circle of imports, in order; none is empty."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_modules_import_in_no_circle():
    graph = {module: set() for module in modules()}
    for arrow in internal():
        if arrow.target != source_module(arrow):
            graph[source_module(arrow)].add(arrow.target)
    graph["madzoo"] = set()  # the facade's arrows are followed on first use only
    assert not circle_in(graph)
    graph["madzoo.errors"].add("madzoo.factory")  # which stands on it
    assert {"madzoo.errors", "madzoo.factory"} <= set(circle_in(graph))


def test_nothing_is_imported_by_string():
    assert not [use for path in [*files(), *(ROOT / "scripts").rglob("*.py")] for use in read(path).by_string]


def test_functions_import_in_four_places_only():
    lazy = {str((PACKAGE / name).relative_to(ROOT)) for name in LAZY}
    assert not [str(arrow) for arrow in arrows() if not arrow.top and arrow.source not in lazy]


def test_each_room_imports_its_own_third_parties():
    wrong = []
    for arrow in arrows():
        package = arrow.target.split(".")[0]
        room = room_of(source_module(arrow))
        kernel = arrow.source.startswith("madzoo/ops/kernels/")  # decorators of Triton are needed at the top
        optional = {"triton", "mamba_ssm"} if room == "ops" and (kernel or not arrow.top) else set()
        optional = {"ray"} if arrow.source == "madzoo/workflows/ray_tasks.py" else optional  # the extra of that name
        optional = optional | EXTRAS.get(arrow.source, set())
        if package not in sys.stdlib_module_names | {"madzoo"} | THIRD_PARTY.get(room, set()) | optional:
            wrong.append(str(arrow))
    assert not wrong


def test_third_parties_are_declared_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {entry.split(">=")[0] for entry in project["dependencies"]}
    used = {DISTRIBUTIONS.get(name, name) for names in THIRD_PARTY.values() for name in names}
    assert used <= declared


def test_optional_third_parties_are_declared_in_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {entry.split(">=")[0] for group in project["optional-dependencies"].values() for entry in group}
    assert {DISTRIBUTIONS.get(name, name) for names in EXTRAS.values() for name in names} <= declared


def test_packages_are_all_declared():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {module_of(path) for path in PACKAGE.rglob("__init__.py")} | {"madzoo.model_cards"}
    assert set(packages) == on_disk


def test_dependencies_are_pinned_together():
    pins = dict(
        line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert not [name for name, version in pins.items() if "+" in version]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [entry for group in project["optional-dependencies"].values() for entry in group]
    wanted = {entry.split(">=")[0].split("[")[0] for entry in project["dependencies"] + extras} | {"torchvision"}
    assert wanted <= set(pins)


def test_file_names_say_what_is_inside():
    wrong = [str(path) for path in files() if path.stem in FORBIDDEN_FILES or path.stem.endswith("_v2")]
    assert not wrong


def test_files_stay_short():
    limit = {"models": 500}
    lengths = {path: len(path.read_text().splitlines()) for path in files()}
    assert not {str(p): n for p, n in lengths.items() if n > limit.get(room_of(module_of(p)), 300)}


def test_every_file_opens_with_its_idea():
    assert not [str(path) for path in files() if not read(path).has_docstring]


def test_importing_madzoo_loads_nothing_heavy():
    script = f"import madzoo, sys; print([name for name in {[*HEAVY, 'torch']} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.strip() == "[]"


def test_building_a_model_loads_nothing_heavy():
    script = (
        f"import madzoo, sys; madzoo.create_model(madzoo.list_models()[0]);"
        f"print([name for name in {[*HEAVY, 'torch._dynamo']} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("room", "target", "allowed"),
    [
        ("layers", "ops", True),
        ("ops", "layers", False),
        ("ops", "symmetry", False),
        ("quantization", "geometry", True),
        ("geometry", "quantization", False),
        ("landscape", "geometry", True),
        ("evaluation", "geometry", False),
        ("geometry", "geometry", True),
        ("factory", "checkpoint", True),
        ("workflows", "factory", True),
        ("factory", "workflows", False),
    ],
)
def test_the_law_itself(room, target, allowed):
    assert may_import(room, target) is allowed
