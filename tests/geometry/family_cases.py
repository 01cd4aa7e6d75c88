"""Every layer and family that declares symmetries, as small as it can be: name -> (build, sample, gap).

The gap is upper bound less measured local dimension: 0 where all symmetries are known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from madzoo.layers import S4D, S5, Hydra, Mamba, Mamba2
from madzoo.layers.delta_net import DeltaNet
from madzoo.layers.linoss import LinOSS
from madzoo.layers.long_conv import LongConv
from madzoo.layers.mamba3 import Mamba3
from madzoo.layers.mamba_plus import MambaPlus
from madzoo.layers.plain_mamba import PlainMamba2D
from madzoo.layers.s4 import S4Block
from madzoo.layers.s4_kernels import S4KernelConfig
from madzoo.layers.s4nd import S4ND
from madzoo.layers.ss2d import SS2D
from madzoo.layers.symmetric_mixer import SymmetricMixer
from madzoo.layers.windows import WindowAttention
from madzoo.models.image.s4 import S4Classifier, S4Config
from madzoo.models.image.s4nd import S4NDClassifier, S4NDConfig
from madzoo.models.image.vim import Vim, VimConfig
from madzoo.models.image.weft import Weft, WeftConfig
from madzoo.models.series.bi_mamba_plus import BiMambaPlus, BiMambaPlusConfig
from madzoo.models.series.dlinear import DLinear, DLinearConfig
from madzoo.models.series.flowstate import FlowState, FlowStateConfig
from madzoo.models.series.itransformer import ITransformer, ITransformerConfig
from madzoo.models.series.linoss import LinOSSConfig, LinOSSForecaster
from madzoo.models.series.longconv_delta import LongConvDelta, LongConvDeltaConfig
from madzoo.models.series.patch_mamba import PatchMamba, PatchMambaConfig
from madzoo.models.series.patch_s4d import PatchS4D, PatchS4DConfig
from madzoo.models.series.patchtst import PatchTST, PatchTSTConfig
from madzoo.models.series.rlinear import RLinear, RLinearConfig
from madzoo.models.series.season_s4d import SeasonS4D, SeasonS4DConfig

__all__ = ["FAMILIES", "LAYERS", "FamilyCase", "draw_family"]

LEVELS = (0.2, 0.8)
STEPS: dict[str, Any] = {"dt_min": 0.1, "dt_max": 0.5}
MAMBA: dict[str, Any] = {"expand": 4 / 3, "d_state": 2, "d_conv": 2, "dt_rank": 1}
MAMBA2: dict[str, Any] = {"d_state": 2, "headdim": 2, "d_conv": 2}
PATCHES: dict[str, Any] = {
    "context_length": 20, "prediction_length": 3, "patch_size": 4, "patch_stride": 4, "d_model": 4, "depth": 1,
    "expand": 1, "quantile_levels": LEVELS,
}  # fmt: skip
PIXELS: dict[str, Any] = {
    "img_size": 4, "in_chans": 2, "num_classes": 3, "depth": 2, "embed_dim": 3, "d_state": 4, "mode": "diag",
    "init": "diag-lin", "n_ssm": None, **STEPS,
}  # fmt: skip


class FamilyCase(NamedTuple):
    """Says what is built, on which sample (Gaussian; a share of it missing), and how much stays unexplained."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    missing: float = 0.0
    gap: int = 0
    slow: bool = False


def draw_family(case: FamilyCase, seed: int) -> tuple[nn.Module, Tensor]:
    """Builds the case at generic parameters and statistics, in float64, and its sample."""
    torch.manual_seed(2 * seed)
    model = case.build().double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_diag"):  # of oscillators, which a negative one would stop
                parameter.add_(0.5)
                continue
            size = float(parameter.square().mean().sqrt()) or 0.3
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
            parameter.add_(0.3 * max(size, 0.3) * torch.randn_like(parameter))
            if "dt" in name and name.endswith("bias") and float(parameter.mean()) < -2:
                parameter.add_(2.5)  # steps long enough for every rate to show
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand_like(buffer))
    torch.manual_seed(2 * seed + 1)
    x = torch.randn(case.shape, dtype=torch.float64)
    return model, torch.where(torch.rand(case.shape) < case.missing, torch.nan, x)


def _s4nd(**options: Any) -> S4ND:
    return S4ND(S4KernelConfig(d_state=4, **STEPS, **options), 3, l_max=(None, None))


def _weft(**options: Any) -> Weft:
    sizes = {"img_size": 8, "in_chans": 1, "num_classes": 4, "embed_dim": 4, "depth": 1, "dt_rank": 1, "mlp_ratio": 1.0}
    return Weft(WeftConfig(**sizes, d_state=2, **options))


def _vim() -> Vim:
    sizes = {"img_size": 8, "patch_size": 4, "stride": 4, "in_chans": 1, "num_classes": 4, "depth": 1, "embed_dim": 4}
    # Of one block a single token would see no gate but a constant one.
    return Vim(VimConfig(**sizes, d_state=2, d_conv=2, expand=1, global_pool="avg"))


def _s4nd_vit() -> S4NDClassifier:
    sizes = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "depth": 1, "embed_dim": 3, "d_state": 2}
    return S4NDClassifier(S4NDConfig(**sizes, l_max=6, mlp_ratio=1.0, axes=1))


def _season() -> SeasonS4D:
    sizes = {**PATCHES, "context_length": 32, "bottleneck": 3, "linear_skip": False, "final_norm": False}
    flags = {"last_value_gate": True, "sign_average": True, "mean_anchors": True}
    return SeasonS4D(SeasonS4DConfig(**sizes, **flags, d_state=2, **STEPS))


def _bi_mamba_plus() -> BiMambaPlus:
    patches = {"context_length": 16, "prediction_length": 3, "patch_size": 4, "patch_stride": 2}
    sizes = {"d_model": 4, "d_ff": 3, "d_state": 1, "depth": 1, "bidirectional": False, "mix_channels": False}
    return BiMambaPlus(BiMambaPlusConfig(**patches, **sizes))


def _flowstate() -> FlowState:
    sizes = {"d_model": 3, "depth": 1, "d_state": 4, "state_blocks": 1, "expand": 1, "num_functions": 2, **STEPS}
    return FlowState(FlowStateConfig(context_length=12, prediction_length=3, quantile_levels=LEVELS, **sizes))


def _longconv_delta(patch_size: int, depth: int) -> LongConvDelta:
    sizes = {"patch_size": patch_size, "d_model": 4, "depth": depth, "expand": 1, "num_heads": 2}
    return LongConvDelta(LongConvDeltaConfig(context_length=8, prediction_length=3, quantile_levels=LEVELS, **sizes))


def _patch_s4d(**changes: Any) -> PatchS4D:
    return PatchS4D(PatchS4DConfig(**{**PATCHES, "d_state": 2, **STEPS, **changes}))


# A DPLR system of N pairs has 8 N numbers and a step for the 4 N that its response shows. Known are the unit of time,
# that of the states, and N phases; 3 N - 1 are left: what commutes with the state matrix, and what keeps its spectrum.
LAYERS = {
    "mamba": FamilyCase(lambda: Mamba(3, **MAMBA), (12, 7, 3)),
    "mamba_bias": FamilyCase(lambda: Mamba(4, expand=1, d_state=3, d_conv=2, dt_rank=2, bias=True), (20, 7, 4)),
    "mamba_plus": FamilyCase(lambda: MambaPlus(3, **MAMBA), (12, 7, 3)),
    "mamba2": FamilyCase(lambda: Mamba2(3, expand=4 / 3, **MAMBA2), (15, 7, 3)),
    "mamba2_mlp": FamilyCase(lambda: Mamba2(3, expand=2, d_ssm=4, bias=True, **MAMBA2), (15, 7, 3)),
    "mamba3": FamilyCase(lambda: Mamba3(6, d_state=4, headdim=2, expand=4 / 6), (18, 7, 6), slow=True),
    "mamba3_norm": FamilyCase(
        lambda: Mamba3(6, d_state=4, headdim=2, expand=4 / 6, is_outproj_norm=True), (18, 7, 6), slow=True
    ),
    "hydra": FamilyCase(lambda: Hydra(3, d_state=2, headdim=2, expand=4 / 3, d_conv=3), (16, 7, 3)),
    "hydra_bias": FamilyCase(
        lambda: Hydra(3, d_state=2, headdim=2, expand=4 / 3, d_conv=3, bias=True, learnable_init_states=True),
        (20, 7, 3),
        slow=True,
    ),
    "s4d": FamilyCase(lambda: S4D(3, d_state=4, **STEPS), (6, 40, 3)),
    "s4_diag": FamilyCase(lambda: S4Block(3, d_state=4, **STEPS), (9, 14, 3)),
    "s4_shared": FamilyCase(
        lambda: S4Block(
            4, d_state=4, n_ssm=2, bidirectional=True, disc="bilinear", dt_transform="softplus", final_act="id", **STEPS
        ),
        (9, 14, 4),
    ),
    "s4_dplr": FamilyCase(lambda: S4Block(2, d_state=4, mode="dplr", final_act="id", **STEPS), (9, 14, 2), gap=10),
    "s4_dplr_shared": FamilyCase(
        lambda: S4Block(4, d_state=4, mode="dplr", n_ssm=1, final_act="id", l_max=12, **STEPS), (9, 12, 4), gap=5
    ),
    "s4nd": FamilyCase(lambda: _s4nd(mode="diag"), (4, 9, 9, 3), slow=True),
    "s4nd_dplr": FamilyCase(lambda: _s4nd(mode="dplr", n_ssm=1), (4, 9, 9, 3), gap=10, slow=True),
    "s5": FamilyCase(lambda: S5(2, d_state=6, blocks=1, dt_min=0.1, dt_max=1.0), (6, 20, 2)),
    "s5_clipped": FamilyCase(
        lambda: S5(2, d_state=6, blocks=1, dt_min=0.1, dt_max=1.0, bidirectional=True, clip_eigs=True), (6, 20, 2)
    ),
    "linoss": FamilyCase(lambda: LinOSS(2, d_state=3), (6, 20, 2)),
    "ss2d": FamilyCase(lambda: SS2D(3, d_state=2, dt_rank=1, ssm_ratio=4 / 3), (16, 3, 4, 3), slow=True),
    "ss2d_ungated": FamilyCase(
        lambda: SS2D(3, d_state=1, dt_rank=1, ssm_ratio=4 / 3, forward_type="v05_noz", conv_bias=False),
        (16, 3, 4, 3),
        slow=True,
    ),
    "ss2d_ssd": FamilyCase(
        lambda: SS2D(3, d_state=1, dt_rank=2, ssm_ratio=2, forward_type="m0_noz", initialize="v2"),
        (20, 3, 4, 3),
        slow=True,
    ),
    "plain_mamba": FamilyCase(
        lambda: PlainMamba2D(3, d_state=2, dt_rank=1, expand=4 / 3, d_conv=3, bias=True, init_layer_scale=0.5),
        (16, 4, 3, 3),
        slow=True,
    ),
    "symmetric_mixer": FamilyCase(lambda: SymmetricMixer(6, d_state=2, dt_rank=1), (16, 12, 6), slow=True),
    "delta_net": FamilyCase(lambda: DeltaNet(4, num_heads=2, d_conv=2), (10, 8, 4)),
    "long_conv": FamilyCase(lambda: LongConv(3, kernel_size=5, d_conv=2), (8, 8, 3)),
    "attention": FamilyCase(lambda: WindowAttention(4, 2), (12, 6, 4)),
}

FAMILIES = {
    "vim": FamilyCase(_vim, (140, 1, 8, 8)),
    "weft": FamilyCase(_weft, (260, 1, 8, 8), slow=True),
    "s4_postnorm": FamilyCase(lambda: S4Classifier(S4Config(**PIXELS, final_act="id")), (150, 2, 4, 4), slow=True),
    "s4_prenorm": FamilyCase(lambda: S4Classifier(S4Config(**PIXELS, prenorm=True)), (200, 2, 4, 4), slow=True),
    "s4_batchnorm": FamilyCase(
        lambda: S4Classifier(S4Config(**PIXELS, final_act="id", norm_layer="batchnorm")), (150, 2, 4, 4), slow=True
    ),
    "s4_prenorm_batchnorm": FamilyCase(
        lambda: S4Classifier(S4Config(**PIXELS, prenorm=True, norm_layer="batchnorm")), (250, 2, 4, 4), slow=True
    ),
    "s4nd_vit": FamilyCase(_s4nd_vit, (250, 1, 8, 8), gap=2, slow=True),  # one system of one pair: see above
    "patch_s4d": FamilyCase(_patch_s4d, (110, 20, 1), 0.25, slow=True),
    "patch_s4d_gate": FamilyCase(
        lambda: _patch_s4d(bottleneck=3, last_value_gate=True, final_norm=False), (110, 20, 1), 0.25, slow=True
    ),
    "patch_s4d_short": FamilyCase(
        lambda: _patch_s4d(patch_size=7, patch_stride=7, d_model=2, d_state=4), (50, 20, 1), 0.25
    ),
    "patch_mamba2": FamilyCase(
        lambda: PatchMamba(PatchMambaConfig(**PATCHES, mixer="mamba2", **MAMBA2, bottleneck=3, final_norm=False)),
        (110, 20, 1),
        0.25,
        slow=True,
    ),
    "patchtst": FamilyCase(lambda: PatchTST(PatchTSTConfig(**PATCHES, num_heads=2)), (70, 20, 1), 0.25),
    "linoss": FamilyCase(lambda: LinOSSForecaster(LinOSSConfig(**PATCHES, d_state=2)), (110, 20, 1), 0.25, slow=True),
    "season_s4d": FamilyCase(_season, (140, 32, 1), 0.25, slow=True),
    "itransformer": FamilyCase(
        lambda: ITransformer(
            ITransformerConfig(
                context_length=8, prediction_length=3, d_model=4, d_ff=3, num_heads=2, quantile_levels=LEVELS
            )
        ),
        (50, 8, 3),
        0.25,
        slow=True,
    ),
    "bi_mamba_plus": FamilyCase(_bi_mamba_plus, (60, 16, 3), slow=True),
    "dlinear": FamilyCase(
        lambda: DLinear(DLinearConfig(context_length=8, prediction_length=3, kernel_size=3)), (30, 8, 1), 0.25
    ),
    "dlinear_raw": FamilyCase(
        lambda: DLinear(DLinearConfig(context_length=8, prediction_length=3, kernel_size=5, instance_norm=False)),
        (30, 8, 1),
        0.25,
    ),
    "rlinear": FamilyCase(lambda: RLinear(RLinearConfig(context_length=8, prediction_length=3)), (30, 8, 1), 0.25),
    "rlinear_affine": FamilyCase(
        lambda: RLinear(RLinearConfig(context_length=8, prediction_length=3, affine_channels=1)), (30, 8, 1), 0.25
    ),
    "rlinear_affine3": FamilyCase(
        lambda: RLinear(RLinearConfig(context_length=8, prediction_length=3, affine_channels=3)), (30, 8, 3), 0.25
    ),
    "flowstate": FamilyCase(_flowstate, (50, 12, 1), 0.25),
    "longconv_delta": FamilyCase(lambda: _longconv_delta(2, 2), (160, 8, 1), 0.25, slow=True),
    "longconv_delta_points": FamilyCase(lambda: _longconv_delta(1, 1), (160, 8, 1), 0.25, slow=True),
}
