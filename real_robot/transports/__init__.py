"""Ways to a robot; each module imports its middleware when it connects, not before."""
