"""A recorded run executed again without a platform: its graph's and agents' code against what the journal has."""
