"""Training and judging, on Lightning: a configuration, one module, one data module, `fit` and `evaluate`."""

from mtl_utils.training.checkpoints import load_config, load_history, load_model
from mtl_utils.training.config import BEST_ACCURACY, BEST_LOSS, LAST, Config, build_network, first_config
from mtl_utils.training.fitting import LABELS, FitResult, evaluate, fit, precision
from mtl_utils.training.loaders import FundusData
from mtl_utils.training.module import MultiTaskModule
from mtl_utils.training.scores import Scores
