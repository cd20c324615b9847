"""The parts of the Python sandbox; the way in is tools/python_sandbox.py."""
