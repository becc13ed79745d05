"""detectron2: Cascade Mask R-CNN on COCO, as the paper fine-tunes it (Table 3, B.3).

    python tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file docs/examples/coco_cascade_mask_rcnn.py \
        model.backbone.bottom_up.backbone=data/runs/default train.output_dir=out

The tool is detectron2's. The paper tried layer decays of .65, .75, .8 and .9 and does not say which
was best: optimizer.params.lr_factor_func.rate=0.9 changes it.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall
from detectron2.data import transforms
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from training.weights.detectron2 import LayerDecay, detectron2_backbone

IMAGES_PER_STEP = 16
STEPS_PER_EPOCH = 117_266 // IMAGES_PER_STEP  # images of train2017 with annotations
EPOCHS, DROPS = 12, (9, 11)

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model.backbone.bottom_up = LazyCall(detectron2_backbone)(backbone="data/runs/default")
model.backbone.in_features = ["block4", "block6", "block8", "block12"]
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
model.input_format = "RGB"

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.total_batch_size = IMAGES_PER_STEP
dataloader.train.mapper.image_format = dataloader.test.mapper.image_format = "RGB"
dataloader.train.mapper.augmentations = [
    LazyCall(transforms.ResizeShortestEdge)(
        short_edge_length=list(range(480, 801, 32)), sample_style="choice", max_size=1333
    ),
    LazyCall(transforms.RandomFlip)(horizontal=True),
]

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.lr = 1e-4
optimizer.weight_decay = 0.05
optimizer.params.lr_factor_func = LazyCall(LayerDecay)(rate=0.75, depth=12)

lr_multiplier = LazyCall(WarmupParamScheduler)(
    scheduler=LazyCall(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[drop * STEPS_PER_EPOCH for drop in DROPS],
        num_updates=EPOCHS * STEPS_PER_EPOCH,
    ),
    warmup_length=1000 / (EPOCHS * STEPS_PER_EPOCH),
    warmup_method="linear",
    warmup_factor=0.001,
)

train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = ""  # the backbone brings its own weights; the rest starts at random
train.max_iter = EPOCHS * STEPS_PER_EPOCH
train.eval_period = train.checkpointer.period = STEPS_PER_EPOCH
