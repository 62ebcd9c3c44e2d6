"""Every figure of the course, a module for each chapter.

Functions draw into a new figure and return it; the notebook shows what it gets.
"""

from mtl_utils.plots.common import (
    PLAIN,
    TASK_COLOURS,
    TRAINING,
    VALIDATION,
    count_parameters,
    grid,
    lesion_legend,
    overlay,
    show_picture,
)
from mtl_utils.plots.exploring import (
    ROLE_COLOURS,
    cropped_to_field_of_view,
    grade_balance,
    lesion_sizes,
    lesions_by_grade,
    nearest_differences,
    overlay_sheet,
    photograph_with_masks,
    photographs_by_grade,
    protocol_bars,
    shrunken_crop,
    side_by_side,
    survival_curve,
    thumbnail_pairs,
)
from mtl_utils.plots.grading import (
    accuracy_intervals,
    confusion_matrices,
    contact_sheet,
    encoder_levels,
    forest,
    graded_photographs,
    grades_by_role,
    kappa_example,
    learning_curves,
)
from mtl_utils.plots.mtunet import (
    CLASS_COLOURS,
    answers_per_pixel,
    balanced_grades,
    class_picture,
    confidence_thresholds,
    draw_variants,
    erased_shares,
    label_gap,
    label_space_steps,
    made_beside_truth,
    paired_intervals,
    pixel_loss,
    sheet_with_masks,
    upsampling_steps,
)
from mtl_utils.plots.pldmlt import (
    GRADE_STYLES,
    ablation_dots,
    focal_curves,
    fused_steps,
    heat_maps,
    look_ahead_steps,
    mean_labels,
    moving_labels,
    papers_scores,
    reliability,
    threshold_effects,
)
from mtl_utils.plots.segmentation import (
    FALSE_ALARM,
    HIT,
    MISSED,
    cross_entropy_curves,
    dice_by_threshold,
    masks_beside_truth,
    measures_of_networks,
    overlap,
    pixel_shares,
    precision_recall,
    probability_maps,
    unet,
)
from mtl_utils.plots.shared_encoder import (
    batch_statistics,
    best_of_checkpoints,
    compare_histories,
    difference_intervals,
    draw_shared_encoder,
    encoder_pull,
    networks_beside_truth,
    parameter_bars,
    partial_labels,
)
from mtl_utils.plots.start_here import photograph_and_truth, saved_prediction, truth_and_prediction
