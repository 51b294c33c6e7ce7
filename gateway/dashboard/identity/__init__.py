"""Who is there: the login by an OpenID provider, and its settings."""
