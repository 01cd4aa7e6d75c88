"""A tiny training run in a process of its own, which may kill itself at a chosen point: see test_resume.py.

Usage: tiny_run.py RUN_DIR [epoch | write | validation]
"""

import os
import signal
import sys
from pathlib import Path

import torch

from madzoo.data.images import Augmentation, ImageArrays, ImageSteps, image_batches
from madzoo.models.image.weft import Weft, WeftConfig
from madzoo.training.loop import make_accelerator, train
from madzoo.training.losses import cross_entropy
from madzoo.training.recipe import Recipe
from madzoo.training.validation import score_classifier

PIXELS = {"mean": (0.5,), "std": (0.25,)}
RECIPE = Recipe(
    name="tiny.run", dataset="random", epochs=3, batch_size=8, lr=1e-2, warmup_steps=2, weight_decay=0.01,
    clip_norm=1.0, ema_decay=0.9, loss="cross_entropy", save_every=4, log_every=3, workers=2, select="best",
)  # fmt: skip
AUGMENTATION = Augmentation(crop_padding=1, flip=True, mixup=0.4, cutmix=1.0)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def random_images(count):
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageArrays(images=images, labels=torch.arange(count) % 3, num_classes=3)


def main(run_dir, when):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = WeftConfig(
        img_size=8, in_chans=1, num_classes=3, embed_dim=8, depth=2, d_state=2, dt_rank=1, drop_rate=0.1,
        drop_path_rate=0.2,
    )  # fmt: skip
    accelerator = make_accelerator()
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}
    source = ImageSteps(random_images(48), AUGMENTATION, **PIXELS, batch_size=8, seed=0, **share)
    validations = []

    def validate(model):
        validations.append(1)
        if when == "validation" and len(validations) == 2:
            kill()
        return score_classifier(model, image_batches(random_images(12), **PIXELS, batch_size=4))

    def on_step(step, loss):
        if when == "epoch" and step == 10:
            kill()

    if when == "write":
        sync, writes = os.fsync, []

        def dying_sync(descriptor):
            writes.append(1)
            return kill() if len(writes) == 3 else sync(descriptor)

        os.fsync = dying_sync
    result = train(
        Weft(config), source, cross_entropy, validate, RECIPE, run_dir, on_step=on_step,
        max_minutes=0 if when == "minutes" else None, accelerator=accelerator,
    )  # fmt: skip
    sys.stdout.write("finished\n" if result.finished else f"stopped at {result.step}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
