"""The suites, one file each; `tasks.SUITES` lists them."""
