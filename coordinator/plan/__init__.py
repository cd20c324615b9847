"""How a run's graph unfolds: what may begin, as a pure function of what has happened. See `coordinator.scheduler`."""
