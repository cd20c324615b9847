"""What fits on which GPU, how fast it runs there and what it costs: shapes, devices, formulas, plans."""
