"""Taking times and comparing methods."""
