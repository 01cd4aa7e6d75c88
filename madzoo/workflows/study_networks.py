"""Five kinds of network of one size, small enough that their local dimension is exact: pictures in, logits out.

Legend: pictures [B, 1, 8, 8]; sequence models and the ViT read them as L = 16 patches of 2 x 2 pixels, row by row.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from madzoo.factory import create_model
from madzoo.layers import S4D, Mamba, RMSNorm

__all__ = ["LOST", "NETWORKS", "SIDE"]

SIDE, PATCH, CLASSES = 8, 2, 10


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm around a shortcut, which is a 1 x 1 convolution where the width changes."""

    def __init__(self, width: int, out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        same = width == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, width, H, W] to [B, out, H / stride, W / stride]."""
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """A stem, one residual block at full resolution, one at half of it, the mean over the picture, a linear map."""

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(ResidualBlock(widths[0], widths[0]), ResidualBlock(*widths, stride=2))
        self.head = nn.Linear(widths[1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Maps pictures [B, 1, 8, 8] to logits [B, 10]."""
        return self.head(self.blocks(self.norm(self.stem(x)).relu()).mean((2, 3)))


class SequenceClassifier(nn.Module):
    """Patches through pre-norm residual blocks around one kind of sequence mixer, the mean over positions, a head."""

    def __init__(self, d_model: int, mixer: Callable[[int], nn.Module], *, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(PATCH**2, d_model)
        self.norms = nn.ModuleList(RMSNorm(d_model) for _ in range(depth))
        self.mixers = nn.ModuleList(mixer(d_model) for _ in range(depth))
        self.norm, self.head = RMSNorm(d_model), nn.Linear(d_model, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Maps pictures [B, 1, 8, 8] to logits [B, 10]."""
        h = self.stem(F.pixel_unshuffle(x, PATCH).flatten(2).mT)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            h = h + mixer(norm(h))
        return self.head(self.norm(h).mean(1))


def mlp(width: int) -> nn.Module:
    """Builds pixels, two hidden layers of ReLU, logits."""
    hidden = nn.Linear(SIDE**2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, CLASSES))


def vit(d_model: int) -> nn.Module:
    """Builds timm's vision transformer, shrunk: patches of 2 x 2, learned positions, no class token."""
    return create_model(
        "timm/vit_tiny_patch16_224",
        img_size=SIDE,
        patch_size=PATCH,
        in_chans=1,
        num_classes=CLASSES,
        embed_dim=d_model,
        depth=2,
        num_heads=2,
        mlp_ratio=2.0,
        class_token=False,
        global_pool="avg",
    )


def s4d(d_model: int) -> nn.Module:
    """Builds two S4D blocks of 6 conjugate pairs of states per channel."""
    return SequenceClassifier(d_model, lambda d: S4D(d, d_state=12, dt_min=0.02, dt_max=0.5))


def mamba(d_model: int) -> nn.Module:
    """Builds two Mamba-1 blocks of 4 states per channel."""
    return SequenceClassifier(d_model, lambda d: Mamba(d, d_state=4, d_conv=2, dt_rank=1, dt_min=0.02, dt_max=0.5))


# Widths for about 1500 parameters each.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "relu_mlp": lambda: mlp(16),
    "resnet": lambda: ResNet((6, 6)),
    "vit": lambda: vit(8),
    "s4d": lambda: s4d(12),
    "mamba": lambda: mamba(8),
}

# Parameters that move no output whatever the weights, counted by hand; P - LOST is an upper bound of every rank.
LOST = {
    # A positive factor of each hidden ReLU unit moves from its inputs to its outputs.
    "relu_mlp": 2 * 16,
    # 5 normalised convolutions: the scale of each of 6 filters; 2 inner ReLUs: 6 factors each; 2 streams: 6 each.
    "resnet": 5 * 6 + 2 * 6 + 2 * 6,
    # 5 norms: gain and bias go into the maps behind (16 each), whose 24 + 16 rows a block and 10 of the head ignore a
    # constant. Writers may add a constant: 5 + 16 positions + 9 and 17 a block. Patch bias against positions: 8, of
    # which the constant is counted. Rotations of the centred stream: 21. Biases of keys and values: 16 a block; frames
    # of queries with keys and values with projection: 2 heads of 2 x 4^2 a block.
    "vit": 5 * 16 + (2 * 40 + 10) + (21 + 2 * 26) + (8 - 1) + 21 + 2 * 16 + 2 * 64,
    # A channel's gain, step, 6 complex poles, 6 complex residues and skip (27) act through 16 taps. Final gain: 12.
    "s4d": 2 * 12 * (27 - 16) + 12,
    # A block: 16 rows of in_proj against the convolution, the step's frame 1, 4 of B against C, C and D against
    # out_proj 1, the norm's gain 8. Final gain 8; rotations of the stream 28. The first block reads a stream of
    # 4 pixels and a bias: its 32 rows of in_proj see 5 of 8 dimensions.
    "mamba": 2 * (16 + 1 + 4 + 1 + 8) + 8 + 28 + 32 * 3,
}
