"""Checks an installed wheel from outside the checkout: its version, its assets, and every bundled model, replayed."""

import sys
from pathlib import Path

import madzoo
from madzoo.checkpoint.folder import bundled_root

site = Path(sys.argv[1]).resolve()
package = Path(madzoo.__file__).resolve().parent
assert package == site / "madzoo", f"imported {package}, not the wheel in {site}"
assert bundled_root() == package / "model_cards", f"bundled folders are looked for in {bundled_root()}"
assert (package / "assets" / "LICENSES.md").is_file(), "the assets are missing"

names = sorted(path.name for path in bundled_root().iterdir() if path.is_dir())
assert names, "no bundled model"
for name in names:
    madzoo.create_model(name, pretrained=True, verify=True)
    assert (bundled_root() / name / "README.md").is_file(), f"{name} has no card"
print(f"wheel of madzoo {madzoo.__version__}: {len(names)} bundled models replayed: {', '.join(names)}")
