"""Checks an installed wheel from outside the checkout: its tag, its kernels, its assets, its models, replayed."""

import sys
import tarfile
from pathlib import Path

import torch

import madzoo
from madzoo.checkpoint.folder import bundled_root
from madzoo.ops import selective_scan
from madzoo.ops.kernels.library import kernel_status

dist, site = (Path(argument).resolve() for argument in sys.argv[1:])
package = Path(madzoo.__file__).resolve().parent
assert package == site / "madzoo", f"imported {package}, not the wheel in {site}"
assert bundled_root() == package / "model_cards", f"bundled folders are looked for in {bundled_root()}"
assert (package / "assets" / "LICENSES.md").is_file(), "the assets are missing"

(wheel,) = dist.glob("madzoo-*.whl")
python, abi, platform = wheel.stem.split("-")[2:]
assert (python, abi) == ("py3", "none"), f"{wheel.name} is for one Python only"
assert platform != "any", f"{wheel.name} has no kernels"
pages = {path.name for path in (package / "assets" / "leaderboard").iterdir()}
assert {"page.css", "index.js", "theme.js", "base.html.j2", "index.html.j2", "model.html.j2"} <= pages, f"found {pages}"
kernels = kernel_status()
assert kernels.path == str(package / "ops" / "kernels" / "_kernels.so"), f"the wheel's kernels do not serve: {kernels}"
u, states = torch.rand(2, 5, 7), torch.rand(2, 3, 7)
inputs = (u, u, -torch.rand(5, 3), states, states)
torch.testing.assert_close(selective_scan(*inputs, backend="cpu"), selective_scan(*inputs, backend="reference"))
assert not list(package.rglob("*.c")), "the wheel carries sources"

(source,) = dist.glob("madzoo-*.tar.gz")
with tarfile.open(source) as archive:
    inside = archive.getnames()
assert any(name.endswith("/csrc/dispatch.c") for name in inside), "the sdist lacks the kernels' sources"
assert not any("/tests/" in name for name in inside), "the sdist carries half of the tests"

names = sorted(path.name for path in bundled_root().iterdir() if path.is_dir())
assert names, "no bundled model"
for name in names:
    madzoo.create_model(name, pretrained=True, verify=True)
    assert (bundled_root() / name / "README.md").is_file(), f"{name} has no card"
print(f"{wheel.name}, kernels on {kernels.isa}: {len(names)} bundled models replayed: {', '.join(names)}")
