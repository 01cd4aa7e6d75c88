"""The distribution: what the sdist and the wheels hold and are called, with a compiler and without."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt")
TINY = '__attribute__((visibility("default"))) int madzoo_abi_version(void) { return VERSION; }\n'


@pytest.fixture
def checkout(tmp_path):
    """Copies what a build reads."""
    ignored = shutil.ignore_patterns("__pycache__", "_kernels.*")
    for folder in ("madzoo", "model_cards"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for part in PARTS:
        shutil.copy(ROOT / part, tmp_path / part)
    return tmp_path


@pytest.fixture
def quick(checkout):
    """Puts two sources of a moment's compilation in the place of the kernels."""
    csrc = checkout / "madzoo" / "ops" / "kernels" / "csrc"
    for path in csrc.iterdir():
        path.unlink()
    (csrc / "version.h").write_text("#define VERSION 41\n")
    (csrc / "version.c").write_text('#include "version.h"\n' + TINY)
    (csrc / "nothing.c").write_text("int hidden(void) { return 0; }\n")
    return checkout


def run(code, folder, **environment):
    command = [sys.executable, "-W", "ignore", "-c", code]
    ran = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True)
    return ran.stdout + ran.stderr


def build(kind, folder, **environment):
    """Builds an sdist or a wheel as pip does; returns its path and what was printed."""
    said = run(f"from setuptools.build_meta import build_{kind} as b; b('dist')", folder, **environment)
    (made,) = (folder / "dist").glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return made, said


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def compile_in_place(folder, **environment):
    run(
        "import sys; sys.argv = ['setup.py', 'build_ext', '--inplace']; exec(open('setup.py').read())",
        folder,
        **environment,
    )
    return folder / "madzoo" / "ops" / "kernels" / "_kernels.so"


def abi_version(path):
    return int(run(f"import ctypes; print(ctypes.CDLL({str(path)!r}).madzoo_abi_version())", path.parent))


def test_the_sdist_is_complete(checkout):
    made, _ = build("sdist", checkout)
    top = made.name.removesuffix(".tar.gz")
    with tarfile.open(made) as archive:
        inside = {name.removeprefix(f"{top}/") for name in archive.getnames()}
    csrc = {str(path.relative_to(ROOT)) for path in (ROOT / "madzoo/ops/kernels/csrc").glob("*.[ch]")}
    cards = {str(path.relative_to(ROOT)) for path in (ROOT / "model_cards").rglob("*") if path.is_file()}
    assert csrc | cards | set(PARTS) <= inside
    assert not [name for name in inside if name.startswith("tests")]


def test_without_a_compiler_the_wheel_is_for_any_platform(checkout):
    made, said = build("wheel", checkout, CC="/nonexistent")
    assert made.name.endswith("-py3-none-any.whl")
    assert said.count("were not built") == 1
    assert "install gcc or clang" in said
    inside = names(made)
    assert "madzoo/ops/kernels/library.py" in inside
    assert not [name for name in inside if name.endswith((".so", ".c", ".h"))]
    assert not [name for name in inside if ".data/" in name]


needs_compiler = pytest.mark.skipif(not shutil.which("cc") or sys.platform == "win32", reason="no compiler")


@needs_compiler
def test_with_a_compiler_the_wheel_is_for_every_python_of_this_platform(quick):
    made, said = build("wheel", quick)
    python, abi, platform = made.stem.split("-")[2:]
    assert (python, abi) == ("py3", "none")
    assert platform != "any"
    assert "were not built" not in said
    inside = names(made)
    assert "madzoo/ops/kernels/_kernels.so" in inside
    assert not [name for name in inside if name.endswith((".c", ".h")) or ".data/" in name]


@needs_compiler
def test_a_changed_header_compiles_anew(quick):
    assert abi_version(compile_in_place(quick)) == 41
    header = quick / "madzoo" / "ops" / "kernels" / "csrc" / "version.h"
    header.write_text("#define VERSION 42\n")
    later = header.stat().st_mtime + 10
    os.utime(header, (later, later))
    assert abi_version(compile_in_place(quick)) == 42


@needs_compiler
def test_a_failed_build_leaves_no_library_of_an_earlier_one(quick):
    made = compile_in_place(quick)
    assert made.is_file()
    (made.parent / "csrc" / "version.c").write_text("no C at all")
    assert not compile_in_place(quick).exists()
