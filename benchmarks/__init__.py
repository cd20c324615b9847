"""Measurements that print a table and write JSON. Not tests: nothing here is timed by `make test`."""
