"""regrip post-trains vision-language-action (VLA) robot policies, and says honestly how much it gained."""

__version__ = "0.1.0"
