"""Published folders in other hands: timm's own loader, and hf_xet's transfer in place of LFS."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from hub.published import FORECASTER, IMAGE, PACKED, files_of, made
from hub_server import serve_hub
from huggingface_hub import constants

import madzoo
import madzoo.timm_registry
from madzoo.checkpoint.folder import find_bundled
from madzoo.errors import ConfigError
from madzoo.hub import push
from madzoo.hub.files import list_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def timms_hub(hub, monkeypatch):
    """Turns timm's requests to the Hub, too: it knows the address that huggingface_hub read at import."""
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    return hub


def pictures(model):
    return torch.rand(2, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "tag"), [(IMAGE, "cifar10"), (PACKED, "cifar10-int4")])
def test_timm_loads_it_from_the_hub(timms_hub, alice, tmp_path, name, tag):
    commit = push(find_bundled(name), "alice/weft").commit
    bundled = madzoo.create_model(name, pretrained=True).eval()
    x = pictures(bundled)
    with torch.no_grad():
        for repo in ("alice/weft", f"alice/weft@{commit}"):
            model = timm.create_model(f"hf-hub:{repo}", pretrained=True, cache_dir=tmp_path).eval()
            assert torch.equal(model(x), bundled(x))
            assert (model.pretrained_cfg["hf_hub_id"], model.pretrained_cfg["tag"]) == (repo, tag)
        assert not torch.equal(timm.create_model("hf-hub:alice/weft", cache_dir=tmp_path).eval()(x), bundled(x))
    cfg = timm.data.resolve_model_data_config(model)
    assert (cfg["input_size"], cfg["mean"]) == ((3, 32, 32), (0.4914, 0.4822, 0.4465))


def test_timm_changes_the_head(timms_hub, alice, tmp_path):
    push(find_bundled(IMAGE), "alice/weft")
    model = timm.create_model("hf-hub:alice/weft", pretrained=True, cache_dir=tmp_path, num_classes=3)
    assert model.get_classifier().out_features == 3


def test_timm_reads_the_folder_itself():
    bundled = madzoo.create_model(IMAGE, pretrained=True).eval()
    model = timm.create_model(f"local-dir:{find_bundled(IMAGE)}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(pictures(bundled)), bundled(pictures(bundled)))
    with pytest.raises(ConfigError, match="its own weights"):
        timm.create_model(
            f"local-dir:{find_bundled(IMAGE)}", pretrained=True, pretrained_cfg_overlay={"file": "other.safetensors"}
        )


def test_timm_has_no_forecasters(timms_hub, alice, tmp_path):
    push(find_bundled(FORECASTER), "alice/forecaster")
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model("hf-hub:alice/forecaster", pretrained=True, cache_dir=tmp_path)


TIMM = """
import sys, torch, madzoo
from madzoo._torchvision_shim import ensure_torchvision
ensure_torchvision()
import timm, madzoo.timm_registry
for repo, name in (pair.split("=") for pair in sys.argv[1:]):
    model = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
    bundled = madzoo.create_model(name, pretrained=True).eval()
    x = torch.rand(2, *bundled.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        print(torch.equal(model(x), bundled(x)), torch.equal(timm.create_model(f"hf-hub:{repo}").eval()(x), bundled(x)))
    cfg = timm.data.resolve_model_data_config(model)
    print(model.pretrained_cfg["hf_hub_id"], model.pretrained_cfg["tag"], cfg["input_size"], cfg["mean"])
    print(timm.create_model(f"hf-hub:{repo}", pretrained=True, num_classes=3).get_classifier().out_features)
"""


def run(script, *arguments, hub, home, **environment):
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=env, cwd=ROOT, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.slow
def test_timm_in_a_process_of_its_own(hub, alice, tmp_path):
    push(find_bundled(IMAGE), "alice/weft")
    push(find_bundled(PACKED), "alice/weft-small")
    told = run(
        TIMM, f"alice/weft={IMAGE}", f"alice/weft-small={PACKED}", hub=hub, home=tmp_path, HF_HUB_DISABLE_XET="1"
    )
    preparation = "(3, 32, 32) (0.4914, 0.4822, 0.4465)"
    assert told == [
        *("True False", f"alice/weft cifar10 {preparation}", "3"),
        *("True False", f"alice/weft-small cifar10-int4 {preparation}", "3"),
    ]


XET = """
import hashlib, sys, torch, madzoo
from pathlib import Path
from madzoo.hub import push
print(push(sys.argv[1], "alice/xet").bytes_uploaded, push(sys.argv[1], "alice/xet").bytes_uploaded)
model = madzoo.create_model("hf-hub:alice/xet", verify=True)
(path,) = Path(sys.argv[2]).glob("hub/models--alice--xet/snapshots/*/model.safetensors")
print(hashlib.sha256(path.read_bytes()).hexdigest() == model.pretrained_cfg["sha256"])
"""


def test_round_trip_by_xet(tmp_path):
    folder = made(tmp_path)
    with serve_hub(xet=True) as hub:
        for file in list_files(folder):
            hub.learn(file.sha256, file.path)
        told = run(XET, str(folder), str(tmp_path / "home"), hub=hub, home=tmp_path / "home", HF_TOKEN="hf_alice")
        size = sum(map(len, files_of(folder).values()))
        assert told == [f"{size} 0", "True"]
        assert not hub.seen("PUT", "/lfs-upload/")  # no large file went through the Hub
        assert hub.seen("GET", "/xet-write-token/")
        assert hub.leaks == set()
