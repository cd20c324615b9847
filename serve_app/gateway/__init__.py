"""HTTP in: the Agent Protocol for runs, OpenAI's API for models, documents and files, health."""
