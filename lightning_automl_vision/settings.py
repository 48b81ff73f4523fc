"""The typed configuration nodes. Defaults live here, not in YAML; ranges are checked before any data is read.

A default ``${lav.default:KEY}`` is the model's own for the task, else the task's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_automl_vision.data_settings import DataConfig as DataConfig
from lightning_automl_vision.keys import key
from lightning_automl_vision.trainer_settings import TrainerConfig as TrainerConfig


@dataclass
class ModelConfig:
    """What every model takes; a plugin adds fields in a subclass."""

    name: str = key("???", "The model's name, as `lav models` lists it.")
    weights: str | None = key(
        None, "A local file to start from: safetensors, or a state dict of tensors saved by torch."
    )


@dataclass
class PretrainedModelConfig(ModelConfig):
    pretrained: bool = key(True, "Start from the published weights; they are downloaded once and cached.")


@dataclass
class TrainingConfig:
    number_of_epochs: int = key(
        "${lav.default:number_of_epochs}", "Passes over the training set.", minimum=1, old=("epochs",)
    )
    training_batch_size: int | str = key(
        "${lav.default:training_batch_size}",
        "Images per training step; `auto` tries how many the memory has room for.",
        minimum=1,
        words=("auto",),
    )
    validation_batch_size: int | str = key(
        "${lav.default:validation_batch_size,${.training_batch_size}}",
        "Images per validation step; `auto` is as many as are trained on.",
        minimum=1,
        words=("auto",),
    )
    gradient_accumulation_step: int = key(
        1, "Batches whose gradients are added up before one optimiser step.", minimum=1, old=("grad_accumulation_step",)
    )
    nominal_batch_size: int | None = key(
        "${lav.default:nominal_batch_size}",
        "Add up the gradients of as many batches as come near to so many images, and scale the weight decay to what it"
        " comes to; gradient_accumulation_step then stays at 1.",
        minimum=1,
    )
    learning_rate: float = key(
        "${lav.default:learning_rate}", "The learning rate at its highest.", minimum=0, maximum=1
    )
    learning_rate_scheduler: str = key(
        "warmup_cosine",
        "How the learning rate changes: by step, or as a line or half a cosine wave after the warm-up that"
        " `training.warmup_epochs` tells of.",
        choices=("warmup_cosine", "step", "linear", "cosine"),
        old=("lr_scheduler",),
    )
    step_lr_gamma: float = key(0.5, "What `step` multiplies the learning rate with.", minimum=0, maximum=1)
    step_lr_step_size: int = key(5, "The epochs between two steps of `step`.", minimum=1)
    warmup_cosine_lr_cycles: float = key(
        0.45, "The share of a whole cosine wave that `warmup_cosine` runs through.", minimum=0, maximum=1
    )
    warmup_cosine_lr_warmup_epochs: int = key(2, "The epochs in which `warmup_cosine` rises from 0.", minimum=0)
    final_learning_rate_share: float = key(
        0.01, "The share of the learning rate that `linear` and `cosine` end at.", minimum=0, maximum=1
    )
    warmup_epochs: float = key(
        3.0, "The epochs in which `linear` and `cosine` rise from 0; it takes 100 batches at least.", minimum=0
    )
    warmup_momentum: float = key(
        0.8, "What momentum, or the first beta, begins at in that warm-up.", minimum=0, below=1
    )
    warmup_bias_learning_rate: float = key(
        0.1, "What the learning rate of biases begins at in that warm-up.", minimum=0, maximum=1
    )
    optimizer: str = key("sgd", "The optimiser.", choices=("sgd", "adam", "adamw"))
    momentum: float = key(0.9, "Momentum of sgd.", minimum=0, maximum=1)
    weight_decay: float = key(1e-4, "Weight decay.", minimum=0, maximum=1)
    decay_norms_and_biases: bool = key(
        "${lav.default:decay_norms_and_biases,true}", "Let weight decay concern norms and biases too."
    )
    nesterov: bool = key(True, "Nesterov momentum for sgd.")
    beta1: float = key(0.9, "First beta of adam and adamw.", minimum=0, below=1)
    beta2: float = key(0.999, "Second beta of adam and adamw.", minimum=0, maximum=1)
    ams_gradient: bool = key(False, "The AMSGrad variant of adam and adamw.", old=("amsgrad",))
    early_stopping: bool = key(True, "Stop when the primary metric no longer improves.")
    early_stopping_patience: int = key(5, "Evaluations without improvement before stopping.", minimum=1)
    early_stopping_delay: int = key(5, "Evaluations before improvement is tracked.", minimum=0)
    evaluation_frequency: int = key(1, "Epochs between two evaluations.", minimum=1)
    checkpoint_frequency: int | None = key(
        None, "Epochs between checkpoints that are kept beside the best and the last; none are by default.", minimum=1
    )
    checkpoint_minutes: float = key(
        5.0,
        "Minutes between checkpoints from which a run that was ended goes on; each evaluation writes one too.",
        above=0,
    )
    layers_to_freeze: int = key(0, "How many layer groups, counted from the input, are not trained.", minimum=0)
    weighted_loss: int = key(
        0,
        "Class weights in the loss: 0 none, 1 the square root of the class weights, 2 the class weights.",
        choices=(0, 1, 2),
    )
    training_crop_size: int = key(
        "${lav.default:training_crop_size,224}",
        "The side of the square a training image is cropped to.",
        minimum=1,
        old=("train_crop_size", "crop_size"),
    )
    validation_crop_size: int = key(
        "${lav.default:validation_crop_size,224}",
        "The side of the square a validation image is cropped to.",
        minimum=1,
        old=("valid_crop_size", "crop_size"),
    )
    validation_resize_size: int = key(
        "${lav.default:validation_resize_size,256}",
        "The length of a validation image's short side before the crop.",
        minimum=1,
        old=("valid_resize_size", "resize_size"),
    )
    label_smoothing: float = key(0.0, "The share of each label that is spread over all classes.", minimum=0, below=1)
    ema_decay: float = key(
        "${lav.default:ema_decay,0.0}",
        "Decay of the moving average of the weights that is validated and saved; 0 is off, 0.999 is usual.",
        minimum=0,
        below=1,
    )
    ema_ramp_steps: int = key(
        2000,
        "The optimiser steps in which that decay comes up to 63 % of its value, so that first weights are forgotten.",
        minimum=1,
    )
    balanced_sampling: bool = key(
        False,
        "Draw training images so that every class comes up equally often; one with several labels or objects is drawn"
        " for the rarest of their classes, and those without any are a class of their own.",
    )
    gradient_clip: float | None = key("${lav.default:gradient_clip}", "Scale gradients down to this norm.", above=0)
    checkpoint_run_id: str | None = key(
        None,
        "Start from the model that an earlier run came to: its folder, or its name below outputs/. Classes may differ.",
    )
    checkpoint_path: str | None = key(
        None, "The same from a file or folder: best.ckpt or last.ckpt of a run, weights.safetensors, a model folder."
    )
    random_seed: int | None = key(
        None,
        "The seed of everything random; drawn and recorded when it is not given.",
        minimum=0,
        maximum=2**32 - 1,
        old=("seed",),
    )
    number_of_workers: int | None = key(
        None,
        "Processes that read images; 0 reads in the main process, by default one a core and 8 at most.",
        minimum=0,
        old=("num_workers",),
    )


@dataclass
class LimitsConfig:
    max_trials: int = key(
        1,
        "How many trials a sweep has; more than 1 begin one. A grid has its points, and no more than these.",
        minimum=1,
        maximum=1000,
    )
    max_concurrent_trials: int = key(
        1, "How many of them run at the same time, at most max_trials.", minimum=1, maximum=100
    )
    timeout_minutes: float = key(
        10080,
        "Training stops, and keeps its best epoch, when this time is over; of a sweep, all trials together.",
        above=0,
        maximum=86400,
    )
    trial_timeout_minutes: float | None = key(None, "The same for each trial of a sweep.", above=0, maximum=86400)


@dataclass
class CropConfig:
    """Random crop of a random size and aspect ratio, resized to the training crop size."""

    enabled: bool = key(True, "Use this transform.")
    scale: list[float] = key([0.08, 1.0], "The smallest and the largest share of the image's area.", above=0, maximum=1)
    ratio: list[float] = key([0.75, 1.3333333], "The smallest and the largest aspect ratio.", above=0)


@dataclass
class FlipConfig:
    p: float = key(0.5, "How often it is applied.", minimum=0, maximum=1)


@dataclass
class ColorJitterConfig:
    p: float = key(0.8, "How often it is applied.", minimum=0, maximum=1)
    brightness: float = key(0.2, "The largest change of brightness.", minimum=0)
    contrast: float = key(0.2, "The largest change of contrast.", minimum=0)
    saturation: float = key(0.2, "The largest change of saturation.", minimum=0)
    hue: float = key(0.05, "The largest change of hue, as a share of the colour circle.", minimum=0, maximum=0.5)


@dataclass
class AugmentConfig:
    """What happens to a training image, and how an image that is not augmented is brought to size."""

    resize: str = key(
        "crop",
        "`crop` resizes the short side and cuts the middle out; `letterbox` keeps the whole image and fills the rest.",
        choices=("crop", "letterbox"),
    )
    fill: int = key(114, "The gray that `letterbox` fills with.", minimum=0, maximum=255)
    random_resized_crop: CropConfig = field(default_factory=CropConfig)
    horizontal_flip: FlipConfig = field(default_factory=FlipConfig)
    vertical_flip: FlipConfig = field(default_factory=lambda: FlipConfig(p=0.0))
    color_jitter: ColorJitterConfig = field(default_factory=ColorJitterConfig)
    file: str | None = key(None, "An albumentations pipeline in YAML that replaces the transforms above.")


@dataclass
class ObjectCropConfig:
    """Random crop around boxes: an object that is drawn keeps its centre and enough of itself, or nothing is cut."""

    p: float = key(0.5, "How often it is applied.", minimum=0, maximum=1)
    scale: list[float] = key([0.3, 1.0], "The smallest and the largest share of the image's area.", above=0, maximum=1)
    ratio: list[float] = key(
        [0.75, 1.3333333], "The smallest and the largest aspect ratio, where 1 is the image's own.", above=0
    )
    tries: int = key(10, "How many crops are tried before the image is left whole.", minimum=1)


@dataclass
class ExpandConfig:
    p: float = key(0.5, "How often the image is put on a larger canvas.", minimum=0, maximum=1)
    factor: float = key(2.0, "How many times as long the canvas' sides are at most.", minimum=1, maximum=10)


@dataclass
class OcclusionConfig:
    """Parts of objects are erased, so that a model learns to find what is half hidden."""

    p: float = key(0.0, "How often it is applied.", minimum=0, maximum=1)
    objects: int = key(3, "How many objects of an image are hidden at most.", minimum=1)
    share: list[float] = key(
        [0.1, 0.4], "The smallest and the largest share of an object's box that is erased.", above=0, maximum=1
    )
    fill: str = key(
        "noise",
        "What takes its place: noise, the gray of `augment.fill`, or the image's mean colour.",
        choices=("noise", "gray", "mean"),
    )


@dataclass
class MosaicConfig:
    """Four photos in one picture, in place of crop and expand."""

    p: float = key(0.0, "How often a training picture is a mosaic of four photos.", minimum=0, maximum=1)
    plain_epochs: int = key(0, "How many epochs at the end of the training do without mosaics.", minimum=0)


@dataclass
class AffineConfig:
    """The picture is turned, moved, scaled and slanted at once; of a mosaic, the four photos together."""

    p: float = key(0.0, "How often it is applied.", minimum=0, maximum=1)
    degrees: float = key(0.0, "The largest turn, to either side.", minimum=0, maximum=180)
    translate: float = key(0.1, "The largest shift, as a share of the picture's side.", minimum=0, maximum=1)
    scale: float = key(0.5, "The largest change of scale: 0.5 draws from 0.5 to 1.5.", minimum=0, below=1)
    shear: float = key(0.0, "The largest slant in degrees.", minimum=0, below=90)
    perspective: float = key(0.0, "The strength of a change of perspective; 0.001 is much.", minimum=0, maximum=0.001)


@dataclass
class HsvConfig:
    p: float = key(0.0, "How often colours are changed by random factors.", minimum=0, maximum=1)
    hue: float = key(0.015, "The largest change of the hue's factor.", minimum=0, maximum=1)
    saturation: float = key(0.7, "The largest change of the saturation's factor.", minimum=0, maximum=1)
    value: float = key(0.4, "The largest change of the brightness' factor.", minimum=0, maximum=1)


@dataclass
class MixupConfig:
    p: float = key(0.0, "How often a picture is blended with another one.", minimum=0, maximum=1)


@dataclass
class CopyPasteConfig:
    p: float = key(
        0.0,
        "The share of a picture's objects that are pasted into it mirrored; objects need polygons.",
        minimum=0,
        maximum=1,
    )


@dataclass
class ObjectAugmentConfig:
    """What happens to a training image and its objects, and whether a model's own resizing is used."""

    apply_automl_train_augmentations: bool = key(
        True,
        "Use `crop`, `expand`, `affine`, the flips, `hsv`, `mixup` and `copy_paste`;"
        " false leaves them out, whatever they say.",
    )
    apply_mosaic_for_yolo: bool = key(
        True, "Use `mosaic`, which yolov5 does by default; false leaves it out, whatever it says."
    )
    mosaic: MosaicConfig = field(default_factory=MosaicConfig)
    affine: AffineConfig = field(default_factory=AffineConfig)
    crop: ObjectCropConfig = field(default_factory=ObjectCropConfig)
    expand: ExpandConfig = field(default_factory=ExpandConfig)
    horizontal_flip: FlipConfig = field(default_factory=FlipConfig)
    vertical_flip: FlipConfig = field(default_factory=lambda: FlipConfig(p=0.0))
    hsv: HsvConfig = field(default_factory=HsvConfig)
    mixup: MixupConfig = field(default_factory=MixupConfig)
    copy_paste: CopyPasteConfig = field(default_factory=CopyPasteConfig)
    color_jitter: ColorJitterConfig = field(default_factory=lambda: ColorJitterConfig(p=0.0))
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)
    minimum_visibility: float = key(
        0.25,
        "An object of which a smaller share is still to be seen is left out and counted; crowds are no exception.",
        minimum=0,
        maximum=1,
    )
    resize: str = key(
        "model",
        "`model` resizes as the model wants it; `letterbox` keeps the shape of the image and fills up to a square.",
        choices=("model", "letterbox"),
    )
    letterbox_size: int = key(640, "The side of the square of `letterbox`.", minimum=32)
    fill: int = key(
        114, "The gray around an image that is expanded or letterboxed, and of `occlusion`.", minimum=0, maximum=255
    )
    file: str | None = key(
        None, "An albumentations pipeline in YAML that replaces the transforms above; it moves boxes and polygons too."
    )


@dataclass
class JobConfig:
    name: str = key("???", "What to do.")
