"""How the published image models prepare their inputs: one record per data set, to which a family adds its weights."""

from madzoo.registry import PretrainedCfg

__all__ = ["CIFAR", "IMAGENET"]

IMAGENET = PretrainedCfg(
    input_size=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.875
)
CIFAR = PretrainedCfg(input_size=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261))
