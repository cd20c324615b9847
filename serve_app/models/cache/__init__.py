"""Answers that are kept and given again: to equal requests, and where that is wanted to like ones."""
