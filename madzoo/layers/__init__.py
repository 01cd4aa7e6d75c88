"""Layers: small modules built on the operators; parameter names are the published ones."""

from madzoo.layers.delta_net import DeltaNet
from madzoo.layers.drop_path import DropPath
from madzoo.layers.hydra import Hydra
from madzoo.layers.linear import Linear
from madzoo.layers.linoss import LinOSS
from madzoo.layers.long_conv import LongConv
from madzoo.layers.mamba import Mamba
from madzoo.layers.mamba2 import Mamba2
from madzoo.layers.mamba3 import Mamba3
from madzoo.layers.mamba_plus import MambaPlus
from madzoo.layers.norms import GatedRMSNorm, RMSNorm
from madzoo.layers.patch_embed import PatchEmbed
from madzoo.layers.plain_mamba import PlainMamba2D
from madzoo.layers.s4 import S4Block
from madzoo.layers.s4d import S4D, S4DKernel
from madzoo.layers.s4nd import S4ND
from madzoo.layers.s5 import S5
from madzoo.layers.ss2d import SS2D
from madzoo.layers.symmetric_mixer import SymmetricMixer

__all__ = [
    "S4D",
    "S4ND",
    "S5",
    "SS2D",
    "DeltaNet",
    "DropPath",
    "GatedRMSNorm",
    "Hydra",
    "LinOSS",
    "Linear",
    "LongConv",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "MambaPlus",
    "PatchEmbed",
    "PlainMamba2D",
    "RMSNorm",
    "S4Block",
    "S4DKernel",
    "SymmetricMixer",
]
