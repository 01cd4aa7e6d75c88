"""Programs for elsewhere: torch.export equals eager, ONNX runs in onnxruntime."""

import pytest
import torch

import madzoo
from madzoo.ops import long_conv, selective_scan
from madzoo.ops.kernels.library import kernel_library

SMALL_VIM = {"depth": 1, "embed_dim": 32, "img_size": 28}  # 49 patches
DYNAMIC_BATCH = ({0: torch.export.Dim.DYNAMIC},)
# The exporters' own: deprecations inside onnxscript and torch.export, and advice.
EXPORTER_WARNINGS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


def run_onnx(module, args, path, **options):
    """Exports with the plain call a user types, and runs the file."""
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime", reason="running ONNX needs onnxruntime")
    program = torch.onnx.export(module, args, dynamo=True, verbose=False, **options)
    program.save(path)
    session = onnxruntime.InferenceSession(path)
    names = [entry.name for entry in session.get_inputs()]

    def run(*args):
        feed = dict(zip(names, (x.numpy() for x in args), strict=True))
        return [torch.from_numpy(y) for y in session.run(None, feed)]

    return run


def outputs_of_program_and_model(model, shape):
    """Exports from one batch; returns what program and model answer to that batch and to a larger one."""
    x = torch.randn(shape)
    program = torch.export.export(model, (x,), dynamic_shapes=DYNAMIC_BATCH).module()
    batches = [x, torch.randn(3, *shape[1:])]
    return [program(batch) for batch in batches], [model(batch) for batch in batches]


@pytest.mark.slow
@torch.no_grad()
@EXPORTER_WARNINGS
@pytest.mark.skipif(kernel_library() is None, reason="without compiled kernels a program writes every position out")
def test_torch_export_of_vim_tiny_equals_eager():
    torch.manual_seed(0)
    model = madzoo.create_model("vim_tiny_patch16_224").eval()
    torch.testing.assert_close(*outputs_of_program_and_model(model, (2, 3, 224, 224)), rtol=0, atol=1e-6)


@torch.no_grad()
@EXPORTER_WARNINGS
@pytest.mark.parametrize(
    ("name", "changes", "shape"),
    [
        ("vim_micro_patch4_32", {"depth": 1, "embed_dim": 16, "img_size": 12}, (2, 3, 12, 12)),
        ("patch_s4d_nano_512_96", {}, (2, 512, 3)),
    ],
)
def test_torch_export_equals_eager(name, changes, shape):
    torch.manual_seed(0)
    model = madzoo.create_model(name, **changes).eval()
    torch.testing.assert_close(*outputs_of_program_and_model(model, shape), rtol=0, atol=1e-6)


@EXPORTER_WARNINGS
@pytest.mark.parametrize(
    ("name", "channels"), [pytest.param("vim_micro_patch4_32", 3, marks=pytest.mark.slow), ("weft_micro_patch4_28", 1)]
)
def test_onnx_of_an_image_model(name, channels, tmp_path):
    torch.manual_seed(0)
    changes = SMALL_VIM if name.startswith("vim") else {"depth": 1}
    model = madzoo.create_model(name, **changes).eval()
    x = torch.randn(2, channels, 28, 28)
    run = run_onnx(model, (x,), tmp_path / "image.onnx", dynamic_shapes=DYNAMIC_BATCH)
    for batch in (x, torch.randn(3, channels, 28, 28)):
        torch.testing.assert_close(run(batch)[0], model(batch).detach(), rtol=0, atol=1e-4)


@torch.no_grad()
@EXPORTER_WARNINGS
def test_onnx_of_a_forecaster(tmp_path):
    torch.manual_seed(0)
    model = madzoo.create_model("patch_s4d_nano_512_96").eval()
    x = torch.randn(2, 512, 3).cumsum(1)
    x[0, 100:140, 1] = torch.nan
    run = run_onnx(model, (x,), tmp_path / "patch_s4d.onnx")
    torch.testing.assert_close(run(x)[0], model(x), rtol=0, atol=1e-4 * model(x).abs().max().item())


class Scan(torch.nn.Module):
    def forward(self, u, delta, A, B, C):
        forwards = selective_scan(u, delta, A, B, C, delta_softplus=True, return_last_state=True)
        return *forwards, *selective_scan(u, delta, A, B, C, return_last_state=True, reverse=True)


@EXPORTER_WARNINGS
def test_onnx_of_grouped_scans_in_both_directions(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = {"u": (2, 6, 17), "delta": (2, 6, 17), "A": (6, 4), "B": (2, 3, 4, 17), "C": (2, 3, 4, 17)}
    inputs = [torch.rand(shape, generator=generator) for shape in shapes.values()]
    inputs[2] = -inputs[2]
    outputs = run_onnx(Scan(), tuple(inputs), tmp_path / "scan.onnx")(*inputs)
    for output, expected in zip(outputs, Scan()(*inputs), strict=True):
        torch.testing.assert_close(output, expected)


class Convolution(torch.nn.Module):
    def forward(self, u, k):
        return long_conv(u, k), long_conv(u, k, reverse=True)


@EXPORTER_WARNINGS
@pytest.mark.parametrize("length", [50, 200])
def test_onnx_of_a_convolution_by_matrix_and_by_fft(tmp_path, length):
    u, k = torch.randn(2, 3, length), torch.randn(3, length)
    outputs = run_onnx(Convolution(), (u, k), tmp_path / "convolution.onnx")(u, k)
    for output, expected in zip(outputs, Convolution()(u, k), strict=True):
        # onnxruntime's Fourier transform of lengths that are no power of two is a few digits short.
        torch.testing.assert_close(
            output, expected, rtol=0, atol=(1e-6 if length < 128 else 1e-4) * expected.abs().max()
        )
