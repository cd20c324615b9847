"""Names that are asked like models and send each question to the model of its domain."""
