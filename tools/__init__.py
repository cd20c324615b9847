"""What agents can do: search documents and the web, fetch pages, run Python in a sandbox. No Ray but in actor.py."""
