"""HTTP in, models hosted; the composition root, where every part is handed to those that need it."""
