"""Pulls that are killed, that meet in one cache, that find the disk full, or that go by xet: processes of their own."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
from forks import FORKS, run_forked
from hub import tiny_repository
from hub.puller import hashes, pull_and_tell, pull_on_a_full_disk
from hub.tiny_repository import REPO
from hub_server import serve_hub

from madzoo.hub.pull import pull

WIDTH = 20_000  # half a megabyte: a download that takes a while
SLOW = {"times": None, "delay": 0.004, "chunk": 1 << 13}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_repository.made(tmp_path_factory.mktemp("made") / "tiny", width=WIDTH)


def begun(hub, cache, count=1):
    """Starts pulls that begin at once, and returns their processes."""
    start, processes = FORKS.Event(), []
    for _ in range(count):
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=pull_and_tell, args=(hub.url, REPO, cache, theirs, start))
        process.start()
        processes.append((process, ours))
    assert all(ours.poll(60) and ours.recv() for _, ours in processes)
    start.set()
    return [process for process, _ in processes]


def kill_and_pull_again(hub, files, cache, number, delay):
    """Kills a pull some seconds after its n-th GET, pulls again, and returns what lay there half-fetched."""
    hub.push(REPO, files)
    hub.fail("GET", "/", "slow", **SLOW)
    (process,) = begun(hub, cache)
    while hub.seen("GET", "/") < number and process.is_alive():
        time.sleep(0.002)
    process.join(delay)
    process.kill()
    process.join()
    parts = [path.stat().st_size for path in cache.rglob("*.incomplete")]
    hub.faults.clear()
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == files
    assert not list(cache.rglob("*.incomplete"))
    hub.clear()
    return sum(parts)


def moments(count):
    """Returns numbers of requests (eleven of a pull bring bytes) and seconds (the weights take half a second)."""
    draws = [random.Random(seed) for seed in range(count)]
    return [(draw.randint(1, 11), draw.uniform(0.0, 0.3)) for draw in draws]


def test_killed_pull_is_pulled_again(hub, files, tmp_path):
    chosen = [(1, 0.0), (5, 0.02), (10, 0.15)]  # at the list, near the plot, in the middle of the weights
    parts = [kill_and_pull_again(hub, files, tmp_path / str(n), *moment) for n, moment in enumerate(chosen)]
    assert parts[2] > 0


@pytest.mark.slow
def test_pull_killed_at_twenty_moments_is_pulled_again(hub, files, tmp_path):
    parts = [kill_and_pull_again(hub, files, tmp_path / str(n), *moment) for n, moment in enumerate(moments(20))]
    assert sum(part > 0 for part in parts) >= 3


def test_four_processes_pull_into_one_cache_and_each_file_once(hub, files, tmp_path):
    commit = hub.push(REPO, files)
    hub.fail("GET", "/", "slow", **SLOW)
    processes = begun(hub, tmp_path / "cache", count=4)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    told = [json.loads(path.read_text()) for path in tmp_path.glob("cache-*.json")]
    entries = hub.store.repository(REPO).files(commit)
    assert told == [{name: entry.sha256 for name, entry in entries.items()}] * 4
    fetched = [path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert sorted(fetched) == sorted(f"/{REPO}/resolve/{commit}/{name}" for name in files)


def test_damage_that_four_processes_find_is_repaired_once(hub, files, tmp_path):
    hub.push(REPO, files)
    folder = pull(REPO, cache_dir=tmp_path / "cache")
    (folder / "model.safetensors").write_bytes(b"~" * len(files["model.safetensors"]))
    hub.requests.clear()
    processes = begun(hub, tmp_path / "cache", count=4)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert tiny_repository.read(folder) == files
    assert hub.seen("GET", "/resolve/") == 1


def test_full_disk_is_named(hub, files, tmp_path):
    hub.push(REPO, files)
    cache = tmp_path / "cache"
    ran = run_forked(pull_on_a_full_disk, hub.url, REPO, cache, 100_000, said=tmp_path / "said")
    assert ran.stdout.startswith("DownloadError model.safetensors could not be fetched: the disk is full")
    assert "try: make room, or cache_dir=FOLDER" in ran.stdout
    assert hub.seen("GET", "/lfs/alice/tiny") <= 3  # not tried again and again
    assert not list(cache.rglob("*.incomplete"))
    assert tiny_repository.read(pull(REPO, cache_dir=cache)) == files


@pytest.mark.parametrize("store", ["whole", pytest.param("empty", marks=pytest.mark.slow)])
def test_xet_brings_the_right_bytes_or_plain_http_does(files, tmp_path, store):
    pytest.importorskip("hf_xet")
    folder = tmp_path / "folder"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with serve_hub(xet=True) as hub:
        hub.push(REPO, files if store == "empty" else {})
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_alice"}
        upload = f"from huggingface_hub import HfApi; HfApi().upload_folder(repo_id='{REPO}', folder_path='{folder}')"
        if store == "whole":
            for name in (name for name in files if name.endswith((".safetensors", ".png"))):
                hub.learn(hashes(folder)[name], folder / name)
            run(upload, env)
        commit = hub.branch(REPO)
        assert run(f"from madzoo.hub.pull import pull; print(pull('{REPO}'))", env).endswith(commit)
        (pulled,) = (tmp_path / "home" / "hub").glob("models--*/snapshots/*")
        assert tiny_repository.read(pulled) == files
        assert hub.seen("GET", "/xet-read-token/")
        assert hub.seen("GET", "/lfs/") == (3 if store == "empty" else 0)


def run(script, env):
    """Returns what a Python of its own prints, in which xet is not switched off."""
    env |= {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=90)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()
