"""The tabletop suites in Genesis: many environments in one scene, on one device."""
