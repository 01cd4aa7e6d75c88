"""timm's own factory, lists and training pieces on the zoo's image models."""

import io
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from timm.data import Mixup, create_dataset, create_loader, resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from timm.models import list_pretrained, load_checkpoint, resolve_model_input_args
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3, accuracy

import madzoo.timm_registry
from madzoo.errors import CheckpointError, ConfigError, UnknownTagError
from madzoo.factory import create_model, list_models, model_info

IMAGES = list_models(task="image-classification")
BUNDLED = "weft_micro_patch4_32.cifar10"
DATA_DIR = os.environ.get("MADZOO_TEST_DATA_DIR")
TINY = {"depth": 1, "embed_dim": 16}


def same(ours, theirs, x):
    with torch.no_grad():
        return torch.equal(ours.eval()(x), theirs.eval()(x))


def test_every_image_model_is_known_and_none_of_timms_is_lost():
    # What timm had already would have been left out, and is missing here.
    assert set(timm.list_models(module="timm_registry")) == set(IMAGES) < set(timm.list_models())
    assert timm.is_model("resnet18") and "timm_registry" not in timm.model_entrypoint("resnet18").__module__
    assert not set(list_models(task="time-series-forecasting")) & set(timm.list_models())
    assert timm.list_models("vim_tiny*224") == ["vim_tiny_patch16_224", "vim_tiny_patch16_stride8_224"]
    tagged = list_models(task="image-classification", pretrained=True)
    assert set(tagged) <= set(list_pretrained()) and BUNDLED in tagged
    assert all(callable(getattr(madzoo.timm_registry, name)) for name in IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_configurations_say_what_the_registry_says(name):
    spec, cfg = model_info(name), timm.get_pretrained_cfg(name)
    assert (cfg.architecture, cfg.tag) == (name, spec.default_tag)
    trained = spec.with_tag(cfg.tag) if cfg.tag else spec
    assert cfg.num_classes == trained.config.num_classes and cfg.input_size[0] == trained.config.in_chans
    if not cfg.tag:
        assert not cfg.has_weights
        return
    ours = trained.pretrained_cfg
    assert (cfg.hf_hub_id, cfg.url, cfg.license) == (ours.hub_id, ours.url, ours.license)
    assert (cfg.mean, cfg.std, cfg.crop_pct) == (ours.mean, ours.std, ours.crop_pct)
    with torch.device("meta"):
        head = timm.create_model(name).get_submodule(cfg.classifier)
    assert head.out_features == cfg.num_classes


def test_pretrained_weights_come_through_our_door(caplog):
    x = torch.randn(2, 3, 32, 32)
    for name in (BUNDLED, BUNDLED.partition(".")[0]):
        model = timm.create_model(name, pretrained=True)
        assert same(create_model(BUNDLED, pretrained=True), model, x)
        assert model.pretrained_cfg is model.default_cfg and model.pretrained_cfg["tag"] == "cifar10"
        assert resolve_data_config(model=model)["mean"] == pytest.approx((0.4914, 0.4822, 0.4465))
    assert timm.create_model(BUNDLED, pretrained=True, num_classes=3, in_chans=1)(x[:, :1]).shape == (2, 3)
    assert "head.bias, head.weight initialised afresh; stem.0.weight adapted" in caplog.text


def test_a_file_is_loaded_strictly(tmp_path):
    model = create_model("vim_nano_patch4_32", **TINY)
    torch.save({"model": model.state_dict()}, tmp_path / "good.pth")
    torch.save({"model": model.state_dict() | {"extra": torch.zeros(1)}}, tmp_path / "bad.pth")
    overlay = {"file": str(tmp_path / "good.pth"), "num_classes": -1}  # what timm's train.py asks for
    found = timm.create_model("vim_nano_patch4_32", pretrained=True, pretrained_cfg_overlay=overlay, **TINY)
    assert same(model, found, torch.randn(1, 3, 32, 32)) and found.pretrained_cfg["num_classes"] == 10
    with pytest.raises(CheckpointError, match="extra"):
        timm.create_model(
            "vim_nano_patch4_32", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "bad.pth")}, **TINY
        )


def test_what_is_no_weight_of_ours_is_refused():
    with pytest.raises(ConfigError, match="by tag, or from a file"):
        timm.create_model("vim_nano_patch4_32", pretrained=True, pretrained_cfg_overlay={"hf_hub_id": "a/b"})
    with pytest.raises(UnknownTagError):
        timm.create_model("vim_nano_patch4_32", pretrained=True)
    with pytest.raises(ConfigError, match="has no option"):
        timm.create_model("vim_nano_patch4_32", bn_momentum=0.1)


def test_what_timm_hands_on_arrives():
    options = resolve_model_input_args("vim_nano_patch4_32", img_size=(64, 64), in_chans=1, num_classes=4)
    model = timm.create_model(**options, drop_path_rate=0.2, dtype=torch.float64, **TINY)
    assert (model.config.img_size, model.config.in_chans, model.num_classes) == (64, 1, 4)
    assert model.config.drop_path_rate == 0.2 and model.pos_embed.dtype == torch.float64
    with pytest.raises(ConfigError, match="side of a square"):
        timm.create_model("vim_nano_patch4_32", img_size=(64, 32))


def test_features_only_is_timms():
    backbone = timm.create_model("vmamba_tiny_s1l8_224", features_only=True, out_indices=(0, 3), embed_dim=8)
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(y.shape[1:]) for y in maps] == [(8, 16, 24), (64, 2, 3)]
    assert backbone.feature_info.channels() == [8, 64] and backbone.feature_info.reduction() == [4, 32]


def test_timms_checkpoints_go_both_ways(tmp_path):
    model = timm.create_model("vim_nano_patch4_32", **TINY)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    saver = CheckpointSaver(model, optimizer, model_ema=ModelEmaV3(model), checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=1.0)
    path, other = tmp_path / "last.pth.tar", timm.create_model("vim_nano_patch4_32", **TINY)
    load_checkpoint(other, str(path))
    ours = create_model("vim_nano_patch4_32", checkpoint_path=path, **TINY)
    for found in (other, ours):
        assert same(model, found, torch.randn(1, 3, 32, 32))


def write_folder(source, target, rows):
    """Lays pictures of a Parquet file out as timm's script expects them: one folder per class."""
    table = pq.read_table(source).slice(0, rows)
    for i, (picture, label) in enumerate(zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)):
        folder = target / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(picture["bytes"])).save(folder / f"{i}.png")


def find_parquet(split):
    found = sorted(Path(DATA_DIR, "fashion_mnist").rglob(f"*{split}*.parquet"))
    assert found, "no fashion_mnist there"
    return found[0]


@pytest.mark.slow
@pytest.mark.skipif(not DATA_DIR, reason="MADZOO_TEST_DATA_DIR names no folder that holds fashion_mnist as Parquet")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_one_epoch_of_timms_training(tmp_path):
    """Goes through what timm's train.py goes through, piece by piece, on 4,000 real pictures."""
    write_folder(find_parquet("train"), tmp_path / "train", 4000)
    write_folder(find_parquet("test"), tmp_path / "validation", 1000)
    torch.manual_seed(0)
    model = timm.create_model("weft_micro_patch4_28", in_chans=1, num_classes=10, drop_rate=0.0, drop_path_rate=0.1)
    model.set_grad_checkpointing(enable=True)
    data = resolve_data_config({}, model=model, verbose=True)
    assert data["input_size"] == (1, 28, 28)
    loaders = []
    for split, is_training in (("train", True), ("validation", False)):
        dataset = create_dataset(
            "", root=str(tmp_path), split=split, is_training=is_training, batch_size=50, input_img_mode="L"
        )
        settings = {key: data[key] for key in ("input_size", "mean", "std", "interpolation")}
        augment = {"scale": (0.8, 1.0), "hflip": 0.5, "re_prob": 0.1} if is_training else {"crop_pct": data["crop_pct"]}
        loaders.append(
            create_loader(
                dataset, batch_size=50, is_training=is_training, use_prefetcher=False, num_workers=0,
                persistent_workers=False, pin_memory=False, device=torch.device("cpu"), **settings, **augment,
            )
        )  # fmt: skip
    train, validation = loaders
    mixup = Mixup(mixup_alpha=0.1, prob=0.5, label_smoothing=0.1, num_classes=10)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05, layer_decay=0.9)
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=1, warmup_epochs=0, updates_per_epoch=len(train), step_on_epochs=False
    )
    assert epochs >= 1
    average, meter, loss_fn = ModelEmaV3(model, decay=0.9), AverageMeter(), SoftTargetCrossEntropy()
    model.train()
    for step, (pictures, labels) in enumerate(train):
        pictures, labels = mixup(pictures, labels)
        loss = loss_fn(model(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step=step)
        scheduler.step_update(num_updates=step + 1, metric=meter.avg)
        meter.update(loss.item(), pictures.size(0))
    assert meter.count == 4000
    top1 = AverageMeter()
    model.eval()
    with torch.inference_mode():
        for pictures, labels in validation:
            top1.update(accuracy(model(pictures), labels, topk=(1, 5))[0].item(), pictures.size(0))
    assert top1.count == 1000 and top1.avg > 50
    saver = CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=str(tmp_path))
    best, _ = saver.save_checkpoint(0, metric=top1.avg)
    assert best == pytest.approx(top1.avg)
    again = create_model("weft_micro_patch4_28", checkpoint_path=tmp_path / "last.pth.tar")
    assert same(model, again, next(iter(validation))[0])
