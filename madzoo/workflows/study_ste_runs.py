"""The runs of the straight-through study on real pictures: trained in float, rounded after it, trained on rounded."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.quantization.plan import make_plan
from madzoo.quantization.qat import prepare_qat
from madzoo.quantization.qat_run import Qat
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.quantization.straight_through import find_estimator
from madzoo.quantization.tensor_kinds import is_delicate
from madzoo.workflows.study_ste_mismatch import gradient_mismatch
from madzoo.workflows.study_ste_networks import NETWORKS, evaluate_rows, train_rows
from madzoo.workflows.study_ste_protocol import Protocol

__all__ = ["Data", "State", "build", "run_float", "run_more", "run_qat"]

Data = Mapping[str, tuple[Tensor, Tensor]]
State = dict[str, Tensor]
MISMATCH_PICTURES = 200
MOMENTUM = 0.05  # of the oscillation frequency: an average over about 20 steps


def build(network: str, state: State | None = None, *, seed: int = 0) -> nn.Module:
    """Builds a network, with given weights or with those that a seed draws; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[network]()
    if state is not None:
        model.load_state_dict(state)
    return model


def run_float(network: str, seed: int, data: Data, protocol: Protocol) -> tuple[State, dict[str, Any]]:
    """Trains in float, and rounds the result at every width with every observer; returns weights and record."""
    start, model = time.process_time(), build(network, seed=seed)
    last = train_rows(
        model, data["train"], steps=protocol.steps, lr=protocol.lr, batch_size=protocol.batch_size, seed=seed
    )
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rounded = []
    for bits in protocol.ptq_bits:
        for observer in protocol.observers:
            twin = build(network, state)
            load_quantized(twin, quantize_weights(twin, make_plan(twin, bits), observer=observer))
            rounded.append({"bits": bits, "observer": observer} | _scores(twin, data))
    names = {"kind": "float", "network": network, "seed": seed}
    sizes = {"num_params": sum(p.numel() for p in model.parameters()), "train_loss": last}
    return state, names | sizes | _scores(model, data) | {"ptq": rounded, "cpu_seconds": _since(start)}


def run_more(network: str, seed: int, lr: float, state: State, data: Data, protocol: Protocol) -> dict[str, Any]:
    """Trains the float network for as many steps more as quantization-aware training takes, and rounds the result."""
    start, model = time.process_time(), build(network, state)
    last = _train_more(model, lr, seed, data, protocol)
    scores = _scores(model, data)
    rounded = []
    for bits in protocol.bits:
        twin = build(network, model.state_dict())
        load_quantized(twin, quantize_weights(twin, make_plan(twin, bits), observer=protocol.observer))
        rounded.append({"bits": bits, "observer": protocol.observer} | _scores(twin, data))
    names = {"kind": "more", "network": network, "seed": seed, "lr": lr}
    return names | {"train_loss": last} | scores | {"ptq": rounded, "cpu_seconds": _since(start)}


def run_qat(
    cell: tuple[str, int, str], seed: int, lr: float, state: State, data: Data, protocol: Protocol
) -> dict[str, Any]:
    """Trains on from the float weights in a cell (network, bits, estimator); measures the levels and the latents."""
    network, bits, estimator = cell
    start, model = time.process_time(), build(network, state)
    coarse = [name for name, p in model.named_parameters() if not is_delicate(name, p)]
    qat = prepare_qat(
        model,
        make_plan(model, bits),
        estimator=estimator,
        observer=protocol.observer,
        momentum=MOMENTUM,
        total_steps=None if find_estimator(estimator).rounds else protocol.more_steps,
    )
    middle: dict[str, float] = {}

    def on_step(step: int, loss: float) -> None:
        qat.on_step(step, loss)
        if step == protocol.more_steps // 2:
            middle.update(_restlessness(qat, coarse))

    last = _train_more(model, lr, seed, data, protocol, on_step=on_step)
    batch = (data["train"][0][:MISMATCH_PICTURES], data["train"][1][:MISMATCH_PICTURES])
    mismatch = gradient_mismatch(model, build(network), batch, directions=protocol.directions, seed=seed)
    found = {"train_loss": last, "mismatch": mismatch, "middle": middle, "end": _restlessness(qat, coarse)}
    qat.finish()
    names = {"kind": "qat", "network": network, "seed": seed, "bits": bits, "estimator": estimator, "lr": lr}
    return names | found | _scores(model, data) | {"cpu_seconds": _since(start)}


def _restlessness(qat: Qat, names: Sequence[str]) -> dict[str, float]:
    """Averages what the oscillation record says of some tensors over their elements."""
    measured = qat.oscillation().tensors
    tensors = [measured[name] for name in names]
    total = sum(tensor.count for tensor in tensors)
    return {
        key: sum(tensor.count * getattr(tensor, key) for tensor in tensors) / total
        for key in ("fraction", "frequency", "distance")
    }


def _train_more(
    model: nn.Module,
    lr: float,
    seed: int,
    data: Data,
    protocol: Protocol,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    return train_rows(
        model,
        data["train"],
        steps=protocol.more_steps,
        lr=lr,
        batch_size=protocol.batch_size,
        seed=1000 + seed,
        on_step=on_step,
    )


def _scores(model: nn.Module, data: Data) -> dict[str, Any]:
    return {part: evaluate_rows(model, data[part]) for part in ("held_out", "test")}


def _since(start: float) -> float:
    return round(time.process_time() - start, 2)
