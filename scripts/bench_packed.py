"""Measures packed checkpoints: their sizes, how long they load, and whether integer products would be quicker.

Run it as ``python scripts/bench_packed.py``, with OMP_NUM_THREADS=1; it needs no data. For each different linear layer
of a model it times, in turns on one thread, the float32 product, torch's dynamic int8 product (activations rounded in
each call) and ``torch._int_mm`` with the same rounding around it. Models load from float and packed files in turns.
Last come the sizes of all bundled checkpoints, whole files over the float file.
"""

import copy
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.checkpoint.folder import find_bundled
from madzoo.factory import create_model, list_models
from madzoo.quantization.plan import make_plan
from madzoo.quantization.quantized import load_quantized, quantize_weights
from madzoo.workflows.quantize_folder import PackedFolder, write_packed
from madzoo.workflows.timing import medians, time_in_turns

MODELS = ("weft_micro_patch4_28.fashion_mnist", "patch_s4d_nano_512_96.etth1", "season_s4d_base_1008_192.zeroshot")
BATCH, ROUNDS, REPEATS = 4, 30, 10


def example(model: Any) -> Tensor:
    """Returns inputs that the model takes."""
    if model.task == "image-classification":
        return torch.randn(BATCH, model.config.in_chans, model.config.img_size, model.config.img_size)
    return torch.randn(BATCH, model.context_length, model.num_channels or 1)


def linear_shapes(model: nn.Module, x: Tensor) -> Counter[tuple[int, int, int]]:
    """Counts the products of one forward pass by (rows, inputs, outputs)."""
    found: Counter[tuple[int, int, int]] = Counter()

    def note(module: Any, inputs: tuple[Tensor, ...]) -> None:
        found[inputs[0].numel() // module.in_features, module.in_features, module.out_features] += 1

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    """Returns a call that does it several times, so that a clock can tell."""

    def calls() -> None:
        for _ in range(REPEATS):
            call()

    return calls


def products(rows: int, inputs: int, outputs: int) -> dict[str, Callable[[], object]]:
    """Returns the three products of one shape."""
    x, layer = torch.randn(rows, inputs), nn.Linear(inputs, outputs)
    with warnings.catch_warnings(action="ignore"):  # torch announces that torchao takes over from it
        dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
    scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
    codes = (layer.weight.detach() / scale).round().to(torch.int8).T.contiguous()

    def integer() -> Tensor:
        unit = x.abs().amax(1, keepdim=True) / 127
        product = torch.ops.aten._int_mm((x / unit).round().to(torch.int8), codes)
        return product * unit * scale.T + layer.bias

    return {"float32": lambda: F.linear(x, layer.weight, layer.bias), "dynamic": lambda: dynamic(x), "_int_mm": integer}


def write_rounded(model: Any, bits: int, place: Path) -> tuple[int, int]:
    """Writes a model, rounded to nearest, as a packed folder; returns the bytes of the float file and of the packed."""
    twin = copy.deepcopy(model)
    weights = quantize_weights(twin, make_plan(twin, bits, kind="ternary" if bits == 2 else "uniform"))
    name = model.madzoo_name
    folder = PackedFolder(path=place, name=f"{name}-int{bits}", start=name, method="rtn", bits=bits, command="")
    return write_packed(folder, load_quantized(twin, weights), weights, like=model, example=example(model))


def load_times(name: str) -> dict[str, float]:
    """Returns seconds to create a model from its float file, and from int8 and int4 files."""
    model: Any = create_model(name, pretrained=True).eval()
    with tempfile.TemporaryDirectory() as place:
        calls: dict[str, Callable[[], object]] = {"float32": lambda: create_model(name, pretrained=True)}
        for bits in (8, 4):
            path = Path(place) / str(bits)
            write_rounded(model, bits, path)
            calls[f"int{bits}"] = lambda path=path: create_model(f"local-dir:{path}")
        return medians(time_in_turns(calls, rounds=9))


def size_ratios(name: str) -> list[float]:
    """Returns the packed file over the float file at 8, 4 and 2 bits."""
    model = create_model(name, pretrained=True).eval()
    with tempfile.TemporaryDirectory() as place:
        sizes = [write_rounded(model, bits, Path(place) / str(bits)) for bits in (8, 4, 2)]
    return [packed / floats for floats, packed in sizes]


@torch.inference_mode()
def main() -> None:
    """Prints a table of products, one of loading and one of sizes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table("model", "rows x in x out", "count", "float32, us", "dynamic int8", "_int_mm", title="products")
    for name in MODELS:
        model: Any = create_model(name, pretrained=True).eval()
        for shape, count in sorted(linear_shapes(model, example(model)).items()):
            calls = {kind: repeated(call) for kind, call in products(*shape).items()}
            found = medians(time_in_turns(calls, rounds=ROUNDS))
            base = found["float32"]
            ratios = [f"{found[kind] / base:.2f}x" for kind in ("dynamic", "_int_mm")]
            table.add_row(name, " x ".join(map(str, shape)), str(count), f"{1e6 * base / REPEATS:.1f}", *ratios)
    loading = Table("model", "float32, ms", "int8", "int4", title="create_model(pretrained=True)")
    for name in MODELS:
        found = load_times(name)
        loading.add_row(name, *(f"{1000 * found[kind]:.1f}" for kind in ("float32", "int8", "int4")))
    console = Console(width=140)
    console.print(table, loading)
    sizes = Table("checkpoint", "parameters", "int8", "int4", "ternary", title="size of the file over float32")
    for name in filter(find_bundled, list_models(pretrained=True)):
        count = sum(p.numel() for p in create_model(name).parameters())
        sizes.add_row(name, f"{count:,}", *(f"{ratio:.3f}" for ratio in size_ratios(name)))
    console.print(sizes)


if __name__ == "__main__":
    main()
