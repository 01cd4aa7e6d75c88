"""Builds the compiled kernels: one shared library with a C ABI, optional, without a word of Python inside.

What the package is stands in ``pyproject.toml``. The library is no extension module: ``madzoo.ops.kernels.library``
loads it with ctypes, so one wheel serves every Python and every torch on its platform, and the tag says so.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError
from setuptools.modified import newer_group

CSRC = Path("madzoo/ops/kernels/csrc")
# No -march: every source names its instruction set itself, and the choice is made where the library runs.
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-pthread",
]


class BuildKernels(build_ext):
    """Compiles each source whose object is older than itself or than a header, and links one ``_kernels.so``."""

    def get_ext_filename(self, fullname: str) -> str:
        """Names the file without the version of Python that a module would carry."""
        return os.path.join(*fullname.split(".")) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Returns none: the sources mark what they export."""
        return []

    def build_extension(self, ext: Extension) -> None:
        """Builds the library, or says in one warning why there is none."""
        target = Path(self.get_ext_fullpath(ext.name))
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(pool.map(lambda source: self._compile(ext, source), sorted(ext.sources)))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.compiler.link_shared_object(objects, str(target), extra_postargs=ext.extra_link_args, target_lang="c")
        except (CCompilerError, BaseError, OSError) as error:
            self._go_without(target, error)

    def _compile(self, ext: Extension, source: str) -> str:
        (out,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
        if self.force or newer_group([source, *ext.depends], out, "newer"):
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            self.compiler.compile([source], output_dir=self.build_temp, extra_postargs=ext.extra_compile_args)
        return out

    def _go_without(self, target: Path, error: Exception) -> None:
        # A library of an earlier build would not be what the sources say.
        target.unlink(missing_ok=True)
        (CSRC.parent / target.name).unlink(missing_ok=True)
        self.extensions = []
        self.distribution.ext_modules = []
        self.warn(
            f"the compiled kernels of madzoo were not built ({error}). The package works without them, slower: "
            "install gcc or clang, then install madzoo again, to have them."
        )


class PlatformWheel(bdist_wheel):
    """Tags the wheel for every Python 3: ``py3-none-<platform>`` with the kernels inside, ``py3-none-any`` without."""

    def run(self) -> None:
        """Builds first, because only then it is known whether there are kernels."""
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Returns (Python, ABI, platform)."""
        platform = super().get_tag()[2]
        return self.python_tag, "none", platform


kernels = Extension(
    "madzoo.ops.kernels._kernels",
    sources=sorted(str(path) for path in CSRC.glob("*.c")),
    depends=["setup.py", *sorted(str(path) for path in CSRC.glob("*.h"))],
    extra_compile_args=FLAGS,
    extra_link_args=["-pthread"],
    optional=True,
)

setup(
    # The sources speak the dialect of gcc and clang; elsewhere PyTorch's operators serve.
    ext_modules=[] if sys.platform == "win32" else [kernels],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
