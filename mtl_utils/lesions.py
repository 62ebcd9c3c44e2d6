"""The names that the whole course shares: lesions, grades, and their colours."""

from __future__ import annotations

LESIONS = ("MA", "HE", "EX", "SE", "OD")
"""Channel order of every mask and every segmentation output. OD, the optic disc, is no lesion, but IDRiD
draws it too.
"""

DISEASE_LESIONS = LESIONS[:4]
"""The four lesions of the disease: what a mean 'over lesions' is taken over, the disc apart."""

LESION_NAMES = {
    "MA": "microaneurysms",
    "HE": "haemorrhages",
    "EX": "hard exudates",
    "SE": "soft exudates",
    "OD": "optic disc",
}

# Okabe and Ito's colour-blind-safe palette. On the orange of a retina cyan, blue, yellow, white-pink and
# green stand apart in lightness as well as in hue, so the overlay is readable in grey too.
LESION_COLOURS = {
    "MA": "#56B4E9",
    "HE": "#0072B2",
    "EX": "#F0E442",
    "SE": "#CC79A7",
    "OD": "#009E73",
}

GROUP_COLOURS = {
    "red": LESION_COLOURS["HE"],
    "yellow": LESION_COLOURS["EX"],
    "disc": LESION_COLOURS["OD"],
}
"""Colours of MTUnet's groups (`label_spaces`): each that of its larger member."""

FUSED_COLOURS = {"lesion": LESION_COLOURS["EX"]}
FUSED_NAMES = {"lesion": "lesions"}
"""PLDMLT's one group of all four lesions (`label_spaces.FUSED`)."""

GROUP_NAMES = {"red": "red lesions", "yellow": "yellow lesions", "disc": "optic disc"}

GRADES = (0, 1, 2, 3, 4)
"""Grades of the International Clinical Diabetic Retinopathy scale (Wilkinson et al., Ophthalmology 110(9),
2003).
"""

GRADE_NAMES = ("no DR", "mild", "moderate", "severe", "proliferative")
