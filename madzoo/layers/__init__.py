"""Layers: small modules built on the operators; parameter names are the published ones."""

from madzoo.layers.drop_path import DropPath
from madzoo.layers.linear import Linear
from madzoo.layers.mamba import Mamba
from madzoo.layers.norms import RMSNorm
from madzoo.layers.patch_embed import PatchEmbed
from madzoo.layers.s4 import S4Block
from madzoo.layers.s4d import S4D, S4DKernel

__all__ = ["DropPath", "Linear", "Mamba", "PatchEmbed", "RMSNorm", "S4Block", "S4D", "S4DKernel"]
