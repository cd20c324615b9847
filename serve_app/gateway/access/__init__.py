"""Who may come in, with what scopes, and how much they may take."""
