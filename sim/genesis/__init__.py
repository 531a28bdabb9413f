"""The tabletop suites in Genesis: many environments in one scene, on one device."""

KINDS = ("texture", "robot", "layout", "distractors")
"""The perturbations of `tabletop.perturb` that are known here: of the scene, not of the picture."""
