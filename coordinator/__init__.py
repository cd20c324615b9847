"""What runs when: the pure scheduler, the executor that acts on it, and the journal that remembers."""
