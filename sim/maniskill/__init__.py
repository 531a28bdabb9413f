"""ManiSkill's tasks: names and sentences here and now, the simulator only in its own worker interpreter."""
