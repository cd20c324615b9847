"""What holds for all tests: how long an example takes decides nothing."""

from hypothesis import settings

settings.register_profile("manta", deadline=None)
settings.load_profile("manta")
