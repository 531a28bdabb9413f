"""A Panda-like arm at a table: suites of language-named tasks, scripted experts, the MuJoCo environment."""
