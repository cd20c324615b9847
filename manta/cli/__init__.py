"""The command line. It speaks to a platform through the client, and starts one as a process."""
