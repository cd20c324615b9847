"""Calls of models that outlive a bad replica and a bad model: tries, breakers, fallbacks."""
