"""The record of the machine: it says what serves and why, with and without kernels and GPU packages."""

import json
import platform

import pytest
import torch

from madzoo.ops.kernels import selective_scan_gpu
from madzoo.ops.kernels.library import KernelStatus
from madzoo.workflows import system
from madzoo.workflows.system import system_record


def test_it_is_plain_json():
    found = system_record().to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["cpu"]["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("kernels", "backend", "why"),
    [
        (KernelStatus(available=False, reason="never built"), "torch", "never built"),
        (KernelStatus(available=True, isa="avx2", threads_by="own threads"), "cpu", "avx2, on own threads"),
    ],
)
def test_it_says_what_serves_on_the_cpu(monkeypatch, kernels, backend, why):
    monkeypatch.setattr(system, "kernel_status", lambda: kernels)
    found = system_record().scan["cpu"]
    assert found["backend"] == backend
    assert why in found["why"]


@pytest.mark.parametrize(
    ("lacking", "backend", "why"),
    [
        ({}, "triton", "triton 1.0"),  # layers pass channel-last memory, which the published kernel would copy
        ({"triton": "a machine without triton"}, "mamba_ssm", "mamba_ssm 1.0"),
        ({"triton": "no triton", "mamba_ssm": "no CUDA part"}, "torch", "no CUDA part; no triton"),
    ],
)
def test_it_says_what_serves_on_a_gpu(monkeypatch, lacking, backend, why):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(system, "_version", lambda name: "1.0")
    for module in (system, selective_scan_gpu):
        monkeypatch.setattr(module, "why_not_cuda", lambda *inputs: lacking.get("mamba_ssm"))
        monkeypatch.setattr(module, "why_not_triton", lambda *inputs: lacking.get("triton"))
    found = system_record()
    assert found.gpus == ("GPU 0",)
    assert found.scan["cuda"]["backend"] == backend
    assert why in found.scan["cuda"]["why"]


def test_it_needs_no_list_of_flags(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "CPUINFO", tmp_path / "none")
    assert system_record().cpu["flags"] == []
    (tmp_path / "arm").write_text("processor : 0\nFeatures\t: fp asimd sve\n")
    monkeypatch.setattr(system, "CPUINFO", tmp_path / "arm")
    assert system_record().cpu["flags"] == ["asimd", "sve"]
