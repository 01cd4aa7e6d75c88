"""One tiny configuration of every form of every image family, made by name, as a user makes it."""

import torch

from madzoo.factory import create_model

PYRAMID = {"img_size": 64, "depths": (1, 1, 2, 1), "embed_dim": 8, "num_classes": 5}
V0 = {"forward_type": "v0", "d_state": 4, "expand": 2.0, "conv_bias": True, "mlp_ratio": 0.0}
M2 = {"forward_type": "m0_noz", "d_state": 8, "act_layer": "gelu", "initialize": "v2"}
WEFT = {"img_size": 64, "embed_dim": 16, "d_state": 4, "dt_rank": 2, "num_classes": 5}
PIXELS = {"img_size": 64, "depth": 3, "embed_dim": 8, "d_state": 4, "num_classes": 5}
TINY = {
    "vim": (
        "vim_nano_patch4_32",
        {"img_size": 64, "patch_size": 16, "stride": 16, "depth": 3, "embed_dim": 16, "d_state": 4, "num_classes": 5},
    ),
    "vmamba": ("vmamba_tiny_s1l8_224", PYRAMID),
    "vmamba_plain": ("vmamba_tiny_s1l8_224", {**PYRAMID, "forward_type": "v05", "downsample": "v2"}),
    "vmamba_v0": ("vmamba_v0_tiny_224", {**PYRAMID, **V0, "patch_embed": "v1", "downsample": "v1"}),
    "vmamba_m2": ("vmamba_tiny_m2_224", {**PYRAMID, **M2}),
    "mambavision": (
        "mambavision_t_224",
        {**PYRAMID, "stem_dim": 4, "num_heads": (2, 4), "window_size": (4, 2), "layer_scale": 0.5},
    ),
    "plainmamba": (
        "plainmamba_l1_224",
        {"img_size": 64, "patch_size": 16, "depth": 3, "embed_dim": 16, "d_state": 4, "d_conv": 3, "num_classes": 5},
    ),
    "s4": ("s4_base_32", {**PIXELS, "n_ssm": 1, "l_max": 8192}),
    "s4_prenorm": ("s4_base_32", {**PIXELS, "n_ssm": 1, "l_max": 8192, "prenorm": True, "norm_layer": "batchnorm"}),
    "s4d": ("s4d_micro_32", PIXELS),
    "s4nd": ("s4nd_iso_base_32", {**PIXELS, "l_max": 128}),
    "s4nd_vit": (
        "s4nd_vit_base_patch16_224",
        {**PIXELS, "l_max": 512, "patch_size": 16, "mlp_ratio": 2.0, "channels": 2},
    ),
    "s4nd_convnext": (
        "s4nd_convnext_micro_128",
        {"img_size": 64, "patch_size": 4, "depths": (1, 1, 2), "widths": (6, 8, 10), "stem_width": 3, "d_state": 4}
        | {"stem_l_max": 4, "layer_scale": 0.5, "num_classes": 5},
    ),
    "weft": ("weft_micro_patch4_32", {**WEFT, "stem_blocks": (), "patch_size": 8, "depth": 3}),
    "weft_deep": ("weft_micro_patch4_32", {**WEFT, "depth": 3, "stem_blocks": (0, 1, 1)}),
}


def tiny(name, **changes):
    """Builds a form with parameters and statistics that no zero or one hides anything of, in evaluation mode."""
    torch.manual_seed(0)
    arch, options = TINY[name]
    model = create_model(arch, **{**options, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for key, buffer in model.named_buffers():
            if "running" in key:
                buffer.add_(torch.rand_like(buffer))
    return model


def images(height=64, width=None, *, batch=2, channels=3, dtype=torch.float32):
    """Draws images."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, height, width or height, generator=generator, dtype=dtype)
