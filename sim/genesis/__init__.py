"""The tabletop suites in Genesis: many environments in one scene, on one device."""

KINDS = ("camera", "texture", "robot", "layout", "distractors")
"""The perturbations of `tabletop.perturb` that are known here."""
MISSING = {
    "light": "all environments of a scene share its lamps, and each episode should have its own",
    "background": "all environments of a scene share one table, and each episode should have its own colour",
}
