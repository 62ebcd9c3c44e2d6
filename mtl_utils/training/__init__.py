"""Training and judging, on Lightning: a configuration, a module, the loaders, `fit` and `evaluate`."""

from mtl_utils.training.checkpoints import (
    load_config,
    load_conflicts,
    load_history,
    load_labels,
    load_model,
    load_state,
)
from mtl_utils.training.config import (
    BEST_ACCURACY,
    BEST_LOSS,
    FIRST,
    LAST,
    Config,
    build_network,
    first_config,
    flat_settings,
)
from mtl_utils.training.costs import balancing_costs, gmsv_costs, update_costs
from mtl_utils.training.evidence import evidence_metrics, evidence_scores
from mtl_utils.training.fitting import LABELS, FitResult, evaluate, fit, precision
from mtl_utils.training.folds import CrossValidation, cross_validate
from mtl_utils.training.loaders import FundusData
from mtl_utils.training.module import MultiTaskModule
from mtl_utils.training.scores import Scores
from mtl_utils.training.stage_one import stage_one
