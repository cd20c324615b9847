"""Forms that an answer can be held to: JSON, a schema, a regular expression, a choice, a grammar, tool calls."""
