"""Errors a user can act on. Each message is one line: what, where, why, and the way out.

VisionError
├── ConfigError       the command or the configuration asks for something impossible
├── DataError         the labelled data cannot be used as they are
│   └── UnreachableError  a server that has a part of them does not answer, and may again
├── PluginError       a plugin could not be loaded, or two plugins disagree
├── WeightsError      weights are missing, unreachable or do not fit
├── TrainingError     training started and could not go on
│   ├── StorageError  a file of the run could not be written
│   └── LostImagesError  too many images cannot be read any more
├── RequirementError  a model is not as good as it was required to be
├── ReproductionError a run that was trained again did not come out the same
└── Interrupted       the user stopped the run
"""


class VisionError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class ConfigError(VisionError):
    """The command or the configuration asks for something impossible."""

    exit_code = 2


class DataError(VisionError):
    """The labelled data cannot be used as they are."""

    exit_code = 3


class UnreachableError(DataError):
    """A server that has a part of the data does not answer; it may when it is asked later."""

    exit_code = 6


class PluginError(VisionError):
    """A plugin could not be loaded, or two plugins disagree."""

    exit_code = 4


class WeightsError(VisionError):
    """Weights are missing, unreachable or do not fit."""

    exit_code = 5


class TrainingError(VisionError):
    """Training started and could not go on."""

    exit_code = 6


class StorageError(TrainingError):
    """A file of the run could not be written, most often because the disk is full."""

    exit_code = 9


class LostImagesError(TrainingError):
    """So many images cannot be read any more that training on would be learning from others."""


class RequirementError(VisionError):
    """A model is not as good as it was required to be."""

    exit_code = 7


class ReproductionError(VisionError):
    """A run that was trained again did not come out the same."""

    exit_code = 8


class Interrupted(VisionError):
    """The user stopped the run; what was found so far is kept."""

    exit_code = 130
